"""What is known of a socket beyond its record: said by the kernel, and concluded.

Apart from ``records``, because making these classes takes 8 ms, which only a run that finds
something is to pay.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sockguard.growth import Trend
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
    #: Idle in a known pool: normal while bounded, and no leak then.
    POOLED = "pooled"
    STUCK = "stuck"
    EXCEPTION = "exception"
    CYCLE = "cycle"
    MAKEFILE = "makefile"
    UNKNOWN = "unknown"


class Confidence(enum.Enum):
    """How far a verdict can be trusted."""

    #: Every reference, or the kernel's own word, says so.
    CERTAIN = "certain"
    #: The evidence is there; another cause would look alike.
    LIKELY = "likely"
    UNKNOWN = "unknown"


class HeldBy(enum.Enum):
    """What kind of thing keeps a socket open."""

    #: A name: a module's global, a class, an object that one of them reaches.
    NAME = "name"
    #: Frames of live threads, tasks or greenlets, and nothing else.
    LIVE = "live"
    #: Tracebacks of stored exceptions, and nothing else.
    EXCEPTION = "exception"
    #: Nothing that a name reaches: it waits for the cycle collector.
    CYCLE = "cycle"
    #: Not found, or not looked for to the end.
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


# The states of a connection whose own side has sent its FIN.
_FINISHED: Final = {
    TcpState.FIN_WAIT_1,
    TcpState.FIN_WAIT_2,
    TcpState.CLOSING,
    TcpState.LAST_ACK,
    TcpState.TIME_WAIT,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FarEnd:
    """The socket at the other end, in text and numbers. ``None`` is unknown."""

    state: TcpState | None = None
    pid: int | None = None
    fd: int | None = None
    created: Origin | None = None
    #: The command name of ``pid``.
    process: str | None = None
    inode: int | None = None
    #: Some process has a descriptor of it. ``False``: nobody has, by the kernel's word.
    held: bool | None = None

    @property
    def is_closed(self) -> bool:
        """Tell a far end that was closed for good (of AF_UNIX, if the near one hung up)."""
        return self.held is False and (self.state is None or self.state in _FINISHED)

    @property
    def is_unaccepted(self) -> bool:
        """Tell a far end that waits in a listener's queue: nobody has accepted it yet."""
        return self.held is False and not self.is_closed


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolUse:
    """What a known pool says of the socket. ``key`` tells pools apart, nothing else."""

    key: int
    title: str
    #: The pool has it on its idle list; else it counts it as in use.
    is_idle: bool
    bound: int | None
    #: The library's own option against connections that died idle.
    option: str
    #: Pools with troubled sockets that were made at this line for this peer; dead idle
    #: connections that this pool keeps.
    alike: int = 1
    kept: int = 1

    @property
    def is_normal(self) -> bool:
        """Idle, within the pool's bound, and the pool is one of few."""
        within = self.bound is None or self.kept <= self.bound
        return self.is_idle and within and self.alike <= MAX_POOLS


#: More pools than this, made at one line for one destination, are pools that nobody closes.
MAX_POOLS: Final = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Holding:
    """Who holds a socket, in text: what a search of the heap has found."""

    #: Ways from a name to the socket, the shortest first.
    paths: tuple[str, ...] = ()
    held_by: HeldBy = HeldBy.UNKNOWN
    #: Where the thread, task or greenlet that holds it is now.
    waits_at: Origin | None = None
    pool: PoolUse | None = None
    #: A queue of work that it waits in.
    queue: str | None = None
    #: An asyncio transport that was told not to read (``pause_reading``).
    is_paused: bool = False
    #: What an accepted connection was given to.
    handler: Frame | None = None
    #: Why the search found less than all, in words.
    cut: str | None = None


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
    confidence: Confidence = Confidence.UNKNOWN
    #: Paths to the socket; ``None`` where they were not looked for.
    holders: tuple[str, ...] | None = None
    waits_at: Origin | None = None
    handler: Frame | None = None
    #: The other end of the connection, where it is on this host.
    far_end: FarEnd | None = None


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
POOLED: Final = "sockguard.socket.pooled"
SUMMARY: Final = "sockguard.summary"


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """A finding on its way out. ``name`` is ``LEAK``, ``RESOLVED`` or ``POOLED``."""

    name: str
    finding: Finding
    at_ns: int
    group_count: int
    group_open: int
    #: How the group grows of late; ``None`` while that can't be said.
    trend: Trend | None = None
    #: When the process has no descriptor left, at the rate of all its leaks.
    limit_in_ns: int | None = None
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
    trend: Trend | None = None


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
    #: Idle in bounded pools although their peer had closed: no leaks.
    pooled: tuple[GroupTotal, ...] = ()

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
