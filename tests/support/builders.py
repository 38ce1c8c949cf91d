"""Made-up data of sockguard's own types, read as nouns: ``a_record(serial=2)``.

Each has plain values where a test does not care.
"""

from __future__ import annotations

from typing import Any

from sockguard.detector import Trouble
from sockguard.findings import (
    LEAK,
    RESOLVED,
    Event,
    Evidence,
    Finding,
    GroupTotal,
    Kind,
    Observation,
    Origin,
    Summary,
    Verdict,
)
from sockguard.records import Eof, SocketRecord
from sockguard.registry import Registry, fileno
from sockguard.stacks import Frame
from sockguard.tcp import TcpState

SECOND = 1_000_000_000
MS = 1_000_000


class _Gone:
    """Stands for a socket that nobody holds any more."""


def a_record(of: Any = None, **noted: Any) -> SocketRecord:
    """Return a record of the socket ``of``; of one long gone if there is none."""
    record = SocketRecord(_Gone() if of is None else of)
    for name, value in {"serial": 1, "fd": 7, "created_ns": 0, "stack": (), **noted}.items():
        setattr(record, name, value)
    return record


def a_tracked(registry: Registry, sock: Any, **noted: Any) -> SocketRecord:
    """File a record of ``sock`` in ``registry``, as the hook does; return it."""
    record = a_record(sock, **{"serial": registry.next_serial(), "fd": fileno(sock), **noted})
    registry.by_fd[record.fd] = record
    registry.latest[0] = record
    return record


def an_observation(**seen: Any) -> Observation:
    """Return what the kernel says of a socket in CLOSE_WAIT."""
    return Observation(**{"state": TcpState.CLOSE_WAIT, "connected": True, **seen})


def a_trouble(**known: Any) -> Trouble:
    """Return a socket whose peer closed at 0."""
    return Trouble(
        **{
            "kind": Kind.PEER_CLOSED,
            "state": TcpState.CLOSE_WAIT,
            "fin_ns": 0,
            "clock_ns": 0,
            "bytes_acked": None,
            **known,
        }
    )


def an_eof(**told: Any) -> Eof:
    """Return the moment a program was told of the end."""
    return Eof(**{"at_ns": 0, "stack": (), "thread": None, "task": None, **told})


def some_evidence(**looked: Any) -> Evidence:
    """Return evidence: nothing is known but what is given."""
    return Evidence(**looked)


def a_frame(function: str = "handle", file: str = "/srv/shop/app.py", line: int = 12) -> Frame:
    """Return a line of the program's own."""
    return Frame(file, line, function)


def an_origin(*frames: Frame, **who: Any) -> Origin:
    """Return who made a socket, innermost frame first."""
    return Origin(stack=frames, **who)


def a_finding(**known: Any) -> Finding:
    """Return a finding: the peer at 10.0.0.9 closed a minute ago."""
    return Finding(
        **{
            "serial": 1,
            "fingerprint": "a1f39c000000",
            "kind": Kind.PEER_CLOSED,
            "verdict": Verdict.UNREAD,
            "why": "nobody has read what the peer sent last",
            "advice": "close the socket",
            "state": TcpState.CLOSE_WAIT,
            "fd": 41,
            "local": "10.0.0.1:80",
            "peer": "10.0.0.9:5432",
            "at_ns": 100 * SECOND,
            "age_ns": 70 * SECOND,
            "since_fin_ns": 60 * SECOND,
            "unread_bytes": 0,
            "end_unread": True,
            "created": an_origin(a_frame(), thread="MainThread"),
            **known,
        }
    )


def a_leak_event(*, count: int = 1, still_open: int = 1, **known: Any) -> Event:
    """Return the event of a new finding, the ``count``-th of its group."""
    finding = a_finding(**known)
    return Event(
        name=LEAK,
        finding=finding,
        at_ns=finding.at_ns,
        group_count=count,
        group_open=still_open,
    )


def a_resolved_event(
    *, count: int = 1, still_open: int = 0, open_ns: int | None = 63 * SECOND, **known: Any
) -> Event:
    """Return the event of a finding whose socket was closed after all."""
    finding = a_finding(**known)
    return Event(
        name=RESOLVED,
        finding=finding,
        at_ns=finding.at_ns,
        group_count=count,
        group_open=still_open,
        open_ns=open_ns,
    )


def a_total(**known: Any) -> GroupTotal:
    """Return a group's numbers at the end of a process."""
    return GroupTotal(
        **{
            "fingerprint": "a1f39c000000",
            "kind": Kind.PEER_CLOSED,
            "verdict": Verdict.UNREAD,
            "count": 1,
            "open": 1,
            "site": a_frame(),
            **known,
        }
    )


def a_summary(**known: Any) -> Summary:
    """Return what a process without a leak leaves behind."""
    return Summary(
        **{
            "at_ns": 0,
            "groups": (),
            "open_at_exit": (),
            "tracked": 3,
            "collected_unclosed": None,
            "cpu_ns": 0,
            **known,
        }
    )
