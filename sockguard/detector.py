"""When is it a leak? Pure: a record, an observation and the time in; an answer out.

The clock of a socket starts at the peer's FIN. While we still send and the peer still
acknowledges, the half-close is by design (RFC 9293, section 3.6) and the clock restarts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from sockguard.findings import Kind, Observation
from sockguard.records import SocketRecord
from sockguard.tcp import TcpState

NS_PER_MS: Final = 1_000_000
# tcpi_last_ack_recv is counted in jiffies, 10 ms at the coarsest (CONFIG_HZ=100): so much
# later the clock starts, that no rounding accuses before the threshold.
JIFFY_NS: Final = 10 * NS_PER_MS

# Our side has sent its FIN too, and waits for the last acknowledgement.
_ENDING: Final = {TcpState.LAST_ACK, TcpState.CLOSING}


@dataclass(frozen=True, kw_only=True, slots=True)
class Trouble:
    """A socket whose peer is gone, followed from look to look. Monotonic nanoseconds."""

    kind: Kind
    state: TcpState | None
    #: The peer's FIN, or the first sight of the reset: never restarts.
    fin_ns: int
    #: From when the threshold counts: restarts with every byte acknowledged.
    clock_ns: int
    bytes_acked: int | None
    #: ``fin_ns`` is the kernel's word, not our first sight.
    dated: bool = False


def _begin(record: SocketRecord, seen: Observation, now_ns: int) -> Trouble | None:
    if seen.state is TcpState.CLOSE_WAIT:
        # May lie before the object was made: the peer went while it waited for accept().
        fin_ns = now_ns - (seen.last_ack_ms or 0) * NS_PER_MS
        return Trouble(
            kind=Kind.PEER_CLOSED,
            state=seen.state,
            fin_ns=fin_ns,
            clock_ns=min(now_ns, max(fin_ns, record.created_ns) + JIFFY_NS),
            bytes_acked=seen.bytes_acked,
            dated=seen.last_ack_ms is not None,
        )
    if seen.hung_up:
        kind = Kind.PEER_CLOSED
    elif seen.state is TcpState.CLOSED and seen.connected:
        # The kernel keeps no time of a reset: tcpi_last_ack_recv is that of the last
        # real segment, long ago on an idle connection. The clock starts at first sight.
        kind = Kind.PEER_RESET
    else:
        return None
    return Trouble(
        kind=kind, state=seen.state, fin_ns=now_ns, clock_ns=now_ns, bytes_acked=seen.bytes_acked
    )


def follow(
    record: SocketRecord, trouble: Trouble | None, seen: Observation, *, now_ns: int
) -> Trouble | None:
    """Return the trouble that ``record`` is in after this look, ``None`` if it is in none."""
    if trouble is None:
        return _begin(record, seen, now_ns)
    if seen.state in _ENDING:
        return replace(trouble, state=seen.state)
    fresh = _begin(record, seen, now_ns)
    if fresh is None:
        return None
    restarted = (fresh.bytes_acked or 0) > (trouble.bytes_acked or 0)
    return replace(
        trouble,
        state=fresh.state,
        fin_ns=min(trouble.fin_ns, fresh.fin_ns),
        clock_ns=now_ns if restarted else trouble.clock_ns,
        bytes_acked=fresh.bytes_acked,
    )


def is_leak(trouble: Trouble, *, now_ns: int, threshold_ns: int) -> bool:
    """Tell whether the socket stayed open for ``threshold_ns`` after the peer went."""
    return trouble.state not in _ENDING and now_ns - trouble.clock_ns >= threshold_ns


def collected(trouble: Trouble) -> Trouble:
    """Return the trouble of a socket that was freed without a close."""
    return replace(trouble, kind=Kind.COLLECTED)
