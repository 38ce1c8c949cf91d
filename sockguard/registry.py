"""The tracked sockets, by descriptor.

Written by the application's threads without a lock: one dict store a socket. Nothing is
ever deleted (between a look and a deletion another thread may file a new socket under the
number), so the table is bounded by the highest descriptor that the process ever had.
"""

from __future__ import annotations

import _socket
import itertools
import socket
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from sockguard import endpoints
from sockguard.records import SocketRecord

_fileno: Final = _socket.socket.fileno

# Freed without close, and not yet looked at by the watcher: the newest, not more.
MAX_COLLECTED: Final = 10_000


def alive(record: SocketRecord) -> socket.socket | None:
    """Return the record's socket while it still has the descriptor it was filed under."""
    sock = record()
    if sock is not None and fileno(sock) == record.fd:
        inner: socket.socket | None = endpoints.plain(sock)
        return inner
    return None


def reachable(filed: SocketRecord | None) -> SocketRecord | None:
    """Return the record of whoever has the descriptor: ``filed``, or one that it hides."""
    while filed is not None and alive(filed) is None:
        filed = filed.previous
    return filed


def fileno(sock: Any) -> int:
    """Return the descriptor of ``sock``, -1 when closed, past any override of a subclass."""
    try:
        fd: int = _fileno(sock)
    except TypeError:  # not made of _socket.socket: gevent's class
        fd = sock.fileno()
    return fd


class Collected(NamedTuple):
    """A socket as it was when it was freed unclosed."""

    record: SocketRecord
    tcp_info: bytes | None
    local: Any
    at_ns: int


class Registry:
    """Where the hooks file what they noted, and the watcher looks."""

    def __init__(self) -> None:
        self.by_fd: dict[int, SocketRecord] = {}
        #: Sockets of the process that forked us; it reports them, we know their origin.
        self.inherited: dict[int, SocketRecord] = {}
        #: The latest record: when it has not changed, no socket came.
        #: One item, because storing one is cheaper than setting an attribute.
        self.latest: list[SocketRecord | None] = [None]
        self.next_serial: Any = itertools.count(1).__next__
        #: Sockets freed without close, with the kernel's last words: level `full`.
        self.collected: deque[Collected] = deque(maxlen=MAX_COLLECTED)
        self.notes_freed = False
        #: Who is told of each new socket, in its thread: mostly nobody, which costs nothing.
        #: After a fork, whoever starts the watcher again; under pytest, who blames tests.
        self.told: list[Callable[[SocketRecord], object]] = []
        self._before = 0

    @property
    def newest(self) -> SocketRecord | None:
        return self.latest[0]

    def records(self) -> list[SocketRecord]:
        """Return all records, those of sockets long gone included. Any thread; atomic."""
        return list(self.by_fd.values())

    def live(self) -> Iterator[tuple[SocketRecord, socket.socket]]:
        """Yield each tracked socket that is open, also one hidden by a later object.

        Two objects may share a descriptor (``socket(fileno=…)``): the later is filed, the
        earlier is reached through ``previous`` while the later does not have it any more.
        """
        for filed in self.records():
            record = reachable(filed)
            sock = None if record is None else alive(record)
            if record is not None and sock is not None:
                yield record, sock

    def tracked(self) -> int:
        """Return how many sockets this process has tracked, ever."""
        newest = self.newest
        return newest.serial - self._before if newest is not None else 0

    def begin_child(self) -> None:
        """After a fork, in the child: what was tracked is the parent's to report."""
        self.inherited = {**self.inherited, **self.by_fd}
        self.by_fd.clear()
        if self.newest is not None:
            self._before = self.newest.serial
        self.latest[0] = None
        self.collected.clear()
