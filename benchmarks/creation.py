"""Creating a socket, 16 frames deep: at most 4 µs more (aim: 2.5).

Created and closed, so that level `full` shows its finalizer, too. The frames stand while
the sockets are made, as those of a loop that accepts do. Where they are entered anew for
every socket, as in a request handler, the interpreter has to make an object of each to walk
over it: a row of its own.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from sys import _getframe
from typing import Final

from benchmarks.measure import LEVELS, Pair, Row, compare, in_a_thread, more

FRAMES: Final = 16
BOUND_NS: Final = 4000
_BATCH: Final = 200


def _make_one(frames: int) -> None:
    if frames > 1:
        _make_one(frames - 1)
    else:
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).close()


def _standing() -> int:
    frame, count = _getframe(1), 0
    while frame is not None:
        frame, count = frame.f_back, count + 1  # type: ignore[assignment]
    return count


def _make_many(frames: int, count: int) -> None:
    if frames > 1:
        _make_many(frames - 1, count)
    else:
        for _ in range(count):
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).close()


def standing_frames(count: int) -> None:
    """Make ``count`` sockets, ``FRAMES`` deep."""
    _make_many(FRAMES - _standing(), count)


def _fresh_frames(count: int) -> None:
    fresh = FRAMES - _standing()
    for _ in range(count):
        _make_one(fresh)


def _pairs(batch: Callable[[int], None], level: str, pairs: int) -> list[Pair]:
    return in_a_thread(lambda: compare(batch, _BATCH, level, pairs))


def _in_a_task(level: str, pairs: int) -> list[Pair]:
    import asyncio

    def batch(count: int) -> None:
        async def make() -> None:
            for _ in range(count):
                _make_one(3)

        asyncio.run(make())

    return in_a_thread(lambda: compare(batch, 500, level, pairs))


def rows(*, quick: bool) -> list[Row]:
    pairs = 80 if quick else 300
    bound: dict[str, float] = {"at_most": BOUND_NS}
    created = [
        more(f"creating a socket, {FRAMES} frames deep, {level}", "ns",
             _pairs(standing_frames, level, pairs), **bound)
        for level in LEVELS
    ]  # fmt: skip
    return [
        *created,
        more("… its frames entered anew for each, light", "ns",
             _pairs(_fresh_frames, "light", pairs)),
        more("… in an asyncio task, light", "ns", _in_a_task("light", pairs // 2)),
    ]  # fmt: skip
