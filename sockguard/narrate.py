"""From a record and its evidence to a finding in text and numbers: it keeps no object alive."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sockguard.detector import Trouble
from sockguard.findings import Evidence, Finding, GroupTotal, Origin
from sockguard.growth import Trend
from sockguard.leaks import Leaks
from sockguard.records import TELEMETRY, SocketRecord
from sockguard.sites import culprit, fingerprint, is_ours, is_telemetry_frame
from sockguard.stacks import Frame, Stack, resolve
from sockguard.verdicts import Signs, judge


def _words(stack: Stack | None, depth: int) -> tuple[Frame, ...]:
    return tuple(frame for frame in resolve(stack or ()) if not is_ours(frame))[:depth]


def origin(record: SocketRecord, depth: int) -> Origin:
    """Return who made the socket, in words."""
    span: Any = None if record.span is TELEMETRY else record.span
    return Origin(
        stack=_words(record.stack, depth),
        thread=record.thread,
        task=record.task,
        trace_id=None if span is None else f"{span.trace_id:032x}",
        span_id=None if span is None else f"{span.span_id:016x}",
        trace_flags=None if span is None else int(span.trace_flags),
    )


def _eof(record: SocketRecord, depth: int) -> Origin | None:
    if record.eof is None:
        return None
    eof = record.eof
    return Origin(stack=_words(eof.stack, depth), thread=eof.thread, task=eof.task)


def finding(
    record: SocketRecord,
    trouble: Trouble,
    evidence: Evidence,
    listener: SocketRecord | None,
    *,
    depth: int,
    now_ns: int,
) -> Finding:
    """Return the case in text and numbers. Watcher thread; resolves lines, reads no source."""
    created = origin(record, depth)
    opened = None if listener is None else origin(listener, depth)
    opinion = judge(Signs(record=record, evidence=evidence))
    return Finding(
        serial=record.serial,
        fingerprint=fingerprint(created.stack, () if opened is None else opened.stack),
        kind=trouble.kind,
        verdict=opinion.verdict,
        confidence=opinion.confidence,
        why=opinion.why,
        advice=opinion.advice,
        state=trouble.state,
        fd=record.fd,
        local=evidence.local,
        peer=evidence.peer,
        at_ns=now_ns,
        age_ns=now_ns - record.created_ns,
        since_fin_ns=now_ns - trouble.fin_ns,
        dated=trouble.dated,
        unread_bytes=evidence.unread_bytes,
        end_unread=evidence.end_unread,
        created=created,
        eof=_eof(record, depth),
        listener=opened,
    )


def is_telemetry(record: SocketRecord, finding: Finding) -> bool:
    """Tell a socket by which telemetry is exported: by its context, else by its stack."""
    return record.span is TELEMETRY or any(map(is_telemetry_frame, finding.created.stack))


def is_ignored(case: Finding, patterns: Sequence[re.Pattern[str]]) -> bool:
    """Tell whether the user asked to spare this one (option ``--ignore``)."""
    if not patterns:
        return False
    lines = [case.fingerprint]
    lines += [f"{frame.file}:{frame.line} {frame.function}" for frame in case.created.stack]
    return any(pattern.search(line) for pattern in patterns for line in lines)


def total(
    fingerprint: str, example: Finding, count: int, still_open: int, trend: Trend | None = None
) -> GroupTotal:
    """Return a group's numbers for the summary."""
    return GroupTotal(
        fingerprint=fingerprint,
        kind=example.kind,
        verdict=example.verdict,
        count=count,
        open=still_open,
        # The overflow group has many sites.
        site=culprit(example.created.stack) if fingerprint == example.fingerprint else None,
        trend=trend,
    )


def totals(leaks: Leaks) -> tuple[GroupTotal, ...]:
    """Return the numbers of all groups, the largest first."""
    return tuple(
        total(leak.fingerprint, leak.example, leak.count, leak.open, leaks.trend(leak.fingerprint))
        for leak in leaks.groups()
    )
