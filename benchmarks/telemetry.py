"""OpenTelemetry: what a socket costs where it is loaded, and a service whose receiver is ill.

A socket: 16 frames deep, as in ``creation``, with the API loaded and no span, and in a span of
a real SDK; bound 4 µs as there. A tick where there is no SDK is a check.

The service echoes a byte in a loop while its guard finds a leak at every tick and tells a
batch processor, whose receiver takes all, refuses, hangs, or answers 400. Each against the
same loop without a guard, by the processor time of the loop's thread and by the clock.
The exporter is OTLP over HTTP; without it installed those rows are left out.
"""

from __future__ import annotations

import importlib.util
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import sockguard
from benchmarks.creation import BOUND_NS, FRAMES, standing_frames
from benchmarks.measure import Pair, Row, compare, in_a_thread, more, row, sure_rate
from sockguard.exporters.otel import OtelExporter, Providers

SLOWED: Final = 0.99
_BATCH: Final = 200
_ECHOES: Final = 20_000
_THRESHOLD_S: Final = 0.05


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
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            if illness == "hangs":
                ended.wait(60)
            self.send_response(400 if illness == "answers 400" else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Keep the table clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    address = f"http://127.0.0.1:{server.server_address[1]}/v1/logs"
    if illness == "refuses":
        server.server_close()
        yield address
        return
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield address
    finally:
        ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Leaking:
    """Leaks a socket at each of its ticks, up to a bound, from a thread of its own."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._kept: list[socket.socket] = []
        self._thread = threading.Thread(target=self._leak)
        self._thread.start()

    def _leak(self) -> None:
        while not self._ended.wait(0.02) and len(self._kept) < 500:
            near, far = socket.socketpair()
            far.close()
            self._kept.append(near)

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
        for sock in self._kept:
            sock.close()


def _echo(near: socket.socket, far: socket.socket) -> None:
    for _ in range(_ECHOES):
        near.send(b"x")
        far.recv(1)


def _round(guard: Callable[[], AbstractContextManager[object]]) -> tuple[float, float]:
    """Return what the loop took: processor time and by the clock, in ns."""
    leaking = _Leaking()
    near, far = socket.socketpair()
    try:
        with guard():
            time.sleep(2 * _THRESHOLD_S)  # until there is something to tell
            cpu, clock = time.thread_time_ns(), time.perf_counter_ns()
            _echo(near, far)
            return time.thread_time_ns() - cpu, time.perf_counter_ns() - clock
    finally:
        near.close()
        far.close()
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
            guard = sockguard.install(threshold=_THRESHOLD_S, interval=0.05, quiet=True)
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
        sure_rate(what, by_cpu, at_least=SLOWED),
        sure_rate("… by the clock", by_clock),
    ]


def rows(*, quick: bool) -> list[Row]:
    found = [_tick_without_sdk(), *_creation(80 if quick else 300)]
    if importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None:
        for illness in ("takes all", "refuses", "hangs", "answers 400"):
            found += _ill(illness, 6 if quick else 30)
    return found
