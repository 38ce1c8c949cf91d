"""Asking the kernel which peers have closed.

An observer never changes what the program can see: it reads no byte, sets no option,
fetches no pending error, and keeps no duplicate of a descriptor.
"""

from __future__ import annotations

import select
import sys
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from sockguard.findings import Evidence, Observation
from sockguard.native import original
from sockguard.records import SocketRecord


class Observer(Protocol):
    """How a watcher asks. All methods: one thread at a time, under the watcher's lock."""

    name: str

    def adopt(self, fd: int) -> None:
        """Begin to watch the stream socket with this descriptor. Raises nothing."""

    def harvest(self) -> Iterable[int]:
        """Return descriptors that may be in trouble: a hint, each once per change.

        Raises ``LostError`` when the kernel no longer knows us: adopt all again.
        """

    def observe(self, sock: object, record: SocketRecord) -> Observation | None:
        """Return the state of ``sock`` now; ``None`` when it can't be told."""

    def evidence(self, sock: object, record: SocketRecord) -> Evidence:
        """Look closer, once a finding. Unknown is ``None``. Raises nothing."""

    def close(self) -> None:
        """Give back what is ours. Raises nothing."""


class LostError(Exception):
    """Our descriptors were closed by the program; everything has been made anew."""


class Choice(NamedTuple):
    """An observer's name and why it was chosen."""

    name: str
    reason: str


def choose(wanted: str = "auto") -> Choice:
    """Choose the observer for this system, and say why.

    ``wanted`` is ``auto``, ``epoll`` or ``portable`` (option ``--observer``).
    """
    if wanted == "portable":
        return Choice("portable", "asked for")
    try:
        original("select", "epoll")
    except AttributeError:
        epoll = False
    else:
        epoll = sys.platform == "linux" and hasattr(select, "EPOLLRDHUP")
    if epoll:
        return Choice("epoll", "asked for" if wanted == "epoll" else "Linux with EPOLLRDHUP")
    return Choice("portable", f"no epoll with EPOLLRDHUP on {sys.platform}")


def build(name: str) -> Observer:
    """Make the observer that ``choose`` named."""
    if name == "epoll":
        from sockguard.observers.linux import LinuxObserver

        return LinuxObserver()
    from sockguard.observers.portable import PortableObserver

    return PortableObserver()
