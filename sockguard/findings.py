"""What is known of a socket beyond its record: said by the kernel, and concluded.

Apart from ``records``, because making these classes takes 8 ms, which only a run that finds
something is to pay.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sockguard.stacks import Frame
from sockguard.tcp import TcpState


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
    trace_flags: int | None = None


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


class Reading(NamedTuple):
    """The watcher's numbers of now, for metrics."""

    #: Findings so far, by fingerprint and kind.
    leaks: Mapping[tuple[str, Kind], int]
    #: Sockets closed since the last reading whose peer had closed before: nanoseconds from
    #: its FIN, and whether it had been a leak.
    closed: Sequence[tuple[int, bool]]
    #: Processor time of the watcher's thread.
    cpu_ns: int
    #: Open stream sockets by state (``None``: it has none, or it is unknown), if counted.
    states: Mapping[TcpState | None, int] | None = None
    states_cost_ns: int = 0
