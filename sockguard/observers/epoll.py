"""``epoll(7)``, edge-triggered on EPOLLRDHUP: which of many sockets got a FIN, for nearly nothing.

A hint, never a verdict: our own ``shutdown(SHUT_RD)``, a fresh socket, and a descriptor
that was duplicated, closed here and reused all raise it too.
"""

from __future__ import annotations

import _socket
import os
import select
from typing import Any, Final

from sockguard.descriptors import identity, move_high
from sockguard.native import original

# EPOLLRDHUP: the peer sent FIN; unread bytes may remain. EPOLLET: reported once a change,
# and deaf to arriving data. EPOLLHUP and EPOLLERR are always on. epoll_ctl(2)
_EVENTS: Final = select.EPOLLRDHUP | select.EPOLLET
_BATCH: Final = 1023


class EpollSet:
    """An epoll instance that knows whether its descriptor is still its own."""

    def __init__(self) -> None:
        # A socket that is never connected: it has an inode of its own to be known by
        # (an epoll has not), and can be registered (a file can't).
        self._sentinel = move_high(_socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM).detach())
        self._identity = identity(self._sentinel)
        try:
            self._epoll = _high_epoll()
            self._epoll.register(self._sentinel, 0)
        except BaseException:
            os.close(self._sentinel)
            raise

    def is_ours(self) -> bool:
        """Tell whether both descriptors are still ours: two system calls.

        ``modify`` touches only an epoll that has the sentinel, which has our inode.
        """
        if identity(self._sentinel) != self._identity:
            return False
        try:
            self._epoll.modify(self._sentinel, 0)
        except OSError:  # EBADF: closed; ENOENT, EINVAL: another's
            return False
        return True

    def add(self, fd: int) -> None:
        """Watch ``fd``; watch it afresh if it is watched already. Raises ``OSError``."""
        try:
            self._epoll.register(fd, _EVENTS)
        except FileExistsError:
            self._epoll.modify(fd, _EVENTS)

    def poll(self) -> list[int]:
        """Return the descriptors with news, without waiting."""
        found: list[int] = []
        while True:
            events = self._epoll.poll(0, _BATCH)
            found += [fd for fd, _ in events if fd != self._sentinel]
            if len(events) < _BATCH:
                return found

    def close(self) -> None:
        """Close what is still ours; leave to its new owner what is not."""
        if self.is_ours():
            self._epoll.close()
        else:
            _abandon(self._epoll)
        if identity(self._sentinel) == self._identity:
            os.close(self._sentinel)


def _high_epoll() -> Any:
    """Make an epoll out of the program's way: it finds the low numbers free."""
    epoll = original("select", "epoll")
    with epoll() as low:
        return epoll.fromfd(move_high(os.dup(low.fileno())))


def _abandon(epoll: Any) -> None:
    # Freed, the object would close a number that is the program's by now, and it has no
    # detach(): one reference more than anybody will ever give back.
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(epoll))
