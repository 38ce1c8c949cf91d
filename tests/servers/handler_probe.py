"""Which handler has the connection? Asked inside a server, from a thread as the watcher's.

The way outward is found as a holder search finds it: by the collector's referrers, and by
the local variables of running frames, which the collector does not see.
"""

import gc
import socket
import sys
import threading
from types import FrameType, ModuleType

from sockguard import handlers, inside
from sockguard.native import original

MAX_LEVELS = 10


def accepted(port, peer_port=None):
    """Return this process's sockets that were accepted on ``port``."""
    found = []
    for thing in gc.get_objects():
        if issubclass(type(thing), socket.socket) and thing.fileno() >= 0:
            try:
                ours, peers = thing.getsockname()[1], thing.getpeername()[1]
            except (OSError, IndexError):
                continue
            if ours == port and peer_port in (None, peers):
                found.append(thing)
    return found


def running():
    """Yield the frames of each other thread and each suspended greenlet, innermost first."""
    ours = original("_thread", "get_ident")()
    tops = [top for ident, top in sys._current_frames().items() if ident != ours]
    if "greenlet" in sys.modules:
        greenlet = sys.modules["greenlet"].greenlet
        green = [thing for thing in gc.get_objects() if issubclass(type(thing), greenlet)]
        tops += [thing.gr_frame for thing in green if thing.gr_frame]
    for top in tops:
        frames = []
        while top is not None:
            frames.append(top)
            top = top.f_back
        yield frames


def way_out(sock):
    """Return the objects from ``sock`` to the first that has a name, then the thread's frames."""
    ours = set()
    frame = sys._getframe()
    while frame is not None:
        ours.add(id(frame))
        frame = frame.f_back
    holders = {}
    for frames in running():
        for frame in frames:
            ours.add(id(frame))
            for value in inside.locals_of(frame).values():
                holders.setdefault(id(value), frames)
    names = {
        id(vars(module)) for module in list(sys.modules.values()) if type(module) is ModuleType
    }
    inner, level = {id(sock): None}, [sock]
    ours |= {id(holders), id(names), id(inner), id(sys.modules), id(ours)}
    for _ in range(MAX_LEVELS):
        ours.add(id(level))
        for thing in level:
            if id(thing) in holders or id(thing) in names or type(thing).__name__ == "Task":
                chain = []
                at = thing
                while at is not None:
                    chain.append(at)
                    at = inner[id(at)]
                return [*reversed(chain), *holders.get(id(thing), ())]
        outward = []
        ours.add(id(outward))
        here = {id(thing): thing for thing in level}
        ours.add(id(here))
        for referrer in gc.get_referrers(*level):
            if id(referrer) in ours or id(referrer) in inner or type(referrer) is ModuleType:
                continue
            if type(referrer) is FrameType and referrer.f_code.co_filename == __file__:
                continue
            for thing in gc.get_referents(referrer):
                if id(thing) in here:
                    inner[id(referrer)] = thing
                    outward.append(referrer)
                    break
        level = outward
    return [sock]


def handler_of(port, peer_port=None):
    """Return the handler of the connection accepted on ``port``, asked from another thread."""
    answer = []

    def ask():
        for sock in accepted(port, peer_port):
            chain = way_out(sock)
            answer.append(handlers.handler(chain))
            del sock, chain

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert len(answer) == 1, answer
    return answer[0]
