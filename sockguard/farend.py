"""The other end of a connection, where it is on this host: whose it is, and how it stands."""

from __future__ import annotations

import _socket
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from sockguard import endpoints, narrate
from sockguard.descriptors import identity
from sockguard.findings import FarEnd, Origin
from sockguard.interrupts import is_programs
from sockguard.observers import sock_diag, tcp_info
from sockguard.records import SocketRecord
from sockguard.registry import Registry, alive, reachable
from sockguard.stderr import complain
from sockguard.tcp import TcpState

Ends = tuple[Any, Any]

#: A search through the processes of this host takes no longer.
BUDGET_NS: Final = 50_000_000
# Processes that had a far end before, and are asked first.
_MAX_RECENT: Final = 8
_MAX_LEFT_OFF: Final = 64
_MAPPED: Final = "::ffff:"


class FarEnds:
    """Finds the other ends of this process's connections. Under the watcher's lock."""

    def __init__(self, registry: Registry, depth: int) -> None:
        """``depth``: how many frames of a creation stack are told."""
        self._registry: Final = registry
        self._depth: Final = depth
        self._search: Final = _Search()

    def find(self, record: SocketRecord, *, budget_ns: int = BUDGET_NS) -> FarEnd | None:
        """Return the far end of ``record``; ``None`` if it is not here, or long gone.

        Here is this network namespace. Costs 1 µs a tracked socket and one netlink request
        (0.1 ms); for a far end in another process a look at what processes have open too,
        ``budget_ns`` at most: one that ran out of time says unknown, and goes on where it
        was at the next call. Raises nothing.

        The kernel forgets a closed far end after a minute (tcp_fin_timeout): ask early.
        """
        try:
            return self._find(record, budget_ns)
        except Exception as error:  # the program's audit hook may forbid anything
            if is_programs(error):
                raise
            complain(f"the far end of a connection could not be told: {error!r}")
            return None

    def _find(self, record: SocketRecord, budget_ns: int) -> FarEnd | None:
        sock = alive(record)
        if sock is None or not endpoints.is_stream(sock):
            return None
        if endpoints.is_unix(sock):
            return self._find_unix(record, sock, budget_ns)
        local, peer = endpoints.raw_local(sock), endpoints.raw_peer(sock)
        if local is None or peer is None:
            return None
        far = self._tracked_at(peer, local)
        if far is not None:
            return self._ours(far)
        found = sock_diag.connection(endpoints.family(sock), peer, local)
        if found is None:
            return None
        return self._held(found.state, found.inode, found.uid, budget_ns)

    def origin_of(self, inode: int, fd: int) -> Origin | None:
        """Return where the socket ``inode`` was made that this process has as ``fd``."""
        for table in (self._registry.by_fd, self._registry.inherited):
            record = reachable(table.get(fd))
            known = None if record is None else identity(record.fd)
            if record is not None and known is not None and known.inode == inode:
                return narrate.origin(record, self._depth)
        return None

    def _find_unix(self, record: SocketRecord, sock: Any, budget_ns: int) -> FarEnd | None:
        known = identity(record.fd)
        inode = None if known is None else sock_diag.unix_peer(known.inode)
        if inode is None or alive(record) is not sock:
            return None
        for far, other in self._tracked() if inode else ():
            if endpoints.is_unix(other):
                known = identity(far.fd)
                if known is not None and known.inode == inode:
                    return self._ours(far)
        return self._held(None, inode, None, budget_ns)

    def _tracked(self) -> Iterator[tuple[SocketRecord, Any]]:
        for filed in (*self._registry.records(), *self._registry.inherited.values()):
            record = reachable(filed)
            sock = None if record is None else alive(record)
            if record is not None and sock is not None:
                yield record, sock

    def _tracked_at(self, local: Any, peer: Any) -> SocketRecord | None:
        """Return the record of the TCP connection that has these two ends."""
        wanted = (plain_address(local), plain_address(peer))
        # What it calls its peer is noted with most records: few need a system call.
        names = _names(peer)
        for far, sock in self._tracked():
            if not (far.peer is None or far.peer in names):
                continue
            if (
                endpoints.is_stream(sock)
                and not endpoints.is_unix(sock)
                and ends_of(sock) == wanted
            ):
                return far
        return None

    def _ours(self, far: SocketRecord) -> FarEnd | None:
        sock, known = alive(far), identity(far.fd)
        if sock is None or known is None:  # closed in this instant
            return None
        is_tcp = sys.platform == "linux" and not endpoints.is_unix(sock)
        info = tcp_info.read(sock) if is_tcp else None
        return FarEnd(
            state=None if info is None else tcp_info.decode(info).state,
            pid=os.getpid(),
            fd=far.fd,
            created=narrate.origin(far, self._depth),
            process=_command(os.getpid()),
            inode=known.inode,
            held=True,
        )

    def _held(self, state: TcpState | None, inode: int, uid: int | None, budget_ns: int) -> FarEnd:
        if not inode:
            return FarEnd(state=state, held=False)
        # Another user's descriptors are shown to root alone. proc(5)
        hidden = uid is not None and os.geteuid() not in (0, uid)
        found = None if hidden else self._search.holder(inode, budget_ns)
        if found is None:
            return FarEnd(state=state, inode=inode, held=True)
        pid, fd = found
        return FarEnd(
            state=state,
            pid=pid,
            fd=fd,
            created=self.origin_of(inode, fd),
            process=_command(pid),
            inode=inode,
            held=True,
        )


# -- the two ends ----------------------------------------------------------------------


def plain_address(address: Any) -> Any:
    """Return a TCP address as both sides would say it: IPv4 in IPv6, no flow and scope."""
    if not isinstance(address, tuple):
        return address
    host = str(address[0])
    return (host[7:] if host.startswith(_MAPPED) and "." in host else host, address[1])


def ends_of(sock: Any) -> Ends | None:
    """Return what the socket calls its two ends; of AF_UNIX, the inodes."""
    if endpoints.is_unix(sock):
        mine = identity(_socket.socket.fileno(sock))
        theirs = None if mine is None else sock_diag.unix_peer(mine.inode)
        return (mine.inode, theirs) if mine is not None and theirs else None
    local, peer = endpoints.raw_local(sock), endpoints.raw_peer(sock)
    return None if local is None or peer is None else (plain_address(local), plain_address(peer))


def _names(address: Any) -> set[str | None]:
    """Return the words that a peer may have for ``address``."""
    host, port = plain_address(address)
    return {endpoints.render((host, port)), endpoints.render((_MAPPED + host, port))}


# -- who has it ------------------------------------------------------------------------


class _Search:
    """Looks through /proc for a process that has a socket. proc(5)

    No step holds the GIL for longer than the interpreter's switch interval: each system
    call lets go of it. About 10 µs a descriptor.
    """

    def __init__(self) -> None:
        self._recent: list[int] = []
        # By inode: the process and the descriptor at which time ran out.
        self._left_off: dict[int, tuple[int, int]] = {}

    def holder(self, inode: int, budget_ns: int) -> tuple[int, int] | None:
        """Return pid and descriptor; ``None`` if out of time, or if we may not see it."""
        deadline_ns = time.monotonic_ns() + budget_ns
        name = f"socket:[{inode}]"
        for pid, after in self._in_turn(*self._left_off.pop(inode, (0, -1))):
            fd, last = _descriptor(pid, name, after, deadline_ns)
            if fd is not None:
                self._recent = [pid, *(other for other in self._recent if other != pid)]
                del self._recent[_MAX_RECENT:]
                return pid, fd
            if time.monotonic_ns() >= deadline_ns:
                # The next one, if this was seen to the end.
                self._left_off[inode] = (pid + 1, -1) if last is None else (pid, last)
                if len(self._left_off) > _MAX_LEFT_OFF:
                    del self._left_off[next(iter(self._left_off))]
                return None
        return None

    def _in_turn(self, left_off: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield processes, and the descriptors up to which each has been seen."""
        try:
            pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
        except OSError:
            return
        recent = self._recent
        if not left_off:
            yield from ((pid, -1) for pid in recent)
            yield from ((pid, -1) for pid in pids if pid not in recent)
            return
        pids.sort(key=lambda pid: pid < left_off)
        yield from ((pid, last if pid == left_off else -1) for pid in pids)


def _descriptor(pid: int, name: str, after: int, deadline_ns: int) -> tuple[int | None, int | None]:
    """Return the descriptor of ``pid`` above ``after`` that is ``name``.

    And the last one that was seen, if time ran out there.
    """
    with suppress(OSError), os.scandir(f"/proc/{pid}/fd") as descriptors:
        for entry in descriptors:
            fd = int(entry.name)
            if fd <= after:
                continue
            with suppress(OSError):  # closed meanwhile
                if os.readlink(entry.path) == name:
                    return fd, None
            if time.monotonic_ns() >= deadline_ns:
                return None, fd
    return None, None


def _command(pid: int) -> str | None:
    with suppress(OSError), open(f"/proc/{pid}/comm", "rb") as file:
        return file.read().decode("utf-8", "replace").strip() or None
    return None
