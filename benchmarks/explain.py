"""Who holds it, asked on a large heap: at most 300 ms a group, no GIL hold over 50 ms.

A process of its own for each heap, of so many objects that the collector tracks. There are
leaked connections: some hops from a module's global, in a thread's frame, in a cycle.
Each is explained as the watcher's thread does it. Meanwhile another thread does nothing but
read the clock of the process's processor time, and notes the longest time that it could not:
once with the search, once with a loop of Python in its place, which takes turns at the GIL as
any thread does. That clock stands still while the machine is at another program.

A heap that is too large for a pass within the bound is not searched, which is said.
"""

from __future__ import annotations

import gc
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final

import sockguard
from benchmarks.measure import Row, in_a_thread, row
from sockguard.explainer import Explainer
from sockguard.findings import Holding
from sockguard.records import SocketRecord

SEARCH_BOUND_MS: Final = 300
HOLD_BOUND_MS: Final = 50
HEAPS: Final = (100_000, 1_000_000)
TOO_LARGE: Final = 5_000_000
_NS_PER_MS: Final = 1_000_000
_HOPS: Final = 3
_TURN_S: Final = 0.2


class Link:
    """An object of the program with an attribute."""

    def __init__(self, inner: object) -> None:
        self.inner = inner


# -- in a process with a large heap ----------------------------------------------------

POOL: list[Link] = []


def _filled(count: int) -> list[Any]:
    """Return ``count`` tracked objects: a tree of lists, its leaves instances and their kin."""
    heap: list[Any] = []
    while len(heap) * 4 < count:
        link = Link(inner := [None])
        heap.append([link, {"inner": inner}])  # a list, a Link, its list, a dict
    return heap


def _in_a_global(sock: socket.socket, stack: ExitStack) -> None:
    link = Link(sock)
    for _ in range(_HOPS - 1):
        link = Link([link])
    POOL.append(link)


def _in_a_frame(sock: socket.socket, stack: ExitStack) -> None:
    ready, end = threading.Event(), threading.Event()
    waiting = [sock]

    def hold() -> None:
        kept = Link(waiting.pop())
        ready.set()
        end.wait()
        del kept

    thread = threading.Thread(target=hold, name="holder")
    thread.start()
    stack.callback(thread.join)
    stack.callback(end.set)
    ready.wait()


def _in_a_cycle(sock: socket.socket, stack: ExitStack) -> None:
    link = Link(sock)
    link.inner = [link, sock]


def _longest_wait_of(work: Callable[[], object]) -> float:
    """Return the longest time, in ms, that a thread had to wait for the GIL during ``work``."""
    longest, running, over = 0, threading.Event(), threading.Event()

    def read_the_clock() -> None:
        nonlocal longest
        before = time.process_time_ns()
        running.set()
        while not over.is_set():
            now = time.process_time_ns()
            longest = max(longest, now - before)
            before = now

    reader = threading.Thread(target=read_the_clock)
    reader.start()
    running.wait()
    try:
        work()
    finally:
        over.set()
        reader.join()
    return longest / _NS_PER_MS


def _take_turns() -> None:
    end = time.monotonic() + _TURN_S
    while time.monotonic() < end:
        sum(range(100))


def _explained(
    keep: Callable[[socket.socket, ExitStack], None], guard: Any, rounds: int
) -> dict[str, Any]:
    """Explain ``rounds`` connections, kept by ``keep``; return what it took and what was said."""
    # By one explainer, as in a service: what a pass takes is learned.
    explainer = Explainer(most_ns=SEARCH_BOUND_MS * _NS_PER_MS, depth=24)
    took: list[float] = []
    said: list[Holding | None] = []
    waits = []
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        for _ in range(rounds):
            sock = socket.create_connection(listener.getsockname())
            record = guard._registry.by_fd[sock.fileno()]
            stack.enter_context(listener.accept()[0])
            keep(sock, stack)
            del sock

            def explain(record: SocketRecord = record) -> None:
                began = time.thread_time_ns()
                said.append(explainer.explain(record, "a group", anew=True, asked=True))
                took.append((time.thread_time_ns() - began) / _NS_PER_MS)

            waits.append(_longest_wait_of(lambda: in_a_thread(explain)))
    known = [holding for holding in said if holding is not None]
    words = [", ".join([one.held_by.value, *one.paths[:1]]) for one in known]
    cuts = [one.cut for one in known if one.cut is not None]
    return {"took": took, "waits": waits, "words": words, "cuts": cuts}


_PLACES: Final = {"global": _in_a_global, "frame": _in_a_frame, "cycle": _in_a_cycle}


def measure(count: int, rounds: int) -> dict[str, Any]:
    """Explain connections in each place, beside so many objects."""
    gc.disable()  # no collection is to run: it would free the cycles, and be taken for a search
    heap = _filled(count)
    blocks = sys.getallocatedblocks()
    with sockguard.watch(threshold=0) as guard:
        places = {name: _explained(keep, guard, rounds) for name, keep in _PLACES.items()}
    turns = [_longest_wait_of(lambda: in_a_thread(_take_turns)) for _ in range(rounds)]
    del heap
    return {"places": places, "turns": turns, "blocks": blocks}


# -- the table -------------------------------------------------------------------------


def _measured(count: int, rounds: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.explain", str(count), str(rounds)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _note(place: dict[str, Any]) -> str:
    """Return what was said of the first, and of how many all was not found."""
    note = place["words"][0] if place["words"] else "nothing"
    if cuts := place["cuts"]:
        note += f"; {len(cuts)} of {len(place['took'])} cut: {cuts[0]}"
    return note


def _rows_of(count: int, rounds: int) -> list[Row]:
    answer = _measured(count, rounds)
    beside = f"{count:,} objects"
    table = [
        row(f"explaining what a {name} holds, {beside}", "ms", place["took"],
            at_most=SEARCH_BOUND_MS, note=_note(place))
        for name, place in answer["places"].items()
    ]  # fmt: skip
    # The promise is about each pass: the worst one is judged.
    worst = max(max(place["waits"]) for place in answer["places"].values())
    return [
        *table,
        row(f"… the longest wait of another thread, {beside}", "ms", [worst],
            at_most=HOLD_BOUND_MS, note=f"{answer['blocks']:,} memory blocks"),
        row("… beside a loop of Python instead", "ms", answer["turns"]),
    ]  # fmt: skip


def rows(*, quick: bool) -> list[Row]:
    heaps = HEAPS if quick else (*HEAPS, TOO_LARGE)
    return [one for count in heaps for one in _rows_of(count, 3 if quick else 7)]


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), int(sys.argv[2]))))
