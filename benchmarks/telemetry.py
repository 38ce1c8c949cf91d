"""OpenTelemetry: what a socket costs where it is loaded, and a service whose receiver is ill.

A socket: 16 frames deep, as in ``creation``, with the API loaded and no span, and in a span of
a real SDK; bound 4 µs as there. A tick where there is no SDK is a check.

The service encodes and decodes JSON in a loop and leaks ten connections a second. Its guard
looks five times a second, and tells nobody, or a batch processor, whose receiver takes all,
refuses, hangs, or answers 400. The rounds follow each other closely, each time in another
order. What other threads take from the loop is time in which it may not run: the clock's over
that of its own processor, which a neighbour on the host who makes all work twice as dear does
not touch. An ill receiver is held against one that takes all. The exporter is OTLP over HTTP;
without it installed those rows are left out.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Final

import sockguard
from benchmarks.creation import BOUND_NS, FRAMES, standing_frames
from benchmarks.measure import (
    Pair,
    Row,
    compare,
    in_a_thread,
    more,
    row,
    sure_rate,
)
from sockguard.exporters.otel import OtelExporter, Providers

SLOWED: Final = 0.99
_BATCH: Final = 200
_REQUESTS: Final = 150_000
_THRESHOLD_S: Final = 0.05
_LEAK_EVERY_S: Final = 0.1
_LEAKS: Final = 100
_PLAIN: Final = "unguarded"
_NOBODY: Final = "nobody"
_HEALTHY: Final = "takes all"
_ILL: Final = ("refuses", "hangs", "answers 400")


def _creation(pairs: int) -> list[Row]:
    from opentelemetry.sdk.trace import TracerProvider

    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("benchmark")
    bound: dict[str, float] = {"at_most": BOUND_NS}
    rows = []
    for level in ("light", "full"):
        measured = in_a_thread(lambda: compare(standing_frames, _BATCH, level, pairs))  # noqa: B023
        what = f"creating a socket, {FRAMES} frames deep, OpenTelemetry loaded, {level}"
        rows.append(more(what, "ns", measured, **bound))

        def in_a_span(level: str = level) -> list[Pair]:
            with tracer.start_as_current_span("request"):
                return compare(standing_frames, _BATCH, level, pairs)

        rows.append(more(f"… in a span, {level}", "ns", in_a_thread(in_a_span), **bound))
    return rows


def _tick_without_sdk() -> Row:
    exporter = OtelExporter(always=False, omits_addresses=False, providers=Providers())
    values = []
    for _ in range(30):
        began = time.perf_counter_ns()
        for _ in range(1000):
            assert not exporter.wants_reading()
        values.append((time.perf_counter_ns() - began) / 1000)
    return row("a tick without an SDK: the look for one", "ns", values)


# -- a receiver that is ill ------------------------------------------------------------


@contextmanager
def _receiver(illness: str) -> Iterator[str]:
    """Run a receiver; yield its address."""
    command = [sys.executable, str(Path(__file__).with_name("receiver.py")), illness]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1/logs"
        finally:
            process.stdin.close()


class _Leaking:
    """Leaks ten connections a second, up to a bound, from a thread of its own."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._kept = [self._listener]
        self._thread = threading.Thread(target=self._leak)
        self._thread.start()

    def _leak(self) -> None:
        while not self._ended.wait(_LEAK_EVERY_S) and len(self._kept) < _LEAKS:
            client = socket.create_connection(self._listener.getsockname())
            self._kept.append(self._listener.accept()[0])
            client.close()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
        for sock in self._kept:
            sock.close()


def _serve() -> None:
    """Do what handlers do between their system calls: those make each round another one."""
    for number in range(_REQUESTS):
        json.loads(json.dumps({"number": number, "items": list(range(20)), "name": "an answer"}))


def _round(guard: Callable[[], AbstractContextManager[object]]) -> float:
    """Return how long the loop took, by the clock, for each second of its own processor."""
    leaking = _Leaking()
    try:
        with guard():
            time.sleep(4 * _THRESHOLD_S)  # until there is something to tell
            cpu, clock = time.thread_time_ns(), time.perf_counter_ns()
            _serve()
            cpu = time.thread_time_ns() - cpu
            return (time.perf_counter_ns() - clock) / cpu
    finally:
        leaking.end()


@contextmanager
def _telling(provider: object | None) -> Iterator[None]:
    guard = sockguard.install(threshold=_THRESHOLD_S, interval=0.2, quiet=True)
    try:
        if provider is not None:
            guard.tell_providers(logger_provider=provider)
        yield
    finally:
        sockguard.uninstall()


@contextmanager
def _exporting(illness: str) -> Iterator[object]:
    """Yield a provider of loggers that exports to a receiver with ``illness``."""
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

    with _receiver(illness) as address:
        provider = LoggerProvider(shutdown_on_exit=False)
        exporter = OTLPLogExporter(endpoint=address, timeout=1)
        processor = BatchLogRecordProcessor(exporter, schedule_delay_millis=100)
        provider.add_log_record_processor(processor)
        yield provider
        provider.shutdown()


def _services(rounds: int) -> list[Row]:
    took: dict[str, list[float]] = {what: [] for what in (_PLAIN, _NOBODY, _HEALTHY, *_ILL)}
    with ExitStack() as stack:
        guards: dict[str, Callable[[], AbstractContextManager[object]]] = {
            _PLAIN: nullcontext,
            _NOBODY: lambda: _telling(None),
        }
        for illness in (_HEALTHY, *_ILL):
            provider = stack.enter_context(_exporting(illness))
            guards[illness] = functools.partial(_telling, provider)
        for _ in range(rounds + 1):
            for what in random.sample(list(guards), len(guards)):
                took[what].append(_round(guards[what]))

    def against(before: str, what: str) -> list[Pair]:
        return [Pair(*both) for both in zip(took[before][1:], took[what][1:], strict=True)]

    what = "a service that leaks ten a second"
    return [
        sure_rate(f"{what}, nobody told", against(_PLAIN, _NOBODY)),
        sure_rate("… a receiver that takes all", against(_PLAIN, _HEALTHY)),
        *(
            sure_rate(f"… one that {ill}, against that", against(_HEALTHY, ill), at_least=SLOWED)
            for ill in _ILL
        ),
    ]


def rows(*, quick: bool) -> list[Row]:
    found = [_tick_without_sdk(), *_creation(80 if quick else 300)]
    if importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None:
        found += _services(6 if quick else 24)
    return found
