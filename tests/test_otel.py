"""OpenTelemetry in one process: a real SDK in memory, real sockets, and the OTLP encoder."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.builders import a_finding, a_frame, an_origin
from support.programs import clean_environment

from sockguard import stderr
from sockguard.config import Config
from sockguard.exporters import attributes as attributes_module
from sockguard.exporters import otel
from sockguard.exporters.attributes import event_attributes
from sockguard.exporters.otel import METRICS, OtelExporter, Providers
from sockguard.findings import (
    LEAK,
    POOLED,
    RESOLVED,
    Event,
    FarEnd,
    Finding,
    Kind,
    Reading,
)
from sockguard.growth import Trend
from sockguard.stacks import Frame
from sockguard.tcp import TcpState

pytest.importorskip("opentelemetry.sdk")
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs import export as logs_export
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

# Renamed in 1.39.
InMemoryLogRecordExporter = getattr(
    logs_export, "InMemoryLogRecordExporter", getattr(logs_export, "InMemoryLogExporter", None)
)
PAGE = (Path(__file__).parent.parent / "docs" / "opentelemetry.md").read_text("utf-8")


class Sdk:
    """An SDK in memory, not set globally."""

    def __init__(self) -> None:
        self._logs = InMemoryLogRecordExporter()
        self.logger_provider = LoggerProvider(shutdown_on_exit=False)
        self.logger_provider.add_log_record_processor(SimpleLogRecordProcessor(self._logs))
        self._reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self.providers = Providers(self.logger_provider, self.meter_provider)

    def exporter(self, *, omits_addresses: bool = False) -> OtelExporter:
        return OtelExporter(always=False, omits_addresses=omits_addresses, providers=self.providers)

    @property
    def records(self) -> list[Any]:
        return [log.log_record for log in self._logs.get_finished_logs()]

    @property
    def scopes(self) -> list[Any]:
        return [log.instrumentation_scope for log in self._logs.get_finished_logs()]

    def metrics(self) -> dict[str, Any]:
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: metric
            for of_resource in data.resource_metrics
            for of_scope in of_resource.scope_metrics
            for metric in of_scope.metrics
        }

    def values(self, name: str) -> dict[tuple[Any, ...], Any]:
        """Return a counter's values by its attributes' values, in the order of their names."""
        return {
            tuple(value for _, value in sorted(point.attributes.items())): point.value
            for point in self.metrics()[name].data.data_points
        }


@pytest.fixture
def sdk() -> Sdk:
    return Sdk()


def an_event(
    name: str = LEAK,
    finding: Finding | None = None,
    at_ns: int | None = None,
    **more: Any,
) -> Event:
    return Event(
        name=name,
        finding=finding or a_finding(),
        at_ns=time.monotonic_ns() if at_ns is None else at_ns,
        group_count=1,
        group_open=1,
        **more,
    )


def a_reading(**known: Any) -> Reading:
    return Reading(**{"leaks": {}, "closed": (), "cpu_ns": 0, **known})


def measure(exporter: OtelExporter, reading: Reading) -> None:
    """Give a reading as the engine does."""
    assert exporter.wants_reading()
    exporter.measure(reading)


# -- events ----------------------------------------------------------------------------


def test_a_leak_is_a_warning_with_its_name_and_the_time_it_happened(sdk):
    at_ns = time.monotonic_ns() - 5_000_000_000
    sdk.exporter().export([an_event(name=LEAK, at_ns=at_ns)])
    [record] = sdk.records
    assert record.event_name == "sockguard.socket.leak"
    assert record.severity_number.name == "WARN"
    assert record.severity_text is None
    assert abs(time.time_ns() - 5_000_000_000 - record.timestamp) < 1_000_000_000
    [scope] = sdk.scopes
    assert (scope.name, scope.version) == ("sockguard", otel.VERSION)


def test_a_leak_that_ended_is_information(sdk):
    sdk.exporter().export([an_event(name=RESOLVED, open_ns=3_000_000_000)])
    [record] = sdk.records
    assert record.event_name == "sockguard.socket.leak.resolved"
    assert record.severity_number.name == "INFO"
    assert record.attributes["sockguard.open"] == 3.0
    assert "closed after all" in record.body


# The SDK of 1.37 warns of itself.
@pytest.mark.filterwarnings("ignore:LogRecord init:UserWarning")
def test_an_event_has_the_span_that_made_the_socket_and_not_the_one_of_now(sdk):
    created = an_origin(
        trace_id="0af7651916cd43dd8448eb211c80319c", span_id="b7ad6b7169203331", trace_flags=1
    )
    with TracerProvider().get_tracer("now").start_as_current_span("of now"):
        exporter = sdk.exporter()
        exporter.export([an_event(finding=a_finding(created=created))])
        exporter.export([an_event(finding=a_finding(created=an_origin()))])
    linked, without = sdk.records
    assert f"{linked.trace_id:032x}" == created.trace_id
    assert f"{linked.span_id:016x}" == created.span_id
    assert linked.trace_flags == 1
    assert (without.trace_id, without.span_id, without.trace_flags) == (0, 0, 0)


def test_unknown_is_left_out():
    finding = a_finding(
        state=None, local=None, peer=None, unread_bytes=None, end_unread=None, created=an_origin()
    )
    told = event_attributes(an_event(finding=finding), omits_addresses=False)
    assert None not in told.values()
    assert not {name for name in told if name.startswith(("network.", "code.", "thread."))}


@pytest.mark.parametrize(
    ("local", "peer", "told"),
    [
        ("127.0.0.1:80", "10.0.0.7:5000", ("tcp", "ipv4", "127.0.0.1", 80, "10.0.0.7", 5000)),
        ("[::1]:80", "[fe80::1%eth0]:443", ("tcp", "ipv6", "::1", 80, "fe80::1%eth0", 443)),
        ("/run/app.sock", None, ("unix", None, "/run/app.sock", None, None, None)),
        ("@abstract", None, ("unix", None, "@abstract", None, None, None)),
        ("127.0.0.1:80", None, ("tcp", "ipv4", "127.0.0.1", 80, None, None)),
    ],
)
def test_addresses_are_taken_apart(local, peer, told):
    event = an_event(finding=a_finding(local=local, peer=peer))
    names = [
        "network.transport",
        "network.type",
        "network.local.address",
        "network.local.port",
        "network.peer.address",
        "network.peer.port",
    ]
    known = event_attributes(event, omits_addresses=False)
    assert tuple(known.get(name) for name in names) == told
    omitted = event_attributes(event, omits_addresses=True)
    assert tuple(omitted.get(name) for name in names) == (*told[:2], None, None, None, None)
    assert not any(str(part) in str(omitted) for part in told[2:] if isinstance(part, str))


def test_long_values_are_cut_a_stack_at_its_outer_end():
    frames = tuple(Frame(f"/srv/{'x' * 90}/{n}.py", n, f"frame_{n}") for n in range(200))
    finding = a_finding(created=an_origin(*frames, thread="t" * 5000))
    told = event_attributes(an_event(finding=finding), omits_addresses=False)
    assert len(told["thread.name"]) == attributes_module.MAX_TEXT
    assert told["thread.name"].endswith("…")
    stack = told["code.stacktrace"]
    assert len(stack) <= attributes_module.MAX_STACKTRACE
    assert stack.startswith("…\n")
    assert stack.endswith("in frame_0\n")


def test_values_that_no_encoder_takes_are_made_fit():
    frame = Frame("/srv/\udcff.py", None, "main")
    finding = a_finding(created=an_origin(frame, thread="\ud800"), holders=tuple("abcdefghijklm"))
    told = event_attributes(an_event(finding=finding), omits_addresses=False)
    assert told["thread.name"].encode()
    assert told["code.stacktrace"].encode()
    assert told["sockguard.holders"] == list("abcdefghij")
    assert "code.line.number" not in told


def test_too_many_events_at_a_time_are_dropped_and_counted(sdk):
    exporter = sdk.exporter()
    exporter.export([an_event()] * (otel.MAX_EVENTS + 7))
    assert len(sdk.records) == otel.MAX_EVENTS
    measure(exporter, a_reading())
    assert sdk.values("sockguard.events.dropped") == {("rate",): 7, ("error",): 0}


def test_an_sdk_that_raises_costs_its_events_and_no_others(sdk, capfd):
    class Raising(SimpleLogRecordProcessor):
        def on_emit(self, log_record: Any) -> None:
            raise LookupError("mine")

    stderr.remember()
    broken = LoggerProvider(shutdown_on_exit=False)
    broken.add_log_record_processor(Raising(InMemoryLogRecordExporter()))
    exporter = sdk.exporter()
    exporter.providers = Providers(broken, sdk.meter_provider)
    for _ in range(2):
        exporter.export([an_event(), an_event()])
    exporter.providers = sdk.providers
    exporter.export([an_event()])
    assert len(sdk.records) == 1
    measure(exporter, a_reading())
    assert sdk.values("sockguard.events.dropped")["error",] == 4
    assert capfd.readouterr().err.count("LookupError") == 1


def test_no_key_of_a_holder_is_told_without_addresses():
    holders = ("app.CONNECTIONS[('10.0.0.9', 5432)] -> Pool._idle[2]", "app.BY_HOST['::1']")
    event = an_event(finding=a_finding(holders=holders, why=f"it waits: {holders[1]}"))
    told = event_attributes(event, omits_addresses=True)
    assert told["sockguard.holders"] == ["app.CONNECTIONS[…] -> Pool._idle[2]", "app.BY_HOST[…]"]
    assert told["sockguard.why"] == "it waits: app.BY_HOST[…]"
    assert event_attributes(event, omits_addresses=False)["sockguard.holders"] == list(holders)


def test_the_page_lists_every_event_attribute_and_metric_and_no_other():
    full = a_finding(
        local="127.0.0.1:80",
        peer="127.0.0.1:81",
        end_unread=True,
        created=an_origin(a_frame(), thread="t", task="k"),
        listener=an_origin(a_frame()),
        eof=an_origin(a_frame()),
        holders=("a",),
        waits_at=an_origin(a_frame()),
        handler=a_frame(),
        far_end=FarEnd(state=TcpState.FIN_WAIT_2, pid=1, fd=2, created=an_origin(a_frame())),
    )
    event = an_event(
        name=RESOLVED, finding=full, open_ns=1, trend=Trend(0.5), limit_in_ns=1_500_000_000
    )
    told = event_attributes(event, omits_addresses=False)
    assert _first_cells("### Attributes") == set(told)
    kinds = {str: "string", bool: "boolean", int: "int", float: "double", list: "string[]"}
    assert {name: row[1] for name, row in _rows("### Attributes").items()} == {
        name: kinds[type(value)] for name, value in told.items()
    }
    assert _first_cells("## Events") == {LEAK, RESOLVED, POOLED}
    rows = _rows("## Metrics")
    assert {
        (name, row[1], row[2].strip("`"), tuple(re.findall(r"`([^`]+)`", row[3])))
        for name, row in rows.items()
    } == {(m.name, m.kind, m.unit, m.attributes) for m in METRICS}


def test_the_page_has_the_bounds_of_the_code():
    bounds = {cells[0]: cells[1] for cells in _cells("## Bounds")}
    assert bounds["characters of an attribute"] == f"{attributes_module.MAX_TEXT:,}"
    assert bounds["characters of a stack trace"].startswith(f"{attributes_module.MAX_STACKTRACE:,}")
    assert bounds["holders"] == str(attributes_module.MAX_HOLDERS)
    assert bounds["events a tick"] == str(otel.MAX_EVENTS)
    assert bounds["fingerprints on a metric"].startswith(f"{otel.MAX_FINGERPRINTS};")
    counting = bounds["counting of sockets by state, and of descriptors"]
    assert f"once in {otel.COUNT_EVERY_NS // 10**9} s" in counting
    assert f"{100 / otel.COUNT_SHARE:g} %" in counting
    buckets = bounds["buckets advised for the histogram, seconds"]
    assert tuple(float(bucket) for bucket in buckets.split(",")) == otel.BUCKETS_S


def _cells(heading: str) -> list[list[str]]:
    section = re.split(r"^#", PAGE.split(f"{heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[1:]]


def _rows(heading: str) -> dict[str, list[str]]:
    return {cells[0].strip("`"): cells for cells in _cells(heading)}


def _first_cells(heading: str) -> set[str]:
    return set(_rows(heading))


def test_names_are_those_of_the_semantic_conventions_or_our_own():
    from opentelemetry.semconv import attributes
    from opentelemetry.semconv._incubating import attributes as incubating

    known = set()
    for package in (attributes, incubating):
        for path in Path(package.__path__[0]).glob("*.py"):
            known |= set(re.findall(r'= "([a-z_.0-9]+)"', path.read_text("utf-8")))
    used = _first_cells("### Attributes") | {name for m in METRICS for name in m.attributes}
    assert {name for name in used if not name.startswith("sockguard.")} <= known
    assert all(name.startswith("sockguard.") for name in (m.name for m in METRICS))


# -- metrics ---------------------------------------------------------------------------


def test_each_metric_has_its_unit_and_values(sdk):
    exporter = sdk.exporter()
    measure(
        exporter,
        a_reading(
            leaks={("abc", Kind.PEER_CLOSED): 3, ("abc", Kind.PEER_RESET): 1},
            closed=[(2_000_000_000, False), (90_000_000_000, True)],
            cpu_ns=1_500_000_000,
            states={TcpState.ESTABLISHED: 4, TcpState.CLOSE_WAIT: 2, None: 1},
        ),
    )
    metrics = sdk.metrics()
    assert {name: metric.unit for name, metric in metrics.items()} == {
        metric.name: metric.unit for metric in METRICS
    }
    assert sdk.values("sockguard.socket.leaks") == {
        ("abc", "peer_closed"): 3,
        ("abc", "peer_reset"): 1,
    }
    assert sdk.values("sockguard.socket.count") == {("established",): 4, ("close_wait",): 2, (): 1}
    assert sdk.values("sockguard.watcher.cpu.time") == {(): 1.5}
    points = metrics["sockguard.socket.close_wait.duration"].data.data_points
    assert {(p.attributes["sockguard.leaked"], p.count, p.sum) for p in points} == {
        (False, 1, 2.0),
        (True, 1, 90.0),
    }
    assert {p.explicit_bounds for p in points} == {otel.BUCKETS_S}


def test_a_state_that_has_no_socket_any_more_is_told_as_none(sdk):
    exporter = sdk.exporter()
    measure(exporter, a_reading(states={TcpState.CLOSE_WAIT: 2}))
    sdk.metrics()
    measure(exporter, a_reading(states={TcpState.LISTEN: 1}))
    assert sdk.values("sockguard.socket.count") == {("close_wait",): 0, ("listen",): 1}


def test_descriptors_are_counted_and_their_limit_told(sdk):
    import os
    import resource

    exporter = sdk.exporter()
    measure(exporter, a_reading(states={}))
    counted = len(os.listdir("/proc/self/fd")) - 1
    assert sdk.values("sockguard.fd.count") == {(): counted}
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert sdk.values("sockguard.fd.limit") == {(): soft}


def test_a_metric_tells_so_many_fingerprints_apart_and_no_more(sdk):
    exporter = sdk.exporter()
    names = [f"{n:012x}" for n in range(otel.MAX_FINGERPRINTS + 5)]
    measure(exporter, a_reading(leaks={(name, Kind.PEER_CLOSED): 2 for name in names}))
    counts = sdk.values("sockguard.socket.leaks")
    assert len(counts) == otel.MAX_FINGERPRINTS + 1
    assert counts["other", "peer_closed"] == 10
    assert sum(counts.values()) == 2 * len(names)


def test_states_are_counted_when_somebody_reads_and_not_too_often(sdk, monkeypatch):
    now = time.monotonic_ns()
    monkeypatch.setattr(otel, "monotonic_ns", lambda: now)
    exporter = sdk.exporter()
    assert exporter.wants_reading()
    assert exporter.wants_states()
    measure(exporter, a_reading(states={TcpState.LISTEN: 1}, states_cost_ns=10_000_000))
    assert not exporter.wants_states()
    now += 10 * otel.COUNT_EVERY_NS
    assert not exporter.wants_states()  # nobody has read since
    assert sdk.values("sockguard.socket.count") == {("listen",): 1}
    assert exporter.wants_states()
    measure(exporter, a_reading(states={TcpState.LISTEN: 2}, states_cost_ns=60_000_000_000))
    sdk.metrics()
    now += 60_000_000_000 * (otel.COUNT_SHARE - 1)
    assert not exporter.wants_states()  # it was dear: it has to wait
    now += 2 * 60_000_000_000
    assert exporter.wants_states()


def test_a_second_exporter_takes_over_and_an_instrument_is_made_once(sdk, caplog):
    first = sdk.exporter()
    measure(first, a_reading(cpu_ns=1_000_000_000))
    first.close()
    assert sdk.metrics().keys() <= {"sockguard.socket.close_wait.duration"}
    second = sdk.exporter()
    measure(second, a_reading(cpu_ns=2_000_000_000))
    assert sdk.values("sockguard.watcher.cpu.time") == {(): 2.0}
    first.close()
    assert sdk.values("sockguard.watcher.cpu.time") == {(): 2.0}
    assert caplog.records == []


# -- when there is an SDK, and when there is none --------------------------------------


def run(code: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words, "-c", code],
        env=clean_environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
    )


PROGRAM = """
import socket, sys, threading, time
import sockguard
def set_up():
    global logs, reader
    from opentelemetry import _logs, metrics
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs import export
    from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
    in_memory = getattr(export, "InMemoryLogRecordExporter", None) or export.InMemoryLogExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    logs, reader = in_memory(), InMemoryMetricReader()
    provider = LoggerProvider()
    provider.add_log_record_processor(SimpleLogRecordProcessor(logs))
    _logs.set_logger_provider(provider)
    metrics.set_meter_provider(MeterProvider([reader]))
    return provider
def names():
    return [log.log_record.event_name for log in logs.get_finished_logs()]
def metered():
    data = reader.get_metrics_data()
    return [] if data is None else [
        m.name for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics]
def leak():
    listener = socket.create_server(("127.0.0.1", 0))
    sock = socket.create_connection(listener.getsockname())
    listener.accept()[0].close()
    return listener, sock
def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
def install(**options):
    return sockguard.install(threshold=0.05, interval=0.05, quiet=True, **options)
"""


@pytest.mark.parametrize("order", ["set_up(); guard = install()", "guard = install(); set_up()"])
def test_an_sdk_is_found_whenever_it_is_set_up(order):
    done = run(
        PROGRAM
        + order
        + """
kept = leak()
wait_for(lambda: names() == ["sockguard.socket.leak"])
kept[1].close()
wait_for(lambda: names()[1:] == ["sockguard.socket.leak.resolved"])
wait_for(lambda: len(metered()) == 7)
sockguard.uninstall()
print(sorted(set(metered()) - {"sockguard.socket.close_wait.duration"}), threading.enumerate())
"""
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("[] [<_MainThread")


@pytest.mark.parametrize(
    ("options", "told"), [("", False), ("otel='on'", True), ("otel='off'", False)]
)
def test_without_an_sdk_the_api_is_loaded_only_if_asked_for(options, told):
    done = run(
        PROGRAM
        + f"""
guard = install({options})
kept = leak()
wait_for(lambda: guard._the_engine().watcher.leaks.groups())
print("opentelemetry._logs" in sys.modules)
"""
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"{told}\n")


def test_off_is_off_with_an_sdk_too():
    done = run(
        PROGRAM
        + """
set_up()
guard = install(otel="off")
kept = leak()
wait_for(lambda: guard._the_engine().watcher.leaks.groups())
sockguard.uninstall()
print(names(), metered())
"""
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "[] []\n")


def test_the_end_of_the_sdk_is_not_ours():
    done = run(
        PROGRAM
        + """
import logging
logging.basicConfig(level=logging.DEBUG)
provider = set_up()
guard = install()
kept = leak()
wait_for(names)
provider.shutdown()
more = leak()
wait_for(lambda: guard._the_engine().watcher.leaks.groups()[0].count == 2)
wait_for(lambda: not guard._the_engine().watcher._unpublished)
for thread in threading.enumerate():
    if thread is not threading.main_thread():
        thread.join()
print(guard._heartbeat.is_beating)
sockguard.uninstall()
print(threading.enumerate())
""",
        "-W",
        "error",
    )
    assert done.returncode == 0, done.stderr
    assert "sockguard" not in done.stderr.replace("/sockguard/", "")
    assert re.fullmatch(r"True\n\[<_MainThread\([^)]*\)>\]\n", done.stdout)


def test_a_processor_that_logs_leaves_no_thread_behind(sdk):
    import logging

    joined = []

    class Logging(SimpleLogRecordProcessor):
        def on_emit(self, log_record: Any) -> None:
            logging.getLogger("theirs").warning("seen")
            for thread in set(threading.enumerate()) - before:
                thread.join()  # nor does it hold up, or kill, who joins all just now
                joined.append(thread)
            super().on_emit(log_record)

    before = set(threading.enumerate())

    provider = LoggerProvider(shutdown_on_exit=False)
    logs = InMemoryLogRecordExporter()
    provider.add_log_record_processor(Logging(logs))
    exporter = OtelExporter(
        always=False, omits_addresses=False, providers=Providers(provider, sdk.meter_provider)
    )
    in_a_native_thread(lambda: exporter.export([an_event()]))
    assert len(logs.get_finished_logs()) == 1
    assert [thread.name for thread in joined] == ["sockguard"]
    assert set(threading.enumerate()) == before


def in_a_native_thread(work: Callable[[], object]) -> None:
    import _thread

    done = _thread.allocate_lock()
    done.acquire()

    def run_it() -> None:
        try:
            work()
        finally:
            done.release()

    _thread.start_new_thread(run_it, ())
    assert done.acquire(timeout=20)


# -- the exporter's own sockets --------------------------------------------------------


@pytest.fixture
def suppressing() -> Iterator[None]:
    from opentelemetry import context

    token = context.attach(context.set_value(context._SUPPRESS_INSTRUMENTATION_KEY, True))
    yield
    context.detach(token)


def test_a_socket_made_while_telemetry_is_exported_is_no_finding(suppressing):
    import sockguard

    with (
        sockguard.watch() as guard,
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as sock,
    ):
        listener.accept()[0].close()
        assert sock.recv(1) == b""  # its peer has closed
        assert guard.check() == []


def test_a_socket_made_by_an_exporter_is_no_finding(tmp_path):
    import sockguard

    folder = tmp_path / "opentelemetry" / "exporter" / "mine"
    folder.mkdir(parents=True)
    file = folder / "__init__.py"
    file.write_text("import socket\ndef connect(to):\n    return socket.create_connection(to)\n")
    theirs: dict[str, Any] = {}
    exec(compile(file.read_text(), str(file), "exec"), theirs)
    with sockguard.watch() as guard, socket.create_server(("127.0.0.1", 0)) as listener:
        with theirs["connect"](listener.getsockname()):
            accepted, _ = listener.accept()
            accepted.close()
            assert guard.check() == []
        with socket.create_connection(listener.getsockname()) as sock:
            listener.accept()[0].close()
            assert [finding.fd for finding in guard.check()] == [sock.fileno()]


# -- the wire --------------------------------------------------------------------------


def test_all_that_is_told_passes_the_encoder_of_otlp(sdk):
    common = pytest.importorskip("opentelemetry.exporter.otlp.proto.common._log_encoder")
    from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics

    exporter = sdk.exporter()
    created = an_origin(Frame("/srv/\udcff.py", 3, "f"), thread="\ud800")
    exporter.export([an_event(finding=a_finding(created=created, holders=("a", "b")))])
    measure(exporter, a_reading(states={TcpState.LISTEN: 1}, closed=[(1, True)]))
    encoded = common.encode_logs(sdk._logs.get_finished_logs())
    [record] = encoded.resource_logs[0].scope_logs[0].log_records
    assert record.event_name == LEAK
    assert record.SerializeToString()
    assert encode_metrics(sdk._reader.get_metrics_data()).SerializeToString()


# -- the instrumentor ------------------------------------------------------------------

INSTRUMENTOR = """
from sockguard.otel_instrumentor import SockguardInstrumentor
from sockguard import guard
"""


@pytest.fixture(scope="module")
def _instrumentation() -> None:
    pytest.importorskip("opentelemetry.instrumentation")


@pytest.mark.usefixtures("_instrumentation")
@pytest.mark.parametrize(
    ("variables", "installed"),
    [
        ({}, True),
        ({"SOCKGUARD": "0"}, False),
        ({"SOCKGUARD": ""}, False),
        ({"OTEL_SDK_DISABLED": "true"}, False),
        ({"SOCKGUARD_THRESHOLD": "never"}, True),
    ],
)
def test_the_instrumentor_installs_unless_it_is_told_not_to(variables, installed):
    code = INSTRUMENTOR + (
        "SockguardInstrumentor().instrument()\nprint(guard.installed() is not None)\n"
        "SockguardInstrumentor().uninstrument()\nprint(guard.installed())"
    )
    done = run(code, **variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{installed}\nNone\n"
    assert ("SOCKGUARD_THRESHOLD=never" in done.stderr) is ("SOCKGUARD_THRESHOLD" in variables)


@pytest.mark.usefixtures("_instrumentation")
def test_the_instrumentor_takes_a_guard_that_is_there_and_leaves_it():
    done = run(
        PROGRAM
        + INSTRUMENTOR
        + """
mine = install()
provider = set_up()
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
others = type(logs)()
given = LoggerProvider()
given.add_log_record_processor(SimpleLogRecordProcessor(others))
SockguardInstrumentor().instrument(logger_provider=given)
assert guard.installed() is mine
kept = leak()
wait_for(others.get_finished_logs)
assert not logs.get_finished_logs()
SockguardInstrumentor().uninstrument()
assert guard.installed() is mine
kept[1].close()
wait_for(logs.get_finished_logs)
print(len(others.get_finished_logs()))
"""
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "1\n")


def test_options_are_handed_to_the_exporter():
    from sockguard.exporters import exporters_of

    def of(config: Config) -> list[OtelExporter]:
        return [e for e in exporters_of(config) if isinstance(e, OtelExporter)]

    [exporter] = of(Config(quiet=True, otel_omit_addresses=True))
    assert exporter._omits_addresses
    assert of(Config(quiet=True, otel="off")) == []


def test_a_span_context_keeps_its_flags():
    import sockguard

    tracer = TracerProvider().get_tracer("t")
    with sockguard.watch() as guard, socket.create_server(("127.0.0.1", 0)) as listener:
        with tracer.start_as_current_span("request") as span:
            sock = socket.create_connection(listener.getsockname())
        listener.accept()[0].close()
        [finding] = guard.check()
        sock.close()
    context = span.get_span_context()
    assert finding.created.trace_id == f"{context.trace_id:032x}"
    assert finding.created.trace_flags == int(context.trace_flags) > 0
