"""OpenTelemetry: leaks as events linked to the span that opened the socket, and metrics.

Speaks to the API alone; whether an SDK is there, and which, is the program's affair, and may
change at any time. Log events with ``event_name`` and the attribute names follow the
semantic conventions; what is ours begins with ``sockguard.`` (docs/opentelemetry.md).
"""

from __future__ import annotations

import sys
import threading
from _thread import get_ident
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from time import monotonic_ns, thread_time_ns
from typing import Any, Final, NamedTuple

from sockguard import descriptors
from sockguard.exporters import wording
from sockguard.exporters.attributes import event_attributes, fit
from sockguard.exporters.clock import unix_ns
from sockguard.findings import LEAK, Event, Origin, Reading, Summary
from sockguard.leaks import OTHER
from sockguard.stderr import complain
from sockguard.tcp import TcpState

SCOPE: Final = "sockguard"
VERSION: Final = sys.modules["sockguard"].__version__
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.37.0"
#: Events a tick may hand over; what is more is dropped, and counted.
MAX_EVENTS: Final = 100
#: Fingerprints that a metric tells apart; the rest is counted together, as ``other``.
MAX_FINGERPRINTS: Final = 100
#: Counting the states of all sockets, and the descriptors: not more often, and at most this
#: share of the time.
COUNT_EVERY_NS: Final = 5_000_000_000
COUNT_SHARE: Final = 2000
BUCKETS_S: Final = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)


class Metric(NamedTuple):
    """One instrument. ``kind``: counter, updowncounter (both observable) or histogram."""

    name: str
    kind: str
    unit: str
    attributes: tuple[str, ...]
    description: str


METRICS: Final = (
    Metric(
        "sockguard.socket.count",
        "updowncounter",
        "{socket}",
        ("network.connection.state",),
        "Open stream sockets that sockguard tracks, by the state of their connection.",
    ),
    Metric(
        "sockguard.socket.leaks",
        "counter",
        "{socket}",
        ("sockguard.kind", "sockguard.fingerprint"),
        "Sockets that were left open past the threshold after their peer had gone.",
    ),
    Metric(
        "sockguard.socket.close_wait.duration",
        "histogram",
        "s",
        ("sockguard.leaked",),
        "How long a socket stayed open after its peer's FIN, recorded when it was closed.",
    ),
    Metric("sockguard.fd.count", "updowncounter", "{fd}", (), "Open file descriptors."),
    Metric(
        "sockguard.fd.limit",
        "updowncounter",
        "{fd}",
        (),
        "How many file descriptors the process may have (RLIMIT_NOFILE, soft).",
    ),
    Metric(
        "sockguard.watcher.cpu.time", "counter", "s", (), "Processor time of sockguard's thread."
    ),
    Metric(
        "sockguard.events.dropped",
        "counter",
        "{event}",
        ("sockguard.drop.reason",),
        "Events that were not handed over: too many at a time, or the SDK raised.",
    ),
)

Observed = Iterator[tuple[float, Mapping[str, Any]]]


class Providers(NamedTuple):
    """Whom to tell: what was given, else the global ones."""

    logger: Any = None
    meter: Any = None


class _Source:
    """What the instruments of one meter provider read; it outlives guards and forks.

    An SDK has no way to take an instrument back, and warns of one that is made twice.
    """

    def __init__(self, provider: Any) -> None:
        self.provider = provider
        self.exporter: OtelExporter | None = None
        self.durations: Any = None


_sources: list[_Source] = []


class OtelExporter:
    """Emits events and readings from the watcher's thread; an SDK's reader asks for the latter.

    ``always``: also where the program has not loaded the API. Memory: ``MAX_FINGERPRINTS`` counts.
    What the SDK does with an event, and whether its receiver takes it, it counts itself
    (``otel.sdk.*``).
    """

    name = "OpenTelemetry"

    def __init__(self, *, always: bool, omits_addresses: bool, providers: Providers) -> None:
        """``always`` imports ``opentelemetry._logs`` and ``.metrics`` now: some 13 ms."""
        self._omits_addresses = omits_addresses
        self.providers = providers
        self._logger: tuple[Any, Any] = (None, None)
        self._source: _Source | None = None
        self._dropped = {"rate": 0, "error": 0}
        self._reading: Reading | None = None
        self._fingerprints: set[str] = set()
        self._states_seen: set[TcpState | None] = set()
        self._descriptors: int | None = None
        self._wants_states = True
        self._count_at_ns = 0
        if always:
            import_module("opentelemetry._logs")
            import_module("opentelemetry.metrics")

    # -- events ------------------------------------------------------------------------

    def export(self, events: Sequence[Event]) -> None:
        with _as_a_guest():
            logger = self._the_logger()
            if logger is None:
                return
            for event in events[:MAX_EVENTS]:
                try:
                    self._emit(logger, event)
                except Exception as error:  # the SDK's, or a processor's of the program
                    self._dropped["error"] += 1
                    if self._dropped["error"] == 1:
                        complain(f"OpenTelemetry refused an event, which is counted: {error!r}")
            self._dropped["rate"] += max(0, len(events) - MAX_EVENTS)

    def _the_logger(self) -> Any:
        provider = self.providers.logger or self._global("opentelemetry._logs", "logger")
        if provider is not self._logger[0]:
            logger = provider and provider.get_logger(SCOPE, VERSION, schema_url=SCHEMA_URL)
            self._logger = (provider, logger)
        return self._logger[1]

    @staticmethod
    def _global(module_name: str, kind: str) -> Any:
        """Return the global provider; ``None`` while none has been set."""
        module = sys.modules.get(module_name)
        get_provider = getattr(module, f"get_{kind}_provider", None)  # None amid its import
        provider = None if get_provider is None else get_provider()
        # The API's own do nothing, or wait for an SDK: then so do we.
        return None if type(provider).__module__.startswith(module_name) else provider

    def _emit(self, logger: Any, event: Event) -> None:
        logs = sys.modules["opentelemetry._logs"]
        severity = logs.SeverityNumber.WARN if event.name == LEAK else logs.SeverityNumber.INFO
        logger.emit(
            logs.LogRecord(
                timestamp=unix_ns(event.at_ns),
                context=_context(event.finding.created),
                severity_number=severity,
                body=fit(wording.sentence(event)),
                attributes=event_attributes(event, omits_addresses=self._omits_addresses),
                event_name=event.name,
            )
        )

    # -- metrics -----------------------------------------------------------------------

    def wants_reading(self) -> bool:
        """Tell whether a provider is there: 1 µs where none is."""
        provider = self.providers.meter or self._global("opentelemetry.metrics", "meter")
        if self._source is None or self._source.provider is not provider:
            self._leave()
            if provider is not None:
                self._meet(provider)
        return self._source is not None

    def wants_states(self) -> bool:
        """Tell whether the states of all sockets are to be counted: not at every tick."""
        return self._wants_states and monotonic_ns() >= self._count_at_ns

    def measure(self, reading: Reading) -> None:
        with _as_a_guest():
            source, before = self._source, self._reading
            if source is None:
                return
            if reading.states is not None:
                began = thread_time_ns()
                self._descriptors = descriptors.count()
                cost_ns = thread_time_ns() - began + reading.states_cost_ns
                self._count_at_ns = monotonic_ns() + max(COUNT_EVERY_NS, cost_ns * COUNT_SHARE)
                self._wants_states = False
            elif before is not None:
                reading = reading._replace(states=before.states)
            self._reading = reading
            for duration_ns, leaked in reading.closed:
                source.durations.record(duration_ns / 1e9, {"sockguard.leaked": leaked})

    def _meet(self, provider: Any) -> None:
        source = next((known for known in _sources if known.provider is provider), None)
        if source is None:
            source = _Source(provider)
            with _as_a_guest():
                _make_instruments(source)
            _sources.append(source)
        source.exporter = self
        self._source = source

    def _leave(self) -> None:
        if self._source is not None and self._source.exporter is self:
            self._source.exporter = None
        self._source = None

    # In whatever thread the SDK reads: from what the watcher has left there.

    def states(self) -> Observed:
        self._wants_states = True
        states = self._reading.states if self._reading is not None else None
        self._states_seen.update(states or ())
        for state in self._states_seen:  # one that has none now is told as 0, not left as it was
            count = (states or {}).get(state, 0)
            yield count, {} if state is None else {"network.connection.state": state.value}

    def leaks(self) -> Observed:
        counts: dict[tuple[str, str], int] = {}
        for (fingerprint, kind), count in (self._reading.leaks if self._reading else {}).items():
            if fingerprint not in self._fingerprints:
                if len(self._fingerprints) < MAX_FINGERPRINTS:
                    self._fingerprints.add(fingerprint)
                else:
                    fingerprint = OTHER
            counts[fingerprint, kind.value] = counts.get((fingerprint, kind.value), 0) + count
        for (fingerprint, kind_name), count in counts.items():
            yield count, {"sockguard.kind": kind_name, "sockguard.fingerprint": fingerprint}

    def descriptors(self) -> Observed:
        if self._descriptors is not None:
            yield self._descriptors, {}

    def limit(self) -> Observed:
        limit = descriptors.limit()
        if limit is not None:
            yield limit, {}

    def cpu_time(self) -> Observed:
        if self._reading is not None:
            yield self._reading.cpu_ns / 1e9, {}

    def dropped(self) -> Observed:
        for reason, count in self._dropped.items():
            yield count, {"sockguard.drop.reason": reason}

    # -- the end -----------------------------------------------------------------------

    def summarize(self, summary: Summary) -> None:
        """Nothing: the counts are the metrics'."""

    def close(self) -> None:
        self._leave()


_READ: Final[dict[str, Callable[[OtelExporter], Observed]]] = {
    "sockguard.socket.count": OtelExporter.states,
    "sockguard.socket.leaks": OtelExporter.leaks,
    "sockguard.fd.count": OtelExporter.descriptors,
    "sockguard.fd.limit": OtelExporter.limit,
    "sockguard.watcher.cpu.time": OtelExporter.cpu_time,
    "sockguard.events.dropped": OtelExporter.dropped,
}


def _make_instruments(source: _Source) -> None:
    meter = source.provider.get_meter(SCOPE, VERSION, schema_url=SCHEMA_URL)
    observation = sys.modules["opentelemetry.metrics"].Observation

    def reader(name: str) -> Callable[[Any], list[Any]]:
        def read(_: Any) -> list[Any]:
            exporter = source.exporter
            observed = () if exporter is None else _READ[name](exporter)
            return [observation(value, attributes) for value, attributes in observed]

        return read

    for metric in METRICS:
        words = {"unit": metric.unit, "description": metric.description}
        if metric.kind == "histogram":
            source.durations = meter.create_histogram(
                metric.name, **words, explicit_bucket_boundaries_advisory=list(BUCKETS_S)
            )
        else:
            create = {
                "counter": meter.create_observable_counter,
                "updowncounter": meter.create_observable_up_down_counter,
            }[metric.kind]
            create(metric.name, callbacks=[reader(metric.name)], **words)


def _context(created: Origin) -> Any:
    """Return a context with the span that was active when the socket was made, or with none.

    Never an empty one: that is falsy, and would be taken for the one of now.
    """
    trace = import_module("opentelemetry.trace")
    span = trace.INVALID_SPAN
    if created.trace_id is not None and created.span_id is not None:
        span = trace.NonRecordingSpan(
            trace.SpanContext(
                trace_id=int(created.trace_id, 16),
                span_id=int(created.span_id, 16),
                is_remote=False,
                trace_flags=trace.TraceFlags(created.trace_flags or 0),
            )
        )
    return trace.set_span_in_context(span, import_module("opentelemetry.context").Context())


class _Guest(threading.Thread):
    """Stands for the watcher's native thread while an SDK is called in it.

    ``logging`` asks for the current thread. For a native one that is a dummy, which stays, and
    a program that joins all threads dies of it.
    """

    def __init__(self) -> None:
        super().__init__(name="sockguard", daemon=True)

    def join(self, timeout: float | None = None) -> None:
        """Return at once: there is nothing to wait for."""

    def is_alive(self) -> bool:
        return False


@contextmanager
def _as_a_guest() -> Iterator[None]:
    """Be known to ``threading`` for as long as somebody else's code runs in a native thread."""
    active: dict[int, Any] = threading._active  # type: ignore[attr-defined]  # noqa: SLF001
    ident = get_ident()
    if ident in active:
        yield
        return
    active[ident] = _Guest()
    try:
        yield
    finally:
        active.pop(ident, None)
