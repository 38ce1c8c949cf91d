"""The observer for systems without epoll or TCP_INFO: ``poll(2)`` and a peek.

What it can't know: the age of a FIN older than its first look (the clock starts there), a
FIN behind unread data, and whether a half-close is still being answered. So it finds later
than the Linux observer, and a slow answer to a half-closed client looks like a leak to it, as
does a socket that we have shut down ourselves and left open: a TCP socket for reading, an
AF_UNIX socket both ways.
"""

from __future__ import annotations

import _socket
import select
from collections.abc import Iterable
from typing import Any, Final

from sockguard import endpoints
from sockguard.findings import Evidence, Observation
from sockguard.native import original
from sockguard.records import SocketRecord
from sockguard.registry import fileno
from sockguard.tcp import TcpState

_DONTWAIT: Final = getattr(_socket, "MSG_DONTWAIT", 0)


class _Select:
    """``poll`` for one descriptor where there is only ``select`` (Windows)."""

    READABLE: Final = 1
    HUNG_UP: Final = 0
    ERROR: Final = 0

    def events(self, fd: int) -> int:
        try:
            readable, _, _ = select.select([fd], [], [], 0)
        except (OSError, ValueError):
            return 0
        return self.READABLE if readable else 0


class _Poll:
    def __init__(self) -> None:
        self.READABLE: Final = select.POLLIN
        self.HUNG_UP: Final = select.POLLHUP
        self.ERROR: Final = select.POLLERR
        self._poll: Any = original("select", "poll")

    def events(self, fd: int) -> int:
        poll = self._poll()
        poll.register(fd, select.POLLIN)
        try:
            return next((mask for _, mask in poll.poll(0)), 0)
        except OSError:
            return 0


class PortableObserver:
    """Asks every adopted socket at every tick: about 3 µs each."""

    name = "portable"

    def __init__(self) -> None:
        self._fds: set[int] = set()
        try:
            self._poll: _Poll | _Select = _Poll()
        except AttributeError:
            self._poll = _Select()

    def adopt(self, fd: int) -> None:
        self._fds.add(fd)

    def harvest(self) -> Iterable[int]:
        return tuple(self._fds)

    def observe(self, sock: object, record: SocketRecord) -> Observation | None:
        poll = self._poll
        events = poll.events(record.fd)
        if fileno(sock) != record.fd:  # closed meanwhile: the number may be another's
            self._fds.discard(record.fd)
            return None
        if endpoints.is_unix(sock):
            connected = endpoints.raw_peer(sock) is not None  # a fresh one hangs up as well
            return Observation(
                state=None, hung_up=connected and bool(events & poll.HUNG_UP), connected=connected
            )
        if endpoints.is_listening(sock):
            return Observation(state=TcpState.LISTEN)
        if events & (poll.HUNG_UP | poll.ERROR):
            return self._dead(sock, record)
        if events & poll.READABLE and self._at_end(sock):
            return Observation(state=TcpState.CLOSE_WAIT, connected=True)
        return Observation(state=None)

    @staticmethod
    def _dead(sock: Any, record: SocketRecord) -> Observation:
        # Both directions are over. Still connected: we have shut down too, the kernel is
        # finishing. Not connected, and once was: reset, timed out or finished.
        if endpoints.raw_peer(sock) is not None:
            return Observation(state=TcpState.LAST_ACK, connected=True)
        connected = record.peer is not None or bool(record.accepted)
        return Observation(state=TcpState.CLOSED, connected=connected)

    @staticmethod
    def _at_end(sock: Any) -> bool:
        # Only after poll(2) saw no error: a peek would fetch the pending ECONNRESET,
        # which is the program's to see.
        try:
            return not _socket.socket.recv(sock, 1, _socket.MSG_PEEK | _DONTWAIT)
        except OSError:
            return False

    def evidence(self, sock: object, record: SocketRecord) -> Evidence:
        local, peer = endpoints.raw_local(sock), endpoints.raw_peer(sock)
        pending = bool(self._poll.events(record.fd) & self._poll.ERROR)
        return Evidence(
            local=endpoints.render(local),
            peer=record.peer or endpoints.render(peer),
            unread_bytes=endpoints.unread_bytes(record.fd),
            end_unread=True if pending and not endpoints.is_unix(sock) else None,
            closed_by_program=endpoints.closed_by_program(sock),
        )

    def close(self) -> None:
        self._fds.clear()
