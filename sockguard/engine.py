"""What one process needs to look, apart from the hooks: an observer, a watcher, exporters."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from sockguard.config import Config
from sockguard.exporters import Exporter, Meter
from sockguard.findings import Event
from sockguard.observers import Observer, build, choose, tcp_info
from sockguard.registry import Registry
from sockguard.stderr import complain
from sockguard.watcher import Watcher


class Engine:
    """Looks when it is told to. A fork makes another."""

    def __init__(
        self,
        config: Config,
        registry: Registry,
        exporters: list[Exporter],
        gives_up: Callable[[], bool] = lambda: False,
        *,
        answers: bool = False,
    ) -> None:
        """``gives_up``: whether what takes long is to end at once, for a fork or the exit.

        ``answers`` what other guarded processes ask, from now on.
        """
        self.exporters = exporters
        self._meters = [exporter for exporter in exporters if isinstance(exporter, Meter)]
        #: Processor time of the watcher's thread.
        self.cpu_ns = 0
        self.observer: Observer = build(choose(config.observer).name)
        self.watcher = Watcher(
            config, registry, self.observer, tcp_info.decode, self.publish, gives_up=gives_up
        )

        if answers:
            self.watcher.listen()

    def publish(self, events: Sequence[Event]) -> None:
        """Give ``events`` to every exporter; one that fails is switched off, and that is said."""
        self.each(lambda exporter: exporter.export(events))

    def each(self, act: Callable[[Exporter], None]) -> None:
        for exporter in list(self.exporters):
            self._guarded(exporter, act)

    def _guarded(self, exporter: Exporter, act: Callable[[Any], None]) -> None:
        try:
            act(exporter)
        except Exception as error:
            # The host must never pay for our bug; nor may we fail in silence.
            with suppress(ValueError):
                self.exporters.remove(exporter)
            complain(f"exporter {exporter.name} failed and is switched off: {error}")

    def tick(self) -> None:
        """Look once, publish, give readings to who meters. In the watcher's thread."""
        began = time.thread_time_ns()
        try:
            self.watcher.tick()
            for exporter in list(self.exporters):
                if exporter in self._meters:
                    self._guarded(exporter, self._read)
        finally:
            self.cpu_ns += time.thread_time_ns() - began

    def _read(self, meter: Meter) -> None:
        if meter.wants_reading():
            states = meter.wants_states()
            meter.measure(self.watcher.reading(with_states=states, cpu_ns=self.cpu_ns))

    def close(self) -> None:
        self.each(lambda exporter: exporter.close())
        self.watcher.close()
        self.observer.close()
