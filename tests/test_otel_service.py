"""Real services that export over the wire, to a receiver in another process."""

from __future__ import annotations

import http.client
import json
import resource
import signal
import socket
import sys
import sysconfig
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import util
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from support import kernel
from support.ldjson import leaks, line_of, summaries, wait_for
from support.programs import PATIENCE_S, SERVERS, Program, clean_environment, running

for _package in (
    "opentelemetry-distro",
    "opentelemetry-exporter-otlp-proto-grpc",
    "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry-instrumentation-fastapi",
    "fastapi",
    "uvicorn",
    "gunicorn",
    "requests",
):
    try:
        distribution(_package)
    except PackageNotFoundError:
        pytest.skip(f"{_package} is not installed: see the extra `test`", allow_module_level=True)

from support.otlp import (  # noqa: E402  # what it needs is looked for first
    HANG,
    Point,
    Receiver,
    Record,
    receiving,
    refusing,
)

LEAK = "sockguard.socket.leak"
RESOLVED = "sockguard.socket.leak.resolved"
FILE = SERVERS / "otel_service.py"
# Two ticks are longer than a busy machine is late.
THRESHOLD_S = 0.3
INTERVAL_S = 0.5
SCHEDULE_DELAY_S = 0.1
EXPORT_TIMEOUT_S = 1
BODY = b"x" * 20_000
WARN, INFO = 13, 9  # opentelemetry.proto.logs.v1.SeverityNumber
SERVER = 2  # opentelemetry.proto.trace.v1.Span.SpanKind
INSTRUMENT = Path(sysconfig.get_path("scripts"), "opentelemetry-instrument")
UVICORN = (sys.executable, "-m", "uvicorn", "--app-dir", SERVERS, "--fd", "{fd}", "--loop")
UVICORN += ("asyncio", "--http", "h11", "--lifespan", "off", "--no-access-log", "otel_service:app")


class Upstream(ThreadingHTTPServer):
    """Answers each request in full, then closes, although it promised to keep the connection."""

    request_queue_size = 512

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        #: When each connection was closed, monotonic and wall clock.
        self.closed_ns: list[tuple[int, int]] = []

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.closed_ns.append((time.monotonic_ns(), time.time_ns()))


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE_S

    def do_GET(self) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
        self.wfile.write(head + BODY)
        self.close_connection = True


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@dataclass(frozen=True)
class Service:
    """A running service. ``output``: what its guards write as JSON Lines, the other witness."""

    program: Program
    port: int
    output: Path

    def get(self, path: str, trace_id: str | None = None) -> int:
        """Ask for ``path``, in a trace if one is given; return the process that answered."""
        headers = {"Connection": "close"}
        if trace_id is not None:
            headers["traceparent"] = f"00-{trace_id}-00f067aa0ba902b7-01"
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            client.request("GET", path, headers=headers)
            answer = client.getresponse()
            body = answer.read()
        finally:
            client.close()
        assert answer.status == 200, body
        said = json.loads(body)
        return said if isinstance(said, int) else said["pid"]

    def stop(self, by: signal.Signals = signal.SIGINT) -> None:
        """End it, and have all exported. uvicorn dies of SIGTERM before ``atexit``."""
        self.program.process.send_signal(by)
        assert self.program.process.wait(PATIENCE_S) == 0, self.program.errors()


@contextmanager
def serving(
    folder: Path,
    upstream: tuple[str, int],
    endpoint: str,
    protocol: str = "http/protobuf",
    command: Sequence[str | Path] = (INSTRUMENT, *UVICORN),
    **more: str,
) -> Iterator[Service]:
    """Run a service that exports to ``endpoint``. It takes its listener from us."""
    output = folder / "leaks.jsonl"
    environment = {
        "UPSTREAM": str(upstream[1]),
        "NO_PROXY": "127.0.0.1",
        "OTEL_SERVICE_NAME": "shop",
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_TIMEOUT": str(EXPORT_TIMEOUT_S),
        "OTEL_BLRP_SCHEDULE_DELAY": f"{SCHEDULE_DELAY_S * 1000:.0f}",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_METRIC_EXPORT_INTERVAL": "1000",
        "SOCKGUARD_THRESHOLD": str(THRESHOLD_S),
        "SOCKGUARD_INTERVAL": str(INTERVAL_S),
        "SOCKGUARD_LEVEL": "full",
        "SOCKGUARD_OUTPUT": str(output),
        "SOCKGUARD_QUIET": "1",
        **more,
    }
    inherited = {k: v for k, v in clean_environment().items() if not k.startswith("OTEL_")}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        words = [str(word).format(fd=fd) for word in command]
        with running(words, folder, inherited | environment, pass_fds=[fd]) as program:
            yield Service(program, listener.getsockname()[1], output)


# -- one service, from the leak to the close, by each protocol --------------------------

BY_A_THREAD = "4bf92f3577b34da6a3ce929d0e0e4736"
BY_A_TASK = "0af7651916cd43dd8448eb211c80319c"


@dataclass(frozen=True)
class Story:
    """What came of two leaks, one opened by a thread and one by a task, and of their close."""

    protocol: str
    receiver: Receiver
    upstream: Upstream
    service: Service
    pid: int
    #: In CLOSE_WAIT while the two leaks were, by the kernel.
    close_wait: int

    def leak(self, trace_id: str) -> Record:
        (event,) = [event for event in self.receiver.events(LEAK) if event.trace_id == trace_id]
        return event


def counts_of_close_wait(receiver: Receiver) -> list[float]:
    return [0.0] + [
        point.value
        for point in receiver.points
        if point.metric == "sockguard.socket.count"
        and point.attributes.get("network.connection.state") == "close_wait"
    ]


@pytest.fixture(scope="module", params=["http/protobuf", "grpc"])
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("story")
    upstream = request.getfixturevalue("upstream")
    upstream.closed_ns.clear()
    with (
        receiving(request.param) as receiver,
        serving(folder, upstream.server_address, receiver.endpoint, request.param) as service,
    ):
        pid = service.get("/keep", BY_A_THREAD)
        receiver.wait_for_events(LEAK)
        service.get("/keep-in-a-task", BY_A_TASK)
        receiver.wait_for_events(LEAK, 2)
        if request.param != "grpc":
            # Sockets are counted every 5 s. So long the exporter's own are in CLOSE_WAIT.
            receiver.wait_for("a count of both", lambda: max(counts_of_close_wait(receiver)) >= 2)
        close_wait = kernel.close_wait(pid)
        service.get("/close")
        receiver.wait_for_events(RESOLVED, 2)
        service.stop()  # all that is left is exported, so that nothing can come twice later
        yield Story(request.param, receiver, upstream, service, pid, close_wait)


def test_a_leak_arrives_once_and_so_does_its_end(story: Story) -> None:
    for name in (LEAK, RESOLVED):
        found = story.receiver.events(name)
        assert sorted(event.trace_id for event in found) == sorted([BY_A_THREAD, BY_A_TASK])
    ours = [record for record in story.receiver.records if record.scope == "sockguard"]
    assert len(ours) == 4
    assert "sockguard" not in story.service.program.errors()


def test_a_leak_arrives_within_the_threshold_and_two_ticks(story: Story) -> None:
    closed_ns, closed_unix_ns = story.upstream.closed_ns[0]
    event = story.receiver.events(LEAK)[0]
    most_s = THRESHOLD_S + 2 * INTERVAL_S
    # The FIN leaves a moment before we note it; a wall clock may be set.
    assert THRESHOLD_S - 0.1 <= (event.time_unix_ns - closed_unix_ns) / 1e9 <= most_s
    assert THRESHOLD_S <= event.attributes["sockguard.since_fin"] <= most_s
    assert (event.arrived_ns - closed_ns) / 1e9 <= most_s + SCHEDULE_DELAY_S


def test_a_leak_belongs_to_the_request_that_opened_the_socket(story: Story) -> None:
    for trace_id in (BY_A_THREAD, BY_A_TASK):
        (span,) = [
            span
            for span in story.receiver.spans
            if span.trace_id == trace_id and span.kind == SERVER
        ]
        told = [event for event in story.receiver.records if event.trace_id == trace_id]
        assert [(event.event_name, event.span_id, event.flags) for event in told] == [
            (LEAK, span.span_id, 1),
            (RESOLVED, span.span_id, 1),
        ]


def test_events_are_by_the_book(story: Story) -> None:
    for name, severity in ((LEAK, WARN), (RESOLVED, INFO)):
        for event in story.receiver.events(name):
            assert (event.severity_number, event.severity_text) == (severity, "")
            assert event.schema_url.startswith("https://opentelemetry.io/schemas/")
            assert event.scope_version
            assert event.resource["service.name"] == "shop"
            assert isinstance(event.body, str)
            assert "127.0.0.1" not in event.body


KNOWN = {
    "code.file.path": str,
    "code.function.name": str,
    "code.line.number": int,
    "code.stacktrace": str,
    "network.connection.state": str,
    "network.local.address": str,
    "network.local.port": int,
    "network.peer.address": str,
    "network.peer.port": int,
    "network.transport": str,
    "network.type": str,
    "sockguard.advice": str,
    "sockguard.age": float,
    "sockguard.confidence": str,
    "sockguard.far_end.state": str,
    "sockguard.fd": int,
    "sockguard.fingerprint": str,
    "sockguard.group.count": int,
    "sockguard.group.open": int,
    "sockguard.kind": str,
    "sockguard.since_fin": float,
    "sockguard.unread_bytes": int,
    "sockguard.verdict": str,
    "sockguard.why": str,
    "thread.name": str,
}


def types(event: Record) -> dict[str, type]:
    found = {name: type(value) for name, value in event.attributes.items()}
    found.pop("sockguard.holders", None)
    return found


def test_a_leak_has_all_attributes_that_are_known(story: Story) -> None:
    event = story.leak(BY_A_THREAD)
    assert types(event) == KNOWN | {"sockguard.end_unread": bool}
    told = event.attributes
    call = line_of(FILE, "requests.get(")
    assert told["code.file.path"] == str(FILE)
    assert told["code.line.number"] == call
    assert told["code.function.name"] == "otel_service.keep"
    assert f'File "{FILE}", line {call}, in keep\n' in told["code.stacktrace"]
    assert told["network.peer.address"] == told["network.local.address"] == "127.0.0.1"
    assert told["network.peer.port"] == story.upstream.server_port
    assert (told["network.transport"], told["network.type"]) == ("tcp", "ipv4")
    assert told["network.connection.state"] == "close_wait"
    assert (told["sockguard.kind"], told["sockguard.verdict"]) == ("peer_closed", "unread")
    assert (told["sockguard.group.count"], told["sockguard.group.open"]) == (1, 1)
    assert 0 < told["sockguard.unread_bytes"] < len(BODY)
    assert told["sockguard.end_unread"] is True
    # The kernel dates the FIN to a few milliseconds.
    assert told["sockguard.age"] >= told["sockguard.since_fin"] - 0.05


def test_a_leak_of_a_task_names_the_task_and_the_read_that_met_the_end(story: Story) -> None:
    event = story.leak(BY_A_TASK)
    more = {"sockguard.task": str, "sockguard.eof.stacktrace": str}
    assert types(event) == KNOWN | more
    assert event.attributes["sockguard.verdict"] == "eof_ignored"
    assert event.attributes["code.function.name"] == "otel_service.keep_in_a_task"
    assert event.attributes["thread.name"] == "MainThread"
    other = story.leak(BY_A_THREAD).attributes["sockguard.fingerprint"]
    assert event.attributes["sockguard.fingerprint"] != other


def test_an_end_tells_how_long_the_socket_was_open(story: Story) -> None:
    for event in story.receiver.events(RESOLVED):
        leak = story.leak(event.trace_id)
        assert event.attributes["sockguard.fingerprint"] == leak.attributes["sockguard.fingerprint"]
        assert event.attributes["sockguard.open"] > leak.attributes["sockguard.since_fin"]


def test_the_exporter_s_own_sockets_are_no_findings(story: Story) -> None:
    # gRPC keeps its connection; by HTTP, those of logs and traces were in CLOSE_WAIT too.
    assert story.close_wait == 2 if story.protocol == "grpc" else story.close_wait >= 4
    (summary,) = summaries(story.service.output).values()
    assert summary["pid"] == story.pid
    assert (summary["leaked"], summary["open_at_exit"]) == (2, [])
    assert len(leaks(story.service.output)) == 2


METRICS = {
    ("sockguard.socket.count", "updowncounter", "{socket}"): {"network.connection.state"},
    ("sockguard.socket.leaks", "counter", "{socket}"): {"sockguard.kind", "sockguard.fingerprint"},
    ("sockguard.socket.close_wait.duration", "histogram", "s"): {"sockguard.leaked"},
    ("sockguard.fd.count", "updowncounter", "{fd}"): set(),
    ("sockguard.watcher.cpu.time", "counter", "s"): set(),
    ("sockguard.events.dropped", "counter", "{event}"): {"sockguard.drop.reason"},
}
# Comes 5 s after the first sockets.
COUNT = ("sockguard.socket.count", "updowncounter", "{socket}")
LIMIT = {("sockguard.fd.limit", "updowncounter", "{fd}"): set()}


def test_every_metric_arrives_with_its_unit_and_attributes(story: Story) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    expected = METRICS | ({} if soft == resource.RLIM_INFINITY else LIMIT)
    ours = [point for point in story.receiver.points if point.scope == "sockguard"]
    found: dict[tuple[str, str, str], set[str]] = {}
    for point in ours:
        found.setdefault((point.metric, point.kind, point.unit), set()).update(point.attributes)
    if story.protocol == "grpc":  # ended before the sockets were counted, it may be
        found.pop(COUNT, None)
        expected.pop(COUNT)
    assert found == expected
    assert len({point.resource["service.instance.id"] for point in ours}) == 1


def values(points: list[Point], attribute: str) -> dict[Any, float]:
    return {point.attributes[attribute]: point.value for point in points}


def test_the_metrics_have_the_right_numbers(story: Story) -> None:
    receiver = story.receiver
    names = [event.attributes["sockguard.fingerprint"] for event in receiver.events(LEAK)]
    leaked = receiver.latest("sockguard.socket.leaks")
    assert values(leaked, "sockguard.fingerprint") == dict.fromkeys(names, 1)
    assert {point.attributes["sockguard.kind"] for point in leaked} == {"peer_closed"}
    dropped = receiver.latest("sockguard.events.dropped")
    assert values(dropped, "sockguard.drop.reason") == {"rate": 0, "error": 0}
    if story.protocol != "grpc":
        assert max(counts_of_close_wait(receiver)) == 2  # not those of the exporter
    closed = receiver.latest("sockguard.socket.close_wait.duration")
    assert values(closed, "sockguard.leaked") == {True: 2}  # the exporter's own are not in it
    (ours,) = closed
    ends = [event.attributes["sockguard.open"] for event in receiver.events(RESOLVED)]
    assert ours.sum == pytest.approx(sum(ends), abs=0.01)
    assert ours.bounds == (0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 900, 3600)
    (cpu,) = receiver.latest("sockguard.watcher.cpu.time")
    assert 0 < cpu.value < PATIENCE_S
    (fds,) = receiver.latest("sockguard.fd.count")
    assert fds.value > 3


# -- one guard, however it was asked for, and none where it is not wanted ---------------

SOCKGUARD = (sys.executable, "-m", "sockguard")


@pytest.mark.parametrize(
    ("command", "more"),
    [
        pytest.param((INSTRUMENT, *UVICORN), {"SOCKGUARD": "1"}, marks=pytest.mark.long),
        ((INSTRUMENT, *SOCKGUARD, *UVICORN[1:]), {}),
        pytest.param((*SOCKGUARD, "run", "--", INSTRUMENT, *UVICORN), {}, marks=pytest.mark.long),
    ],
    ids=["by-the-environment", "by-a-command-within", "by-a-command-around"],
)
def test_a_service_that_is_asked_for_twice_is_guarded_once(
    tmp_path: Path, upstream: Upstream, command: Sequence[str | Path], more: dict[str, str]
) -> None:
    more = {"SOCKGUARD_INTERVAL": "0.1"} | more
    with (
        receiving() as receiver,
        serving(
            tmp_path, upstream.server_address, receiver.endpoint, command=command, **more
        ) as service,
    ):
        pid = service.get("/keep", BY_A_THREAD)
        receiver.wait_for_events(LEAK)
        service.get("/close")
        receiver.wait_for_events(RESOLVED)
        service.stop()
        told = [record for record in receiver.records if record.scope == "sockguard"]
        assert [(event.event_name, event.trace_id) for event in told] == [
            (LEAK, BY_A_THREAD),
            (RESOLVED, BY_A_THREAD),
        ]
        assert [line["pid"] for line in leaks(service.output)] == [pid]
        assert sum(point.value for point in receiver.latest("sockguard.socket.leaks")) == 1
        assert "sockguard" not in service.program.errors()


@pytest.mark.parametrize(
    ("more", "is_guarded"),
    [
        ({}, True),
        ({"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "fastapi,sockguard"}, False),
        ({"OTEL_SDK_DISABLED": "true"}, False),
        ({"SOCKGUARD": "0"}, False),
        ({"SOCKGUARD": ""}, False),
    ],
    ids=["not-said", "by-its-name", "with-the-SDK", "by-0", "by-nothing"],
)
def test_a_guard_can_be_kept_out(tmp_path: Path, more: dict[str, str], is_guarded: bool) -> None:
    probe = "import sys; m = sys.modules.get('sockguard.guard'); print(bool(m and m.installed()))"
    command = (INSTRUMENT, sys.executable, "-c", probe)
    nowhere = dict.fromkeys(("traces", "metrics", "logs"), "none")
    exporters = {f"OTEL_{name.upper()}_EXPORTER": value for name, value in nowhere.items()}
    with serving(tmp_path, ("", 0), "", command=command, **exporters, **more) as service:
        assert service.program.line() == [str(is_guarded)]
        assert service.program.end() == 0
        assert service.program.errors() == ""


# -- workers ---------------------------------------------------------------------------

GUNICORN = (INSTRUMENT, sys.executable, "-m", "gunicorn", "--no-control-socket")
GUNICORN += ("--bind", "fd://{fd}", "--workers", "2", "--pythonpath", SERVERS)
ASYNC = ("-k", "uvicorn.workers.UvicornWorker", "otel_service:app")


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ("http/protobuf", ("otel_service:wsgi",)),
        pytest.param("http/protobuf", ("--preload", "otel_service:wsgi"), marks=pytest.mark.long),
        pytest.param("http/protobuf", ASYNC, marks=pytest.mark.long),
        pytest.param("grpc", ("otel_service:wsgi",), marks=pytest.mark.long),
    ],
    ids=["sync", "preload", "uvicorn", "sync-grpc"],
)
def test_leaks_of_two_workers_at_one_line_add_up(
    tmp_path: Path, upstream: Upstream, protocol: str, words: tuple[str, ...]
) -> None:
    # The master must not export as it forks: the SDK (1.45) leaves the lock of its periodic
    # reader taken in the child, which then exports no metric.
    more = {"SOCKGUARD_INTERVAL": "0.1", "OTEL_METRIC_EXPORT_INTERVAL": "3000"}
    with (
        receiving(protocol) as receiver,
        serving(
            tmp_path,
            upstream.server_address,
            receiver.endpoint,
            protocol,
            (*GUNICORN, *words),
            **more,
        ) as service,
    ):
        pids: set[int] = set()
        wait_for("both workers", lambda: pids.add(service.get("/")) or len(pids) == 2)
        kept: Counter[int] = Counter()
        wait_for("both to leak", lambda: kept.update([service.get("/keep")]) or len(kept) == 2)
        receiver.wait_for(
            "an event of each",
            lambda: len({by_process(event) for event in receiver.events(LEAK)}) == 2,
        )
        if words == ASYNC:  # dies of SIGTERM, where the others export the last numbers
            receiver.wait_for("all counts", lambda: leaked(receiver) == kept.total())
        service.stop(signal.SIGTERM)
        found = receiver.latest("sockguard.socket.leaks")
        assert sorted(point.value for point in found) == sorted(kept.values())
        assert len({by_process(point) for point in found}) == 2
        named = {point.attributes["sockguard.fingerprint"] for point in found}
        named |= {event.attributes["sockguard.fingerprint"] for event in receiver.events(LEAK)}
        assert len(named) == 1
        assert {line["pid"] for line in leaks(service.output)} == set(kept)
        assert "sockguard" not in service.program.errors()


def by_process(told: Record | Point) -> str:
    """Return what tells processes apart; the SDK makes it anew after a fork."""
    return told.resource["service.instance.id"]


# -- too much, and receivers that don't take it ----------------------------------------

FUNCTIONS, SOCKETS = 60, 5  # each function is a cause of its own, and its first five are told
STORM = FUNCTIONS * SOCKETS
QUEUE = 16
STORMY = {
    "SOCKGUARD_INTERVAL": "1",
    "OTEL_METRIC_EXPORT_INTERVAL": "200",
    "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": "true",
}


def dropped(receiver: Receiver) -> float:
    """Return how many events were not handed to the SDK."""
    found = values(receiver.latest("sockguard.events.dropped"), "sockguard.drop.reason")
    assert found["error"] == 0
    return found["rate"]


def leaked(receiver: Receiver) -> float:
    return sum(point.value for point in receiver.latest("sockguard.socket.leaks"))


def test_what_is_too_much_for_a_tick_is_dropped_and_counted(
    tmp_path: Path, upstream: Upstream
) -> None:
    with (
        receiving() as receiver,
        serving(tmp_path, upstream.server_address, receiver.endpoint, **STORMY) as service,
    ):
        service.get(f"/storm?functions={2 * FUNCTIONS}&sockets=2")
        receiver.wait_for("all counts", lambda: leaked(receiver) == 4 * FUNCTIONS)
        service.stop()
        assert dropped(receiver) > 0
        assert len(receiver.events(LEAK)) + dropped(receiver) == 4 * FUNCTIONS
        counts = receiver.latest("sockguard.socket.leaks")
        assert len(counts) == 100 + 1
        rest = values(counts, "sockguard.fingerprint")["other"]
        assert rest == 4 * FUNCTIONS - 2 * 100


@contextmanager
def a_bad_receiver(how: str) -> Iterator[tuple[str, Receiver | None]]:
    """Yield the endpoint of one that refuses, hangs, or answers with a status."""
    if how == "refuses":
        with refusing() as endpoint:
            yield endpoint, None
    else:
        status = HANG if how == "hangs" else int(how)
        with receiving(**dict.fromkeys(("logs", "traces", "metrics"), status)) as bad:
            yield bad.endpoint, bad


def ask_twenty_times(service: Service) -> float:
    """Return the seconds of the slowest answer."""
    slowest_s = 0.0
    for _ in range(20):
        began = time.monotonic()
        service.get("/")
        slowest_s = max(slowest_s, time.monotonic() - began)
    return slowest_s


@pytest.mark.parametrize(
    "how",
    [
        "refuses",
        pytest.param("hangs", marks=pytest.mark.long),
        "400",
        pytest.param("503", marks=pytest.mark.long),
    ],
)
def test_a_bad_receiver_costs_the_service_nothing_and_what_it_misses_is_counted(
    tmp_path: Path, upstream: Upstream, how: str
) -> None:
    with (
        receiving() as receiver,
        a_bad_receiver(how) as (endpoint, bad),
        serving(
            tmp_path,
            upstream.server_address,
            receiver.endpoint,  # only the metrics go there
            OTEL_EXPORTER_OTLP_LOGS_ENDPOINT=endpoint + "/v1/logs",
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=endpoint + "/v1/traces",
            OTEL_BLRP_MAX_QUEUE_SIZE=str(QUEUE),
            OTEL_BLRP_MAX_EXPORT_BATCH_SIZE=str(QUEUE // 2),
            **STORMY,
        ) as service,
    ):
        service.get(f"/storm?functions={FUNCTIONS}&sockets={SOCKETS}")
        # A request that waited for the exporter would wait for its timeout.
        assert ask_twenty_times(service) < EXPORT_TIMEOUT_S
        receiver.wait_for("all counts", lambda: leaked(receiver) == STORM)
        if bad is not None:
            bad.wait_for("a request of logs", lambda: bad.requests["logs"])
        assert ask_twenty_times(service) < EXPORT_TIMEOUT_S
        service.stop()
        # The watcher went on: the other exporter has all, in time.
        assert len(leaks(service.output)) == STORM
        handed_over = STORM - dropped(receiver)
        assert 0 < handed_over < STORM
        # The SDK has no more than its queue, and counts what it threw away.
        queued = [p for p in receiver.points if p.metric == "otel.sdk.processor.log.queue.size"]
        assert queued
        assert max(point.value for point in queued) <= QUEUE
        # More by one where its worker takes from a full queue just as an event is put in.
        assert sum_of(receiver, "otel.sdk.processor.log.processed") >= handed_over
        assert sum_of(receiver, "otel.sdk.processor.log.processed", "error.type") > 0
        assert receiver.events(LEAK) == []
        assert "sockguard" not in service.program.errors()


def sum_of(receiver: Receiver, metric: str, attribute: str | None = None) -> float:
    return sum(
        point.value
        for point in receiver.latest(metric)
        if attribute is None or attribute in point.attributes
    )


@pytest.mark.long
@pytest.mark.parametrize("how", ["refuses", "hangs"])
def test_a_service_that_nobody_listens_to_works_on_and_ends(
    tmp_path: Path, upstream: Upstream, how: str
) -> None:
    with (
        a_bad_receiver(how) as (endpoint, bad),
        serving(tmp_path, upstream.server_address, endpoint, **STORMY) as service,
    ):
        service.get(f"/storm?functions={FUNCTIONS}&sockets={SOCKETS}")
        wait_for("all leaks", lambda: len(leaks(service.output)) == STORM)
        if bad is not None:
            bad.wait_for("every signal", lambda: all(bad.requests.values()))
        assert ask_twenty_times(service) < EXPORT_TIMEOUT_S
        service.stop()
        assert "sockguard" not in service.program.errors()


def resident_kb(pid: int) -> int:
    """Return how much memory a process has now, by the kernel."""
    (line,) = [
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmRSS:")
    ]
    return int(line.split()[1])


@pytest.mark.long
@pytest.mark.parametrize("how", ["refuses", "hangs", "400"])
def test_a_minute_of_a_bad_receiver_fills_no_memory(
    tmp_path: Path, upstream: Upstream, how: str
) -> None:
    with (
        a_bad_receiver(how) as (endpoint, _),
        serving(
            tmp_path,
            upstream.server_address,
            endpoint,
            OTEL_BLRP_MAX_QUEUE_SIZE=str(QUEUE),
            OTEL_BLRP_MAX_EXPORT_BATCH_SIZE=str(QUEUE // 2),
            **STORMY | {"SOCKGUARD_INTERVAL": "0.1", "SOCKGUARD_LEVEL": "light"},
        ) as service,
    ):
        began, after_a_third, pid = time.monotonic(), 0, 0
        while (passed_s := time.monotonic() - began) < 60:
            pid = service.get("/storm?functions=10&sockets=4")
            gone = kernel.close_wait  # the exporter's own may be among them
            wait_for("the peers to go", lambda: gone(pid) >= 40)  # noqa: B023  # called at once
            assert ask_twenty_times(service) < EXPORT_TIMEOUT_S
            service.get("/close")
            if passed_s < 20:
                after_a_third = resident_kb(pid)
        assert resident_kb(pid) < after_a_third + 8 * 1024
        service.stop()
        assert "sockguard" not in service.program.errors()


# -- a receiver that others wrote ------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def rotel(folder: Path, endpoint: str) -> Iterator[dict[str, str]]:
    """Run rotel, which passes on what it understood; yield its endpoints by protocol."""
    found = util.find_spec("rotel")
    if found is None or found.origin is None:
        pytest.skip("rotel is not installed: pip install --pre rotel (Python 3.10 to 3.13)")
    ports = {"grpc": free_port(), "http/protobuf": free_port()}
    command = [Path(found.origin).with_name("rotel-agent"), "start"]
    command += ["--otlp-grpc-endpoint", f"127.0.0.1:{ports['grpc']}"]
    command += ["--otlp-http-endpoint", f"127.0.0.1:{ports['http/protobuf']}"]
    command += ["--exporter", "otlp", "--otlp-exporter-protocol", "http"]
    command += ["--otlp-exporter-endpoint", endpoint]
    folder.mkdir()
    with running(command, folder, clean_environment(NO_PROXY="127.0.0.1")) as program:
        wait_for("rotel", lambda: all(map(is_listening, ports.values())))
        yield {protocol: f"http://127.0.0.1:{port}" for protocol, port in ports.items()}
        assert program.process.poll() is None, program.errors()
        program.terminate()


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_rotel_understands_events_and_metrics(
    tmp_path: Path, upstream: Upstream, protocol: str
) -> None:
    with (
        receiving() as receiver,
        rotel(tmp_path / "rotel", receiver.endpoint) as endpoints,
        serving(
            tmp_path,
            upstream.server_address,
            endpoints[protocol],
            protocol,
            SOCKGUARD_INTERVAL="0.1",
        ) as service,
    ):
        service.get("/keep", BY_A_THREAD)
        receiver.wait_for("the leak", lambda: receiver.records)
        service.get("/close")
        receiver.wait_for("its end", lambda: len(receiver.records) == 2)
        service.stop()
        receiver.wait_for(
            "all metrics",
            lambda: (
                METRICS.keys() - {COUNT} <= {(p.metric, p.kind, p.unit) for p in receiver.points}
            ),
        )
        assert leaked(receiver) == 1
        for event, name in zip(receiver.records, (LEAK, RESOLVED), strict=True):
            assert (event.event_name, event.trace_id) == (name, BY_A_THREAD)
            assert KNOWN.items() <= types(event).items()
