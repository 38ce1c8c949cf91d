"""Reports as text on standard error: one a group and tick, in colour on a terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from sockguard import stderr
from sockguard.exporters import wording
from sockguard.findings import LEAK, RESOLVED, Event, Summary

_BOLD: Final = "\x1b[1m"
_RED: Final = "\x1b[1;31m"
_OFF: Final = "\x1b[0m"


def wants_colour(environ: dict[str, str], fd: int) -> bool:
    """Tell whether to colour: a terminal that can, and no ``NO_COLOR`` (no-color.org)."""
    if environ.get("NO_COLOR") or environ.get("TERM") == "dumb":
        return False
    try:
        return os.isatty(fd)
    except OSError:
        return False


class TextExporter:
    """Writes to descriptor 2, and raises ``OSError`` once it is full or gone.

    ``is_root``: this is the process that the user started under guard; it always has a
    closing line, any other only when it has something to say.
    """

    name = "text"

    def __init__(self, *, is_root: bool) -> None:
        self._is_root = is_root
        self._colour = wants_colour(dict(os.environ), stderr.FD)
        self._reported: dict[str, int] = {}

    def export(self, events: Sequence[Event]) -> None:
        groups: dict[str, list[Event]] = {}
        for event in events:
            groups.setdefault(event.finding.fingerprint, []).append(event)
        for fingerprint, batch in groups.items():
            leaks = [event for event in batch if event.name == LEAK]
            if leaks:
                self._report(fingerprint, leaks)
            closed = [event for event in batch if event.name == RESOLVED]
            if closed:
                self._write(f"[{fingerprint}] {wording.resolved(closed[-1])}\n")

    def _report(self, fingerprint: str, leaks: list[Event]) -> None:
        # Of those whose holders were looked for, if any was.
        oldest = max(
            leaks,
            key=lambda event: (event.finding.holders is not None, event.finding.since_fin_ns),
        )
        latest = leaks[-1]
        fresh = latest.group_count - self._reported.get(fingerprint, 0)
        if latest.overflow:
            fresh = len(leaks)  # the count is of other causes too
        else:
            self._reported[fingerprint] = latest.group_count
        event = Event(
            name=LEAK,
            finding=oldest.finding,
            at_ns=latest.at_ns,
            group_count=latest.group_count,
            group_open=latest.group_open,
            trend=latest.trend,
            limit_in_ns=latest.limit_in_ns,
            overflow=latest.overflow,
        )
        head, *rows = wording.leak(event, fresh, None if self._is_root else os.getpid())
        if self._colour:
            head = f"{_RED}{head}{_OFF}"
            rows = [f"{_BOLD}{row[:10]}{_OFF}{row[10:]}" for row in rows]
        self._write("\n".join(["", head, *rows, "", ""]))

    def summarize(self, summary: Summary) -> None:
        if self._is_root or summary.leaked or summary.open_at_exit:
            self._write("\n".join([*wording.summary(summary), ""]))

    def _write(self, text: str) -> None:
        if not stderr.write(text):
            raise OSError("standard error is closed, full or replaced")

    def close(self) -> None:
        """Nothing is held: the descriptor is the program's."""
