"""A receiver of OpenTelemetry's wire format, that can also be a bad one.

It listens for OTLP/HTTP in this process. OTLP/gRPC is taken by a child that passes the bytes on
to it: gRPC's threads stay out of the tests' process, which forks. What comes is decoded by
``opentelemetry-proto`` alone, nothing of the SDK.
"""

from __future__ import annotations

import gzip
import http.client
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, TypeVar

from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces

from support.programs import PATIENCE_S

Request = TypeVar("Request")

#: Signal -> how a request of it is read, and what it is answered.
SIGNALS: Final = {
    "logs": (logs.ExportLogsServiceRequest, logs.ExportLogsServiceResponse),
    "metrics": (metrics.ExportMetricsServiceRequest, metrics.ExportMetricsServiceResponse),
    "traces": (traces.ExportTraceServiceRequest, traces.ExportTraceServiceResponse),
}
#: The full names of the gRPC methods.
METHODS: Final = {
    "/opentelemetry.proto.collector.logs.v1.LogsService/Export": "logs",
    "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export": "metrics",
    "/opentelemetry.proto.collector.trace.v1.TraceService/Export": "traces",
}
HANG: Final = 0


@dataclass(frozen=True, kw_only=True)
class Record:
    """A log record as it came. ``arrived_ns`` is monotonic."""

    event_name: str
    time_unix_ns: int
    severity_number: int
    severity_text: str
    body: Any
    attributes: Mapping[str, Any]
    trace_id: str
    span_id: str
    flags: int
    scope: str
    scope_version: str
    schema_url: str
    resource: Mapping[str, Any]
    arrived_ns: int


@dataclass(frozen=True, kw_only=True)
class Point:
    """One number of one metric. ``value`` of a histogram is its count."""

    metric: str
    kind: str
    unit: str
    value: float
    attributes: Mapping[str, Any]
    bounds: tuple[float, ...]
    sum: float
    scope: str
    resource: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Span:
    """A span as it came."""

    name: str
    kind: int
    trace_id: str
    span_id: str


@dataclass
class Receiver:
    """Keeps what came. ``answers``: the HTTP status by signal, or ``HANG``; 200 if left out."""

    endpoint: str = ""
    answers: dict[str, int] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    #: How many requests of a signal came, also those that were not taken.
    requests: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SIGNALS, 0))
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _closing: threading.Event = field(default_factory=threading.Event)

    def events(self, name: str) -> list[Record]:
        """Return the log records of one event, in the order they came."""
        return [record for record in list(self.records) if record.event_name == name]

    def latest(self, metric: str) -> list[Point]:
        """Return the last point of each series of a metric: by process and attributes."""
        series = {}
        for point in list(self.points):
            if point.metric == metric:
                instance = point.resource.get("service.instance.id")
                series[instance, tuple(sorted(point.attributes.items()))] = point
        return list(series.values())

    def wait_for(self, what: str, ask: Callable[[], Request]) -> Request:
        """Ask whenever something came, until the answer is true; fail by name if it never is."""
        deadline = time.monotonic() + PATIENCE_S
        with self._changed:
            while not (answer := ask()):
                left_s = deadline - time.monotonic()
                assert left_s > 0, f"waited {PATIENCE_S:g} s in vain for {what}"
                self._changed.wait(left_s)
        return answer

    def wait_for_events(self, name: str, count: int = 1) -> list[Record]:
        """Wait until ``count`` records of an event are there; return all."""
        return self.wait_for(
            f"{count} of {name}",
            lambda: len(self.events(name)) >= count and self.events(name),
        )

    def take(self, signal: str, payload: bytes) -> tuple[int, bytes]:
        """Keep a request, or treat it badly; return the status and the answer. Any thread."""
        request, response = SIGNALS[signal]
        status = self.answers.get(signal, 200)
        if status == 200:
            self._keep(request.FromString(payload))
        with self._changed:
            self.requests[signal] += 1
            self._changed.notify_all()
        if status == HANG:
            self._closing.wait(PATIENCE_S)
        return status, response().SerializeToString() if status == 200 else b""

    def _keep(self, request: Any) -> None:
        now_ns = time.monotonic_ns()
        with self._changed:
            if isinstance(request, logs.ExportLogsServiceRequest):
                self.records += _records(request, now_ns)
            elif isinstance(request, metrics.ExportMetricsServiceRequest):
                self.points += _points(request)
            else:
                self.spans += _spans(request)

    def close(self) -> None:
        self._closing.set()


@contextmanager
def receiving(protocol: str = "http/protobuf", **answers: int) -> Iterator[Receiver]:
    """Receive by ``http/protobuf`` or ``grpc`` while the block runs."""
    receiver = Receiver(answers=answers)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(receiver))
    server.daemon_threads = False  # the close waits for them
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        receiver.endpoint = f"http://127.0.0.1:{server.server_port}"
        if protocol == "grpc":
            with _bridge(server.server_port) as receiver.endpoint:
                yield receiver
        else:
            yield receiver
    finally:
        receiver.close()
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def refusing() -> Iterator[str]:
    """Yield an endpoint where nobody listens, and nobody else will."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


# -- from the wire ---------------------------------------------------------------------


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return None if kind is None else getattr(value, kind)


def _attributes(pairs: Any) -> dict[str, Any]:
    found = {pair.key: _value(pair.value) for pair in pairs}
    assert len(found) == len(pairs), "an attribute came twice"
    return found


def _records(request: Any, now_ns: int) -> Iterator[Record]:
    for group in request.resource_logs:
        for scoped in group.scope_logs:
            for record in scoped.log_records:
                yield Record(
                    event_name=record.event_name,
                    time_unix_ns=record.time_unix_nano,
                    severity_number=record.severity_number,
                    severity_text=record.severity_text,
                    body=_value(record.body),
                    attributes=_attributes(record.attributes),
                    trace_id=record.trace_id.hex(),
                    span_id=record.span_id.hex(),
                    flags=record.flags,
                    scope=scoped.scope.name,
                    scope_version=scoped.scope.version,
                    schema_url=scoped.schema_url,
                    resource=_attributes(group.resource.attributes),
                    arrived_ns=now_ns,
                )


def _points(request: Any) -> Iterator[Point]:
    for group in request.resource_metrics:
        for scoped in group.scope_metrics:
            for metric in scoped.metrics:
                kind = metric.WhichOneof("data")
                for point in getattr(metric, kind).data_points:
                    is_histogram = kind == "histogram"
                    yield Point(
                        metric=metric.name,
                        kind=_kind(metric, kind),
                        unit=metric.unit,
                        value=point.count
                        if is_histogram
                        else getattr(point, point.WhichOneof("value")),
                        attributes=_attributes(point.attributes),
                        bounds=tuple(point.explicit_bounds) if is_histogram else (),
                        sum=point.sum if is_histogram else 0.0,
                        scope=scoped.scope.name,
                        resource=_attributes(group.resource.attributes),
                    )


def _kind(metric: Any, kind: str) -> str:
    """Return the word for the instrument that makes such points."""
    if kind == "sum":
        return "counter" if metric.sum.is_monotonic else "updowncounter"
    return kind


def _spans(request: Any) -> Iterator[Span]:
    for group in request.resource_spans:
        for scoped in group.scope_spans:
            for span in scoped.spans:
                yield Span(
                    name=span.name,
                    kind=span.kind,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                )


# -- HTTP ------------------------------------------------------------------------------

_DECODE: Final = {"": bytes, "gzip": gzip.decompress, "deflate": zlib.decompress}


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = PATIENCE_S

        def do_POST(self) -> None:
            payload = self.rfile.read(int(self.headers["Content-Length"]))
            payload = _DECODE[self.headers.get("Content-Encoding", "")](payload)
            status, answer = receiver.take(self.path.removeprefix("/v1/"), payload)
            # Unannounced: the exporter keeps the connection, which is then in CLOSE_WAIT.
            self.close_connection = True
            if status != HANG:
                self.send_response(status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            """Say nothing on standard error."""

    return Handler


# -- gRPC ------------------------------------------------------------------------------


@contextmanager
def _bridge(port: int) -> Iterator[str]:
    """Run a child that takes OTLP/gRPC and passes it on; yield its endpoint."""
    command = [sys.executable, "-m", "support.otlp", str(port)]
    with subprocess.Popen(
        command,
        cwd=Path(__file__).parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(child.stdout.readline())}"
        finally:
            child.stdin.close()
            try:
                child.wait(PATIENCE_S)
            finally:
                child.kill()


def _run_bridge(port: int) -> None:
    """Take OTLP/gRPC, pass each request on to OTLP/HTTP as it is, until the input ends."""
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    statuses = {400: grpc.StatusCode.INVALID_ARGUMENT, 503: grpc.StatusCode.UNAVAILABLE}

    def export(signal: str) -> Callable[[bytes, Any], bytes]:
        def pass_on(payload: bytes, context: Any) -> bytes:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
            try:
                connection.request("POST", f"/v1/{signal}", payload)
                answer = connection.getresponse()
                if answer.status != 200:
                    context.abort(statuses[answer.status], "as told")
                return answer.read()
            except http.client.RemoteDisconnected:  # it hung, and now ends
                context.abort(grpc.StatusCode.UNAVAILABLE, "no answer")
            finally:
                connection.close()

        return pass_on

    class Handlers(grpc.GenericRpcHandler):
        def service(self, call: Any) -> Any:
            signal = METHODS.get(call.method)
            return signal and grpc.unary_unary_rpc_method_handler(export(signal))

    server = grpc.server(ThreadPoolExecutor(8), handlers=[Handlers()])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()
    server.stop(grace=None).wait(PATIENCE_S)


if __name__ == "__main__":
    _run_bridge(int(sys.argv[1]))
