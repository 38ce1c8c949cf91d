"""Where events go. Each exporter fails alone: the next one and the program never notice."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from sockguard.config import Config
from sockguard.findings import Event, Reading, Summary
from sockguard.stderr import complain


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


@runtime_checkable
class Meter(Protocol):
    """An exporter that takes readings too, after each tick. Watcher thread."""

    def wants_reading(self) -> bool:
        """Tell whether there is anybody to read. Asked at each tick."""

    def wants_states(self) -> bool:
        """Tell whether the states of all sockets are to be in the next reading."""

    def measure(self, reading: Reading) -> None:
        """Take the numbers of now."""


def exporters_of(config: Config, providers: Any = None) -> list[Exporter]:
    """Return what the configuration asks for, loaded now. What can't begin is said.

    ``providers``: of OpenTelemetry, where the global ones are not meant.
    """
    from sockguard.exporters.text import TextExporter

    exporters: list[Exporter] = []
    if not config.quiet:
        exporters.append(TextExporter(is_root=_is_root()))
    if config.output is not None:
        from sockguard.exporters.json_lines import JsonLinesExporter

        try:
            exporters.append(JsonLinesExporter(config.output, config.output_limit))
        except OSError as error:
            complain(f"no JSON Lines are written: {error}")
    if config.otel != "off":
        from sockguard.exporters.otel import OtelExporter, Providers

        exporters.append(
            OtelExporter(
                always=config.otel == "on",
                omits_addresses=config.otel_omit_addresses,
                providers=providers or Providers(),
            )
        )
    tally = os.environ.get("SOCKGUARD_TALLY")
    if tally:
        from sockguard.exporters.tally import TallyExporter

        exporters.append(TallyExporter(tally))
    return exporters


def _is_root() -> bool:
    """Tell the process that the user started under guard from its children."""
    root = os.environ.get("SOCKGUARD_ROOT")
    return root in (str(os.getpid()), f"child-of-{os.getppid()}")
