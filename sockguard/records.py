"""What is known of a socket: noted by the program's thread, said by the kernel, concluded."""

from __future__ import annotations

import enum
import socket
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sockguard.stacks import Frame, Stack
from sockguard.tcp import TcpState

if TYPE_CHECKING:
    _SocketRef = weakref.ref[socket.socket]
else:
    _SocketRef = weakref.ref


class Eof:
    """The moment the program was told that the peer is gone: an empty read, or ECONNRESET."""

    __slots__ = ("at_ns", "stack", "task", "thread")

    def __init__(self, at_ns: int, stack: Stack, thread: str | None, task: str | None) -> None:
        self.at_ns = at_ns
        self.stack = stack
        self.thread = thread
        self.task = task


class SocketRecord(_SocketRef):
    """One tracked socket: a weak reference to it, with what was noted when it was made.

    The application's thread fills ``fd`` to ``stack``; a slot that nobody has set reads
    as ``None``, so that the hot path pays for no default. All times are monotonic
    nanoseconds. It holds neither the socket nor a frame, thread or task.
    """

    __slots__ = (
        "accepted",  # bool: made by accept()
        "created_ns",
        "eof",  # Eof: level `full`
        "fd",
        "peer",  # str: as last seen connected; a reset erases it in the kernel
        "previous",  # SocketRecord: another object on the same descriptor, made before
        "seen",  # bool: the watcher has adopted it, or found it gone
        "serial",
        "span",  # OpenTelemetry's SpanContext
        "stack",
        "task",
        "thread",
    )

    accepted: bool | None
    created_ns: int
    eof: Eof | None
    fd: int
    peer: str | None
    previous: SocketRecord | None
    seen: bool | None
    serial: int
    span: Any
    stack: Stack
    task: str | None
    thread: str | None

    # Identity, not the referent's: a program's __eq__ or __hash__ must never run here.
    __eq__ = object.__eq__
    __ne__ = object.__ne__
    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> None:
        if name in SocketRecord.__slots__:
            return
        raise AttributeError(name)


class Kind(enum.Enum):
    """What the kernel shows."""

    PEER_CLOSED = "peer_closed"
    PEER_RESET = "peer_reset"
    COLLECTED = "collected"


class Verdict(enum.Enum):
    """Why the socket stays open, as far as the evidence goes."""

    EOF_IGNORED = "eof_ignored"
    UNREAD = "unread"
    MAKEFILE = "makefile"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """What the kernel says of a socket now; ``None`` where this observer can't know."""

    state: TcpState | None
    #: AF_UNIX: the peer has hung up.
    hung_up: bool = False
    #: The connection was established at some time: tells a reset from a fresh socket.
    connected: bool = False
    #: Milliseconds since the last segment came that acknowledged something.
    last_ack_ms: int | None = None
    #: Bytes of ours that the peer has acknowledged, ever.
    bytes_acked: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What is looked at once, when a suspicion is confirmed."""

    local: str | None = None
    peer: str | None = None
    #: FIONREAD; a FIN is no byte.
    unread_bytes: int | None = None
    #: The FIN (or the reset) waits in the socket: nobody has been told of it.
    end_unread: bool | None = None
    #: ``close()`` was called while a ``makefile()`` object keeps the descriptor.
    closed_by_program: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Who called: a stack in words, innermost first, with thread, task and span."""

    stack: tuple[Frame, ...]
    thread: str | None = None
    task: str | None = None
    trace_id: str | None = None
    span_id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One proven case, in text and numbers: it keeps no object of the program alive.

    ``age_ns`` runs from creation, ``since_fin_ns`` from the peer's FIN (or from when the
    reset was first seen), both up to ``at_ns``, a monotonic time.
    """

    serial: int
    fingerprint: str
    kind: Kind
    verdict: Verdict
    why: str
    advice: str
    state: TcpState | None
    fd: int
    local: str | None
    peer: str | None
    at_ns: int
    age_ns: int
    since_fin_ns: int
    unread_bytes: int | None
    end_unread: bool | None
    created: Origin
    eof: Origin | None = None
    #: ``since_fin_ns`` begins at the FIN, by the kernel's word; else at our first sight.
    dated: bool = True
    #: Where the listening socket was made that accepted this one.
    listener: Origin | None = None
    holders: tuple[str, ...] | None = None


@dataclass(kw_only=True, slots=True)
class Leak:
    """The findings of one cause. ``count`` and ``open`` are exact; ``example`` is the oldest."""

    fingerprint: str
    example: Finding
    count: int = 0
    open: int = 0
    resolved: int = 0
    first_seen_ns: int = 0
    last_seen_ns: int = 0

    @property
    def kind(self) -> Kind:
        return self.example.kind

    @property
    def verdict(self) -> Verdict:
        return self.example.verdict


LEAK: Final = "sockguard.socket.leak"
RESOLVED: Final = "sockguard.socket.leak.resolved"
SUMMARY: Final = "sockguard.summary"


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """A finding on its way out. ``name`` is ``LEAK`` or ``RESOLVED``."""

    name: str
    finding: Finding
    at_ns: int
    group_count: int
    group_open: int
    #: How long the socket stayed open after the FIN, where it was closed in the end.
    open_ns: int | None = None
    #: Its cause came after the table of groups was full: the numbers are of all such.
    overflow: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupTotal:
    """A group's exact numbers at the end of a process."""

    fingerprint: str
    kind: Kind
    verdict: Verdict
    count: int
    open: int
    #: The program's own line.
    site: Frame | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What a process leaves behind. ``None`` is unknown, not zero."""

    at_ns: int
    groups: tuple[GroupTotal, ...]
    #: Sockets whose peer had closed and that were open at the end, younger than the threshold.
    open_at_exit: tuple[GroupTotal, ...]
    tracked: int
    collected_unclosed: int | None
    cpu_ns: int
    coverage: Mapping[str, int | None] = field(default_factory=dict)

    @property
    def leaked(self) -> int:
        return sum(group.count for group in self.groups)
