"""Memory a tracked socket: at most 400 bytes of Python objects, its call site seen before.

Told twice: exactly, as the sum of ``sys.getsizeof`` over what only this record holds; and
by ``tracemalloc``, as what the process grew by with the guard less what it grew by without.
Both after adoption: until a socket has outlived a tick it has a copy of its stack for
itself, which is a row of its own.
"""

from __future__ import annotations

import gc
import socket
import sys
import tracemalloc
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import sockguard
from benchmarks.measure import Row, row

BOUND_BYTES: Final = 400
_CONNECTIONS: Final = 400
_FRAMES: Final = 10


def _connections(frames: int) -> list[socket.socket]:
    """Connect over TCP, ``frames`` deeper than here: such a record has a peer's name, too."""
    if frames:
        return _connections(frames - 1)
    made = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(_CONNECTIONS):
            made += [socket.create_connection(listener.getsockname()), listener.accept()[0]]
    return made


def own_bytes(record: Any) -> int:
    """Return the size of ``record`` and of what it alone holds.

    The stack belongs to all of the call site, the names to thread and task; True and None
    to everybody. The garbage collector's header is part of each size.
    """
    names = set(type(record).__slots__) - {"stack", "thread", "task", "span"}
    held = [getattr(record, name) for name in names]
    own = [value for value in held if not isinstance(value, (bool, type(None)))]
    return sys.getsizeof(record) + sum(map(sys.getsizeof, own))


def _grown(guard: AbstractContextManager[Any], ticks: int) -> tuple[float, list[float], int]:
    """Return by how much each socket made the process grow, the records' own bytes, a depth."""
    with guard as guarding:
        watcher = guarding._the_engine().watcher if guarding else None
        # The call site, seen before; and the table by descriptor at its full size.
        for sock in _connections(_FRAMES):
            sock.close()
        for _ in range(ticks if watcher else 0):
            watcher.tick()
        gc.collect()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        made = _connections(_FRAMES)
        for _ in range(ticks if watcher else 0):
            watcher.tick()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        own: list[float] = []
        depth = 0
        if guarding:
            by_fd = guarding._registry.by_fd
            table = sys.getsizeof(by_fd) / len(by_fd)
            own = [own_bytes(by_fd[sock.fileno()]) + table for sock in made]
            depth = len(by_fd[made[0].fileno()].stack) // 2
        for sock in made:
            sock.close()
        return (after - before) / len(made), own, depth


def rows(*, quick: bool) -> list[Row]:
    rounds = 2 if quick else 4
    exact: list[float] = []
    traced: list[float] = []
    young: list[float] = []
    for _ in range(rounds):
        plain, _, _ = _grown(nullcontext(), 0)
        adopted, own, _ = _grown(sockguard.watch(threshold=60), 3)
        fresh, _, depth = _grown(sockguard.watch(threshold=60), 0)
        exact += own
        traced.append(adopted - plain)
        young.append(fresh - plain)
    return [
        row("memory a tracked socket, summed over its objects", "bytes", exact,
            at_most=BOUND_BYTES),
        row("memory a tracked socket, by tracemalloc", "bytes", traced, at_most=BOUND_BYTES),
        row(f"… younger than a tick, {depth} frames deep", "bytes", young),
    ]  # fmt: skip
