"""Findings in words, as a person reads them at 3 a.m. Pure text: no colour, no I/O."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from sockguard.findings import (
    LEAK,
    Confidence,
    Event,
    FarEnd,
    Finding,
    GroupTotal,
    Kind,
    Origin,
    Summary,
)
from sockguard.growth import in_words
from sockguard.sites import culprit, is_application
from sockguard.stacks import Frame
from sockguard.tcp import TcpState

_WIDTH: Final = 72
_FRAMES: Final = 6
_HEADLINE: Final = {
    Kind.PEER_CLOSED: "the peer closed, we did not",
    Kind.PEER_RESET: "the connection is dead, our descriptor is still open",
    Kind.COLLECTED: "the peer closed, and we dropped the socket without closing it",
}


def plural(count: int, noun: str) -> str:
    """Return ``1 socket``, ``2 sockets``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def duration(ns: int) -> str:
    """Return a time span as a person says it: ``850 ms``, ``12.3 s``, ``12 min``, ``3 h``."""
    seconds = max(ns, 0) / 1e9
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"


def place(frame: Frame) -> str:
    """Return ``app/db.py:88 in connect``, the path relative to the working directory."""
    file = frame.file
    if os.path.isabs(file):
        try:
            inside = os.path.relpath(file)
        except (OSError, ValueError):
            inside = file
        file = file if inside.startswith(os.pardir) else inside
    return f"{file}:{frame.line or '?'} in {frame.function}"


def trail(stack: Sequence[Frame]) -> list[str]:
    """Return the frames worth reading: up to the outermost of the program's own, six at most."""
    own = [index for index, frame in enumerate(stack) if is_application(frame)]
    shown = list(stack[: own[-1] + 1] if own else stack)
    if own and own[0] > 1:
        # Deep inside a library: the call into it, and the line that made the call.
        shown = [stack[0], *shown[own[0] - 1 :]] if own[0] > 2 else shown
    lines = [place(frame) for frame in shown[:_FRAMES]]
    yours = culprit(stack) if own and len(own) < len(stack) else None
    lines = [
        f"{line} (yours)" if frame is yours else line
        for frame, line in zip(shown, lines, strict=False)
    ]
    if len(shown) > _FRAMES:
        lines.append(f"… {len(shown) - _FRAMES} more")
    return lines or ["unknown"]


def _who(origin: Origin) -> str:
    parts = []
    if origin.thread is not None:
        parts.append(f"thread {origin.thread}")
    if origin.task is not None:
        parts.append(f"task {origin.task}")
    if origin.trace_id is not None:
        parts.append(f"trace {origin.trace_id}")
    return ", ".join(parts) or "unknown"


def _unread(finding: Finding) -> str:
    if finding.unread_bytes:
        return f"{plural(finding.unread_bytes, 'byte')} unread"
    if finding.end_unread:
        return "error unread" if finding.kind is Kind.PEER_RESET else "FIN unread"
    return "nothing unread" if finding.unread_bytes == 0 else "unread bytes unknown"


def _what(finding: Finding) -> str:
    state = "peer hung up" if finding.state is None else finding.state.name
    # CLOSED: a reset, a keep-alive that gave up, or both sides done; the kernel won't say.
    if finding.state is TcpState.CLOSED and finding.kind is not Kind.PEER_CLOSED:
        since = "it was seen dead"
    else:
        since = "the peer's FIN" if finding.dated else "the peer's end was first seen"
    peer = finding.peer or ("unnamed" if finding.state is None else "unknown")
    age = duration(finding.since_fin_ns)
    return f"{age} since {since} ({state}), fd {finding.fd}, peer {peer}, {_unread(finding)}"


def _rows(label: str, lines: Sequence[str]) -> list[str]:
    first, *others = lines
    return [f"  {label:<8} {first}", *(f"  {'':<8}   <- {line}" for line in others)]


def _far_end(far: FarEnd) -> list[str]:
    state = "" if far.state is None else f" ({far.state.name})"
    if far.is_closed:
        return [f"closed for good{state}: no process has it any more"]
    if far.is_unaccepted:
        return [f"waits to be accepted{state}: no process has it yet"]
    if far.pid is None:
        return [f"open on this host{state}, in a process that could not be told"]
    who = "this process" if far.pid == os.getpid() else f"pid {far.pid} ({far.process or '?'})"
    where = trail(far.created.stack) if far.created is not None else []
    opened = f", opened {where[0]}" if where else ""
    return [f"fd {far.fd} of {who}{state}{opened}", *where[1:]]


def _growth(event: Event) -> str:
    if event.trend is None:
        return "unknown"
    words = in_words(event.trend)
    if event.limit_in_ns is None:
        return words
    return (
        f"{words}; at the rate of all leaks no descriptor is left in {duration(event.limit_in_ns)}"
    )


def _doubt(finding: Finding) -> str:
    return ", likely" if finding.confidence is Confidence.LIKELY else ""


def leak(event: Event, fresh: int, pid: int | None) -> list[str]:
    """Return the report of a group: ``fresh`` sockets new since the last one, ``event`` an example.

    ``pid`` is named where more than one process may speak.
    """
    finding = event.finding
    what = _HEADLINE[finding.kind]
    label = "socket"
    if event.overflow:
        head = f"{plural(fresh, 'socket')} leaked at one place too many to be told apart: {what}"
    elif event.group_count == fresh:
        head = f"{plural(fresh, 'socket')} leaked here: {what}"
        label = "oldest" if fresh > 1 else label
    else:
        head = f"{fresh} more leaked here, {event.group_count} by now: {what}"
        label = "example" if fresh > 1 else label
    process = "" if pid is None else f" pid {pid}"
    lines = [f"{head:<{_WIDTH}} [{finding.fingerprint}{process}]"]
    lines += _rows(label, [_what(finding)])
    if event.trend is not None:
        lines += _rows("growth", [_growth(event)])
    lines += _rows("opened", trail(finding.created.stack))
    lines += _rows("by", [_who(finding.created)])
    if finding.listener is not None:
        lines += _rows("listener", trail(finding.listener.stack))
    if finding.eof is not None:
        lines += _rows("told at", trail(finding.eof.stack))
    if finding.handler is not None:
        lines += _rows("handler", [place(finding.handler)])
    first, *others = finding.holders or ["unknown"]
    lines += _rows("held by", [first])
    lines += [
        f"  {'':<8} and {other if other.startswith('weakly') else f'by {other}'}"
        for other in others
    ]
    if finding.waits_at is not None:
        lines += _rows("waits at", trail(finding.waits_at.stack))
    if finding.far_end is not None:
        lines += _rows("far end", _far_end(finding.far_end))
    lines += _rows("why", [f"{finding.why} ({finding.verdict.value}{_doubt(finding)})"])
    lines += _rows("next", [finding.advice])
    return lines


def sentence(event: Event) -> str:
    """Return an event in one line that names no address."""
    finding = event.finding
    frame = culprit(finding.created.stack)
    where = "at an unknown place" if frame is None else f"at {place(frame)}"
    if event.open_ns is not None:
        return f"closed after all, {duration(event.open_ns)} after the peer; opened {where}"
    what = _HEADLINE[finding.kind] if event.name == LEAK else "idle in a pool, the peer has closed"
    return f"{what}: open for {duration(finding.since_fin_ns)}, opened {where}"


def resolved(event: Event) -> str:
    """Return the line that withdraws a report."""
    finding = event.finding
    return (
        f"closed after all: fd {finding.fd}, {duration(event.open_ns or 0)} after the peer; "
        f"{event.group_open} of {event.group_count} still open"
    )


def _group(group: GroupTotal, count: int, more: str) -> str:
    site = "unknown" if group.site is None else place(group.site)
    grows = "" if group.trend is None else f", {in_words(group.trend)}"
    return f"  {count:>6}  [{group.fingerprint}] {site}{more}{grows}"


def summary(totals: Summary) -> list[str]:
    """Return the closing lines: what leaked, and apart from it what was only late to close."""
    late = sum(group.count for group in totals.open_at_exit)
    if totals.leaked:
        where = plural(len(totals.groups), "place")
        still = sum(group.open for group in totals.groups)
        lines = [
            f"sockguard: {plural(totals.leaked, 'socket')} leaked at {where}, {still} still open"
            f" at exit; {plural(totals.tracked, 'socket')} tracked"
        ]
        lines += [
            _group(group, group.count, f" ({group.verdict.value})") for group in totals.groups
        ]
    else:
        lines = [f"sockguard: no leak; {plural(totals.tracked, 'socket')} tracked"]
    pooled = sum(group.open for group in totals.pooled)
    if pooled:
        lines.append(
            f"sockguard: {plural(pooled, 'idle connection')} in pools had lost the peer: no leak"
        )
    if late:
        lines.append(
            f"sockguard: {plural(late, 'socket')} open at exit whose peer had closed,"
            " for less than the threshold"
        )
        lines += [_group(group, group.count, "") for group in totals.open_at_exit]
    return lines
