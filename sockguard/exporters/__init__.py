"""Where events go. Each exporter fails alone: the next one and the program never notice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sockguard.records import Event, Summary


class Exporter(Protocol):
    """Takes what a tick found. Watcher thread; the summary at exit, in the main thread.

    May raise: it is switched off then, and that is said once. Must not block for long.
    """

    name: str

    def export(self, events: Sequence[Event]) -> None:
        """Publish the events of one tick."""

    def summarize(self, summary: Summary) -> None:
        """Publish what the process leaves behind; the last call before ``close``."""

    def close(self) -> None:
        """Give back what is held."""
