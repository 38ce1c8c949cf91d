"""The attributes of an event: flat, by the semantic conventions, bounded in length."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from sockguard.exporters.wording import place
from sockguard.findings import RESOLVED, Event, Origin
from sockguard.sites import culprit, module_name
from sockguard.stacks import Frame

#: Characters of a value, of a stack trace; holders. What is longer is cut, and ends in ``…``.
MAX_TEXT: Final = 1024
MAX_STACKTRACE: Final = 8192
MAX_HOLDERS: Final = 10

Value = str | int | float | bool | Sequence[str]

_INET: Final = re.compile(r"(\d{1,3}(?:\.\d{1,3}){3}):(\d{1,5})")
# All but an index.
_KEY: Final = re.compile(r"\[(?!\d+\])[^\]]*\]")
_INET6: Final = re.compile(r"\[([0-9a-fA-F:.%\w]+)\]:(\d{1,5})")


def event_attributes(event: Event, *, omits_addresses: bool) -> dict[str, Value]:
    """Return what an event tells; what is unknown is left out. docs/opentelemetry.md lists it."""
    finding = event.finding
    frame, far = culprit(finding.created.stack), finding.far_end
    known: dict[str, Value | None] = {
        "sockguard.fingerprint": finding.fingerprint,
        "sockguard.kind": finding.kind.value,
        "sockguard.verdict": finding.verdict.value,
        "sockguard.confidence": finding.confidence.value,
        "sockguard.why": finding.why,
        "sockguard.advice": finding.advice,
        "sockguard.fd": finding.fd,
        "sockguard.age": round(finding.age_ns / 1e9, 3),
        "sockguard.since_fin": round(finding.since_fin_ns / 1e9, 3),
        "sockguard.unread_bytes": finding.unread_bytes,
        "sockguard.end_unread": finding.end_unread,
        "sockguard.group.count": event.group_count,
        "sockguard.group.open": event.group_open,
        "sockguard.group.per_hour": None if event.trend is None else event.trend.per_hour,
        "sockguard.fd.limit_in": None if event.limit_in_ns is None else event.limit_in_ns / 1e9,
        "sockguard.task": finding.created.task,
        "sockguard.listener.stacktrace": _stacktrace(finding.listener),
        "sockguard.eof.stacktrace": _stacktrace(finding.eof),
        "sockguard.far_end.pid": None if far is None else far.pid,
        "sockguard.far_end.fd": None if far is None else far.fd,
        "sockguard.far_end.state": None if far is None or far.state is None else far.state.value,
        "sockguard.far_end.stacktrace": None if far is None else _stacktrace(far.created),
        "sockguard.waits_at.stacktrace": _stacktrace(finding.waits_at),
        "sockguard.handler": None if finding.handler is None else place(finding.handler),
        "sockguard.holders": None if finding.holders is None else finding.holders[:MAX_HOLDERS],
        "network.connection.state": None if finding.state is None else finding.state.value,
        "thread.name": finding.created.thread,
        "code.stacktrace": _stacktrace(finding.created),
        **_code(frame),
        **_network(finding.local, finding.peer, omits_addresses=omits_addresses),
    }
    if event.name == RESOLVED and event.open_ns is not None:
        known["sockguard.open"] = round(event.open_ns / 1e9, 3)
    if omits_addresses and finding.holders is not None:
        known["sockguard.holders"] = [_without_keys(path) for path in finding.holders]
        known["sockguard.why"] = _without_keys(finding.why)
    return {
        name: _fit(value, MAX_STACKTRACE if name.endswith("stacktrace") else MAX_TEXT)
        for name, value in known.items()
        if value is not None
    }


def _without_keys(path: str) -> str:
    """Leave out what a dictionary has a socket under: often the peer's address."""
    return _KEY.sub("[…]", path)


def fit(text: str, most: int = MAX_TEXT) -> str:
    """Return ``text`` as an encoder takes it: no lone surrogate, not too long."""
    encodable = text.encode("utf-8", "replace").decode()
    return encodable if len(encodable) <= most else encodable[: most - 1] + "…"


def _fit(value: Value, most: int) -> Value:
    if isinstance(value, str):
        return fit(value, most)
    if isinstance(value, (bool, int, float)):
        return value
    return [fit(item, most) for item in value]


def _code(frame: Frame | None) -> dict[str, Value | None]:
    if frame is None:
        return {}
    return {
        "code.file.path": frame.file,
        "code.line.number": frame.line,
        "code.function.name": f"{module_name(frame.file)}.{frame.function}",
    }


def _stacktrace(origin: Origin | None) -> str | None:
    """Return a stack as a Python traceback has it, cut at its outer, least telling end."""
    if origin is None or not origin.stack:
        return None
    lines: list[str] = []
    room = MAX_STACKTRACE - len("…\n")
    for frame in origin.stack:
        line = f'  File "{frame.file}", line {frame.line or "?"}, in {frame.function}\n'
        room -= len(line)
        if room < 0:
            lines.append("…\n")
            break
        lines.append(line)
    return "".join(reversed(lines))


def _network(
    local: str | None, peer: str | None, *, omits_addresses: bool
) -> dict[str, Value | None]:
    known: dict[str, Value | None] = {}
    for side, text in (("local", local), ("peer", peer)):
        if text is None:
            continue
        inet, inet6 = _INET.fullmatch(text), _INET6.fullmatch(text)
        found = inet or inet6
        known["network.transport"] = "unix" if found is None else "tcp"
        if found is not None:
            known["network.type"] = "ipv4" if inet else "ipv6"
        if omits_addresses:
            continue
        known[f"network.{side}.address"] = text if found is None else found[1]
        if found is not None:
            known[f"network.{side}.port"] = int(found[2])
    return known
