"""Functions let go of a connection while they still run: nobody else may have kept it.

Each runs in a frame of its own kind. When told to by a line of input, each sets its variable
to None and goes on waiting; the program then says which connections were closed by that.
"""

import asyncio
import os
import sys
import threading
import weakref

import peer

GO = threading.Event()
OVER = threading.Event()
FDS = {}
CLOSED = {}


def watch(name, sock):
    FDS[name] = sock.fileno()
    CLOSED[name] = threading.Event()
    weakref.finalize(sock, CLOSED[name].set).atexit = False


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def innermost_frame():
    conn = peer.abandoned()
    watch("innermost_frame", conn)
    GO.wait()
    conn = None
    OVER.wait()


def outer_frame():
    conn = peer.abandoned()
    watch("outer_frame", conn)
    (lambda: GO.wait())()
    conn = None
    (lambda: OVER.wait())()


def shared_variable():
    conn = peer.abandoned()
    watch("shared_variable", conn)

    def wait():
        nonlocal conn
        GO.wait()
        conn = None
        OVER.wait()

    wait()


def own_snapshot():
    conn = peer.abandoned()
    watch("own_snapshot", conn)
    GO.wait()
    conn = None
    OVER.wait()
    locals()


def through_an_object():
    class Client:
        pass

    client = Client()
    client.sock = peer.abandoned()
    watch("through_an_object", client.sock)
    GO.wait()
    client = None
    OVER.wait()


def rows():
    conn = peer.abandoned()
    watch("generator", conn)
    yield 1
    conn = None
    yield 2


def generator():
    suspended = rows()
    next(suspended)
    GO.wait()
    next(suspended)
    OVER.wait()


async def task(go, over):
    conn = peer.abandoned()
    watch("coroutine", conn)
    await go.wait()
    conn = None
    await over.wait()


async def wait_in_a_task():
    go, over = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(task(go, over), name="coroutine")
    await asyncio.to_thread(GO.wait)
    go.set()
    await asyncio.to_thread(OVER.wait)
    over.set()
    await running


def coroutine():
    asyncio.run(wait_in_a_task())


KINDS = (
    innermost_frame,
    outer_frame,
    shared_variable,
    own_snapshot,
    through_an_object,
    generator,
    coroutine,
)
threads = [threading.Thread(target=kind, name=kind.__name__) for kind in KINDS]
for thread in threads:
    thread.start()
peer.wait_for_close_wait(len(KINDS))
peer.say(fds=FDS)
sys.stdin.readline()
GO.set()
patience = peer.time.monotonic() + 5
told = {
    name: closed.wait(max(0, patience - peer.time.monotonic())) for name, closed in CLOSED.items()
}
peer.say(
    freed=sorted(name for name, is_told in told.items() if is_told),
    open=sorted(name for name, fd in FDS.items() if is_open(fd)),
    alive=sorted(thread.name for thread in threads if thread.is_alive()),
)
sys.stdin.read()
OVER.set()
for thread in threads:
    thread.join()
