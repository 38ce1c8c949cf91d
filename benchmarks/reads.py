"""A send and a receive: nothing at level `light`, at most 150 ns a receive at level `full`.

At level `light` there is nothing to time: each method is the same object as before. It is
timed all the same, which shows the noise of this machine.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import nullcontext
from typing import Final

import sockguard
from benchmarks.measure import (
    Row,
    an_idle_thread,
    compare,
    in_a_thread,
    in_turn,
    more,
    row,
    timed,
)

BOUND_NS: Final = 150
_BATCH: Final = 500


def _touched(level: str) -> list[str]:
    """Return the attributes of ``socket.socket`` that ``level`` replaces."""
    before = _attributes()
    with sockguard.watch(level=level):
        now = _attributes()
    return [name for name in now if now[name] is not before.get(name)]


def _attributes() -> dict[str, object]:
    classes = reversed(socket.socket.__mro__)
    return {name: value for cls in classes for name, value in vars(cls).items()}


class Stream:
    """A pair of connected sockets, and batches of one operation on it."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        self.near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self._buffer = bytearray(1)

    def __enter__(self) -> Stream:  # noqa: PYI034  # Self is 3.11's
        return self

    def __exit__(self, *_: object) -> None:
        self.near.close()
        self.far.close()

    def recv(self, count: int) -> None:
        self.far.sendall(bytes(count))
        receive = self.near
        for _ in range(count):
            receive.recv(1)

    def recv_into(self, count: int) -> None:
        self.far.sendall(bytes(count))
        receive, buffer = self.near, self._buffer
        for _ in range(count):
            receive.recv_into(buffer)

    def send(self, count: int) -> None:
        send = self.far
        for _ in range(count):
            send.send(b"x")
        self.near.recv(count)


def _more(
    what: str, batch: Callable[[int], None], level: str, pairs: int, at_most: int | None = None
) -> Row:
    measured = in_a_thread(lambda: compare(batch, _BATCH, level, pairs))
    return more(f"{what}, {level}", "ns", measured, at_most=at_most)


def _second_thread(batch: Callable[[int], None], pairs: int) -> Row:
    measured = in_turn(
        lambda: timed(batch, _BATCH, nullcontext()),
        lambda: timed(batch, _BATCH, an_idle_thread()),
        pairs,
    )
    return more(
        "a receive, for a second thread in the process, unguarded", "ns", measured,
        note="the kernel's price of any thread, and so of the watcher's",
    )  # fmt: skip


def rows(*, quick: bool) -> list[Row]:
    pairs = 80 if quick else 300
    touched = [name for name in _touched("light") if name != "__init__"]
    with Stream() as stream:
        return [
            row("methods but __init__ that light replaces", "", [len(touched)], at_most=0),
            _more("a send", stream.send, "light", pairs),
            _more("a receive", stream.recv, "light", pairs),
            _more("a receive (recv)", stream.recv, "full", pairs, BOUND_NS),
            _more("a receive (recv_into)", stream.recv_into, "full", pairs, BOUND_NS),
            _second_thread(stream.recv, pairs),
        ]
