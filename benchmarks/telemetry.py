"""OpenTelemetry: what a socket costs where it is loaded, and a service whose receiver is ill.

A socket: 16 frames deep, as in ``creation``, with the API loaded and no span, and in a span of
a real SDK; bound 4 µs as there. A tick where there is no SDK is a check.

The service encodes and decodes JSON in a loop while its guard looks five times a second,
finds leaks, and tells a batch processor, whose receiver takes all, refuses, hangs, or answers
400. Each against the same loop without a guard, by the processor time of the loop's thread and
by the clock; of the pairs the least disturbed quarter counts. The exporter is OTLP over HTTP;
without it installed those rows are left out.
"""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

import sockguard
from benchmarks.creation import BOUND_NS, FRAMES, standing_frames
from benchmarks.measure import Pair, Row, compare, in_a_thread, more, rate, row, undisturbed
from sockguard.exporters.otel import OtelExporter, Providers

SLOWED: Final = 0.99
_BATCH: Final = 200
_REQUESTS: Final = 10_000
_THRESHOLD_S: Final = 0.05
_LEAKS: Final = 50


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
    """Leaks a socket now and then, up to a bound, from a thread of its own."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._kept: list[socket.socket] = []
        self._thread = threading.Thread(target=self._leak)
        self._thread.start()

    def _leak(self) -> None:
        while not self._ended.wait(0.01) and len(self._kept) < _LEAKS:
            near, far = socket.socketpair()
            far.close()
            self._kept.append(near)

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
        for sock in self._kept:
            sock.close()


def _serve() -> None:
    """Do what handlers do between their system calls: those make each round another one."""
    for number in range(_REQUESTS):
        json.loads(json.dumps({"number": number, "items": list(range(20)), "name": "an answer"}))


def _round(guard: Callable[[], AbstractContextManager[object]]) -> tuple[float, float]:
    """Return what the loop took: processor time and by the clock, in ns."""
    leaking = _Leaking()
    try:
        with guard():
            time.sleep(4 * _THRESHOLD_S)  # until there is something to tell
            cpu, clock = time.thread_time_ns(), time.perf_counter_ns()
            _serve()
            return time.thread_time_ns() - cpu, time.perf_counter_ns() - clock
    finally:
        leaking.end()


def _ill(illness: str, pairs: int) -> list[Row]:
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

    with _receiver(illness) as address:
        provider = LoggerProvider(shutdown_on_exit=False)
        exporter = OTLPLogExporter(endpoint=address, timeout=1)
        processor = BatchLogRecordProcessor(exporter, schedule_delay_millis=100)
        provider.add_log_record_processor(processor)

        @contextmanager
        def guarded() -> Iterator[None]:
            guard = sockguard.install(threshold=_THRESHOLD_S, interval=0.2, quiet=True)
            guard.tell_providers(logger_provider=provider)
            try:
                yield
            finally:
                sockguard.uninstall()

        @contextmanager
        def unguarded() -> Iterator[None]:
            yield

        plain, under = [], []
        for number in range(pairs + 1):
            for guard in (unguarded, guarded) if number % 2 else (guarded, unguarded):
                (plain if guard is unguarded else under).append(_round(guard))
        provider.shutdown()
    by_cpu = [Pair(p[0], g[0]) for p, g in zip(plain[1:], under[1:], strict=True)]
    by_clock = [Pair(p[1], g[1]) for p, g in zip(plain[1:], under[1:], strict=True)]
    what = f"a service that leaks, its receiver {illness}"
    return [
        rate(what, undisturbed(by_cpu), at_least=SLOWED),
        rate("… by the clock", undisturbed(by_clock)),
    ]


def rows(*, quick: bool) -> list[Row]:
    found = [_tick_without_sdk(), *_creation(80 if quick else 300)]
    if importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None:
        for illness in ("takes all", "refuses", "hangs", "answers 400"):
            found += _ill(illness, 8 if quick else 32)
    return found
