"""JSON Lines: one object a line, whole or not at all, from any number of processes to one file."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Any, Final

from sockguard.descriptors import identity, move_high
from sockguard.exporters.clock import unix_ns
from sockguard.findings import (
    RESOLVED,
    SUMMARY,
    Event,
    FarEnd,
    Finding,
    GroupTotal,
    Origin,
    Summary,
)
from sockguard.native import original
from sockguard.sites import culprit
from sockguard.stacks import Frame
from sockguard.stderr import complain

try:
    import fcntl
except ImportError:  # not POSIX: lines of several processes are appended without a lock
    fcntl = None  # type: ignore[assignment]

_sleep: Final = original("time", "sleep")
_NS_PER_S: Final = 1_000_000_000
_LOCK_TRIES: Final = 50
_LOCK_PAUSE_S: Final = 0.005


def wall_time(at_ns: int) -> str:
    """Return the wall-clock time of a monotonic one, RFC 3339 in UTC."""
    seconds, ns = divmod(unix_ns(at_ns), _NS_PER_S)
    moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ns // 1000:06d}Z"


def _seconds(ns: int) -> float:
    return round(ns / _NS_PER_S, 6)


def _frame(frame: Frame) -> dict[str, Any]:
    return {"file": frame.file, "line": frame.line, "function": frame.function}


def _origin(origin: Origin | None) -> dict[str, Any] | None:
    if origin is None:
        return None
    return {
        "stack": [_frame(frame) for frame in origin.stack],
        "thread": origin.thread,
        "task": origin.task,
        "trace_id": origin.trace_id,
        "span_id": origin.span_id,
    }


def _far_end(far: FarEnd | None) -> dict[str, Any] | None:
    if far is None:
        return None
    return {
        "state": None if far.state is None else far.state.value,
        "pid": far.pid,
        "process": far.process,
        "fd": far.fd,
        "held": far.held,
        "created": _origin(far.created),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "fingerprint": finding.fingerprint,
        "kind": finding.kind.value,
        "verdict": finding.verdict.value,
        "confidence": finding.confidence.value,
        "why": finding.why,
        "advice": finding.advice,
        "state": None if finding.state is None else finding.state.value,
        "fd": finding.fd,
        "local": finding.local,
        "peer": finding.peer,
        "age_s": _seconds(finding.age_ns),
        "since_fin_s": _seconds(finding.since_fin_ns),
        "unread_bytes": finding.unread_bytes,
        "end_unread": finding.end_unread,
        "site": None if (site := culprit(finding.created.stack)) is None else _frame(site),
        "created": _origin(finding.created),
        "listener": _origin(finding.listener),
        "eof": _origin(finding.eof),
        "handler": None if finding.handler is None else _frame(finding.handler),
        "waits_at": _origin(finding.waits_at),
        "far_end": _far_end(finding.far_end),
        "holders": None if finding.holders is None else list(finding.holders),
    }


def encode_event(event: Event) -> dict[str, Any]:
    """Return the fields of an event's line; unknown is ``None``. docs/reference.md lists them."""
    line = {
        "event": event.name,
        "time": wall_time(event.at_ns),
        "pid": os.getpid(),
        **_finding(event.finding),
        "group_count": event.group_count,
        "group_open": event.group_open,
        "group_per_hour": None if event.trend is None else round(event.trend.per_hour, 3),
        "fd_limit_in_s": None if event.limit_in_ns is None else _seconds(event.limit_in_ns),
    }
    if event.name == RESOLVED:
        line["open_s"] = None if event.open_ns is None else _seconds(event.open_ns)
    return line


def _group(group: GroupTotal) -> dict[str, Any]:
    return {
        "fingerprint": group.fingerprint,
        "kind": group.kind.value,
        "verdict": group.verdict.value,
        "count": group.count,
        "open": group.open,
        "per_hour": None if group.trend is None else round(group.trend.per_hour, 3),
        "site": None if group.site is None else _frame(group.site),
    }


def encode_summary(summary: Summary) -> dict[str, Any]:
    """Return the fields of the line that closes a process's record."""
    return {
        "event": SUMMARY,
        "time": wall_time(summary.at_ns),
        "pid": os.getpid(),
        "leaked": summary.leaked,
        "groups": [_group(group) for group in summary.groups],
        "pooled": [_group(group) for group in summary.pooled],
        "open_at_exit": [_group(group) for group in summary.open_at_exit],
        "tracked": summary.tracked,
        "collected_unclosed": summary.collected_unclosed,
        "coverage": dict(summary.coverage),
        "guard_cpu_s": _seconds(summary.cpu_ns),
    }


class _LockedError(Exception):
    """Another process holds the file for too long."""


class JsonLinesExporter:
    """Appends to ``path``, ``{pid}`` in it put in. Raises ``OSError`` on a full disk.

    At ``limit`` bytes it keeps nothing more but the summary, and says so once.
    """

    name = "JSON Lines"

    def __init__(self, path: str, limit: int) -> None:
        self._path = path.replace("{pid}", str(os.getpid()))
        self._limit = limit
        self._open()

    def _open(self) -> None:
        # O_NONBLOCK: a FIFO without a reader must not stop the program. open(2)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        flags |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
        self._fd = move_high(os.open(self._path, flags, 0o644))
        self._identity = identity(self._fd)

    def export(self, events: Sequence[Event]) -> None:
        for event in events:
            self._write(encode_event(event), keep=False)

    def summarize(self, summary: Summary) -> None:
        self._write(encode_summary(summary), keep=True)

    def _write(self, fields: dict[str, Any], *, keep: bool) -> None:
        line = json.dumps(fields, ensure_ascii=False, separators=(",", ":")) + "\n"
        data = line.encode("utf-8", "backslashreplace")
        if identity(self._fd) != self._identity:
            self._open()  # the program closed our descriptor: its number is not ours to use
        try:
            self._append(data, keep=keep)
        except _LockedError:
            complain(f"{self._path} is kept locked by another process: a line was given up")

    def _append(self, data: bytes, *, keep: bool) -> None:
        with self._locked():
            status = os.fstat(self._fd)
            if not keep and status.st_size + len(data) > self._limit:
                complain(
                    f"{self._path} has reached {self._limit} bytes (--output-limit): "
                    "only the summary is written from now on"
                )
                return
            written = os.write(self._fd, data)
            if written < len(data):
                if stat.S_ISREG(status.st_mode):
                    os.ftruncate(self._fd, status.st_size)
                raise OSError(f"only {written} of {len(data)} bytes fit into {self._path}")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the file against the other processes, so that half a line can be taken back.

        One of them may be stopped while it holds the lock: after a quarter of a second the
        line is given up rather than the program's exit held.
        """
        if fcntl is None or not stat.S_ISREG(os.fstat(self._fd).st_mode):
            yield
            return
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                _sleep(_LOCK_PAUSE_S)
        else:
            raise _LockedError(self._path)
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        if identity(self._fd) == self._identity:
            os.close(self._fd)
