"""Where events go: text, JSON Lines, the tally; and each of them failing alone."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from sockguard import stderr
from sockguard.config import Config
from sockguard.engine import Engine
from sockguard.exporters import Exporter
from sockguard.exporters.json_lines import JsonLinesExporter, encode_summary
from sockguard.exporters.tally import TallyExporter
from sockguard.exporters.text import TextExporter, wants_colour
from sockguard.findings import (
    LEAK,
    RESOLVED,
    Event,
    Finding,
    GroupTotal,
    Kind,
    Origin,
    Summary,
    Verdict,
)
from sockguard.registry import Registry
from sockguard.stacks import Frame
from sockguard.tcp import TcpState

SECOND = 1_000_000_000
MEBIBYTE = 1024 * 1024
CONNECT = Frame("/srv/app/db.py", 88, "connect")
REFRESH = Frame("/srv/app/jobs.py", 31, "refresh")
SERVE = Frame("/srv/app/main.py", 7, "serve")
READ = Frame("/srv/app/db.py", 95, "read")


def a_finding(**changes: Any) -> Finding:
    finding = Finding(
        serial=1,
        fingerprint="a1f39c02b7de",
        kind=Kind.PEER_CLOSED,
        verdict=Verdict.UNREAD,
        why="nobody has read what the peer sent last",
        advice="close the socket",
        state=TcpState.CLOSE_WAIT,
        fd=41,
        local="10.0.4.2:50000",
        peer="10.0.4.7:5432",
        at_ns=time.monotonic_ns(),
        age_ns=800 * SECOND,
        since_fin_ns=720 * SECOND,
        unread_bytes=0,
        end_unread=True,
        created=Origin(stack=(CONNECT, REFRESH), thread="MainThread"),
    )
    return replace(finding, **changes)


def an_event(
    name: str = LEAK, *, count: int = 1, still_open: int = 1, open_ns: int | None = None, **of: Any
) -> Event:
    finding = a_finding(**of)
    return Event(
        name=name,
        finding=finding,
        at_ns=finding.at_ns,
        group_count=count,
        group_open=still_open,
        open_ns=open_ns,
    )


def a_summary(*, count: int = 0, late: int = 0) -> Summary:
    def group(number: int) -> tuple[GroupTotal, ...]:
        total = GroupTotal(
            fingerprint="a1f39c02b7de",
            kind=Kind.PEER_CLOSED,
            verdict=Verdict.UNREAD,
            count=number,
            open=number,
            site=CONNECT,
        )
        return (total,) if number else ()

    return Summary(
        at_ns=time.monotonic_ns(),
        groups=group(count),
        open_at_exit=group(late),
        tracked=12,
        collected_unclosed=None,
        cpu_ns=SECOND // 4,
        coverage={"python": 12, "adapter": 0, "native": None},
    )


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Standard error is captured; what the module remembers is put back after each test."""
    monkeypatch.setattr(stderr, "_ours", None)
    monkeypatch.setattr(stderr, "_said", set())


Said = Callable[[], str]


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Said:
    return lambda: capfd.readouterr().err


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "leaks.jsonl"


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file whose every line is whole."""
    text = path.read_text("utf-8")
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


# pytest captures in one file during set-up and in another during the test: so standard error
# is remembered here, and not in a fixture.


def text(*, is_root: bool = True) -> TextExporter:
    stderr.remember()
    return TextExporter(is_root=is_root)


@contextmanager
def json_lines(path: Path, limit: int = MEBIBYTE) -> Iterator[JsonLinesExporter]:
    stderr.remember()
    exporter = JsonLinesExporter(str(path), limit)
    yield exporter
    exporter.close()


@contextmanager
def engine(*exporters: Exporter) -> Iterator[Engine]:
    stderr.remember()
    made = Engine(Config(), Registry(), list(exporters))
    yield made
    made.close()


class Recorder:
    """An exporter that keeps the names of what it got."""

    name = "recorder"

    def __init__(self) -> None:
        self.got: list[str] = []

    def export(self, events: Sequence[Event]) -> None:
        self.got += [event.name for event in events]

    def summarize(self, summary: Summary) -> None:
        self.got.append("summary")

    def close(self) -> None:
        self.got.append("closed")


class Failing(Recorder):
    name = "failing"

    def export(self, events: Sequence[Event]) -> None:
        super().export(events)
        raise ValueError("out of paper")


# -- text ----------------------------------------------------------------------------------

REPORT = """
1 socket leaked here: the peer closed, we did not                        [a1f39c02b7de]
  socket   12 min since the peer's FIN (CLOSE_WAIT), fd 41, peer 10.0.4.7:5432, FIN unread
  opened   /srv/app/db.py:88 in connect
             <- /srv/app/jobs.py:31 in refresh
  by       thread MainThread
  held by  unknown
  why      nobody has read what the peer sent last (unread)
  next     close the socket

"""


def test_a_report_says_what_how_many_where_who_why_and_what_next(said: Said) -> None:
    text().export([an_event()])
    assert said() == REPORT


def test_a_report_names_task_trace_listener_read_and_holders_where_they_are_known(
    said: Said,
) -> None:
    event = an_event(
        created=Origin(stack=(CONNECT,), thread="T-1", task="Task-4", trace_id="ab" * 16),
        listener=Origin(stack=(SERVE,)),
        eof=Origin(stack=(READ,)),
        holders=("app.db.POOL", "Pool._idle[2]"),
        verdict=Verdict.EOF_IGNORED,
        unread_bytes=1,
    )
    text().export([event])
    assert said().splitlines()[2:] == [
        "  socket   12 min since the peer's FIN (CLOSE_WAIT), fd 41, peer 10.0.4.7:5432,"
        " 1 byte unread",
        "  opened   /srv/app/db.py:88 in connect",
        f"  by       thread T-1, task Task-4, trace {'ab' * 16}",
        "  listener /srv/app/main.py:7 in serve",
        "  told at  /srv/app/db.py:95 in read",
        "  held by  app.db.POOL",
        "           and by Pool._idle[2]",
        "  why      nobody has read what the peer sent last (eof_ignored)",
        "  next     close the socket",
        "",
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"kind": Kind.PEER_RESET, "state": TcpState.CLOSED},
            "12 min since it was seen dead (CLOSED)",
        ),
        ({"kind": Kind.PEER_RESET, "state": TcpState.CLOSED}, "error unread"),
        ({"kind": Kind.PEER_RESET}, "the connection is dead, our descriptor is still open"),
        ({"kind": Kind.COLLECTED}, "we dropped the socket without closing it"),
        ({"state": None, "peer": None}, "(peer hung up), fd 41, peer unnamed"),
        ({"peer": None}, "peer unknown"),
        ({"unread_bytes": 3}, "3 bytes unread"),
        ({"end_unread": None}, "nothing unread"),
        ({"end_unread": None, "unread_bytes": None}, "unread bytes unknown"),
        ({"created": Origin(stack=())}, "  opened   unknown"),
        ({"created": Origin(stack=(CONNECT,) * 9)}, "<- … 3 more"),
        ({"created": Origin(stack=(Frame("/a.py", None, "f"),))}, "/a.py:? in f"),
        ({"since_fin_ns": SECOND // 2}, "500 ms since"),
        ({"since_fin_ns": 12 * SECOND + SECOND // 3}, "12.3 s since"),
        ({"since_fin_ns": 3 * 3600 * SECOND}, "3 h since"),
    ],
)
def test_a_report_words_what_the_kernel_shows(
    changes: dict[str, Any], words: str, said: Said
) -> None:
    text().export([an_event(**changes)])
    assert words in said()


def test_the_process_is_named_in_children_only(said: Said) -> None:
    text().export([an_event()])
    assert "pid" not in said()
    text(is_root=False).export([an_event()])
    assert f"[a1f39c02b7de pid {os.getpid()}]" in said()


def test_the_leaks_of_a_tick_are_one_report_a_group_with_the_oldest_in_it(said: Said) -> None:
    exporter = text()
    young = an_event(count=1, still_open=1, since_fin_ns=SECOND)
    old = an_event(count=2, still_open=2, fd=42)
    other = an_event(fingerprint="0123456789ab")
    exporter.export([young, old, other])
    first, second = said().strip().split("\n\n")
    assert first.startswith("2 sockets leaked here: ")
    assert "  oldest   12 min since" in first
    assert "fd 42" in first
    assert "[0123456789ab]" in second


def test_a_later_report_of_a_group_says_how_many_more(said: Said) -> None:
    exporter = text()
    exporter.export([an_event(count=2, still_open=2)])
    said()
    # The group is capped: its third to fifth leak came without an event.
    exporter.export([an_event(count=5, still_open=4)])
    assert said().startswith("\n3 more leaked here, 5 by now: the peer closed, we did not")


def test_a_withdrawal_is_one_line(said: Said) -> None:
    event = an_event(RESOLVED, count=5, still_open=3, open_ns=750 * SECOND)
    text().export([event])
    assert said() == (
        "[a1f39c02b7de] closed after all: fd 41, 12 min after the peer; 3 of 5 still open\n"
    )


def test_the_closing_lines_tell_leaked_from_late(said: Said) -> None:
    text().summarize(a_summary(count=2, late=1))
    assert said().splitlines() == [
        "sockguard: 2 sockets leaked at 1 place, 2 still open at exit; 12 sockets tracked",
        "       2  [a1f39c02b7de] /srv/app/db.py:88 in connect (unread)",
        "sockguard: 1 socket open at exit whose peer had closed, for less than the threshold",
        "       1  [a1f39c02b7de] /srv/app/db.py:88 in connect",
    ]


def test_a_child_without_news_is_silent_at_its_end(said: Said) -> None:
    text(is_root=False).summarize(a_summary())
    assert said() == ""
    text().summarize(a_summary())
    assert said() == "sockguard: no leak; 12 sockets tracked\n"
    text(is_root=False).summarize(a_summary(late=1))
    assert "open at exit" in said()


@contextmanager
def a_terminal() -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


def test_colour_is_for_a_terminal_that_wants_it(tmp_path: Path) -> None:
    with a_terminal() as (_, terminal), (tmp_path / "file").open("w") as file:
        assert wants_colour({}, terminal)
        assert wants_colour({"NO_COLOR": "", "TERM": "xterm"}, terminal)  # empty: not set
        assert not wants_colour({"NO_COLOR": "1"}, terminal)
        assert not wants_colour({"TERM": "dumb"}, terminal)
        assert not wants_colour({}, file.fileno())
    assert not wants_colour({}, terminal)  # closed by now


def test_a_terminal_gets_the_same_report_in_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with a_terminal() as (ours, terminal):
        saved = os.dup(2)
        os.dup2(terminal, 2)
        try:
            text().export([an_event()])
        finally:
            os.dup2(saved, 2)
            os.close(saved)
        shown = os.read(ours, 65536).decode().replace("\r\n", "\n")
    assert shown.startswith("\n\x1b[1;31m1 socket leaked here")
    assert "\x1b[1m  why     \x1b[0m nobody" in shown
    for code in ("\x1b[1;31m", "\x1b[1m", "\x1b[0m"):
        shown = shown.replace(code, "")
    assert shown == REPORT


# -- JSON Lines ----------------------------------------------------------------------------


def test_a_leak_is_one_line_with_every_field(path: Path) -> None:
    stack = [
        {"file": "/srv/app/db.py", "line": 88, "function": "connect"},
        {"file": "/srv/app/jobs.py", "line": 31, "function": "refresh"},
    ]
    nobody = {"thread": None, "task": None, "trace_id": None, "span_id": None}
    who = {"thread": "T-1", "task": "Task-4", "trace_id": "ab" * 16, "span_id": "cd" * 8}
    event = an_event(
        count=3,
        still_open=2,
        created=Origin(stack=(CONNECT, REFRESH), **who),
        eof=Origin(stack=(CONNECT,)),
        listener=Origin(stack=(CONNECT,)),
        holders=("app.db.POOL",),
        unread_bytes=17,
        since_fin_ns=720_123_456_789,
    )
    with json_lines(path) as exporter:
        exporter.export([event])
    (line,) = lines(path)
    assert line.pop("time")
    assert line == {
        "event": "sockguard.socket.leak",
        "pid": os.getpid(),
        "fingerprint": "a1f39c02b7de",
        "kind": "peer_closed",
        "verdict": "unread",
        "confidence": "unknown",
        "why": "nobody has read what the peer sent last",
        "advice": "close the socket",
        "state": "close_wait",
        "fd": 41,
        "local": "10.0.4.2:50000",
        "peer": "10.0.4.7:5432",
        "age_s": 800.0,
        "since_fin_s": 720.123457,
        "unread_bytes": 17,
        "end_unread": True,
        "site": stack[0],
        "created": {"stack": stack, **who},
        "listener": {"stack": stack[:1], **nobody},
        "eof": {"stack": stack[:1], **nobody},
        "handler": None,
        "waits_at": None,
        "far_end": None,
        "holders": ["app.db.POOL"],
        "group_count": 3,
        "group_open": 2,
        "group_per_hour": None,
        "fd_limit_in_s": None,
    }


def test_what_is_unknown_is_null_and_never_left_out(path: Path) -> None:
    unknown = {"state": None, "local": None, "peer": None, "unread_bytes": None, "end_unread": None}
    with json_lines(path) as exporter:
        exporter.export([an_event(), an_event(**unknown)])
    known, line = lines(path)
    assert line.keys() == known.keys()
    assert [line[name] for name in (*unknown, "eof", "listener", "holders")] == [None] * 8


def test_a_withdrawal_says_how_long_the_socket_was_open(path: Path) -> None:
    with json_lines(path) as exporter:
        exporter.export([an_event(RESOLVED, open_ns=2 * SECOND), an_event()])
    withdrawn, leaked = lines(path)
    assert withdrawn["event"] == "sockguard.socket.leak.resolved"
    assert withdrawn["open_s"] == 2.0
    assert "open_s" not in leaked


def test_the_summary_closes_the_record(path: Path) -> None:
    with json_lines(path) as exporter:
        exporter.summarize(a_summary(count=2, late=1))
    (line,) = lines(path)
    group = {
        "fingerprint": "a1f39c02b7de",
        "kind": "peer_closed",
        "verdict": "unread",
        "count": 2,
        "open": 2,
        "per_hour": None,
        "site": {"file": "/srv/app/db.py", "line": 88, "function": "connect"},
    }
    assert line.pop("time")
    assert line == {
        "event": "sockguard.summary",
        "pid": os.getpid(),
        "leaked": 2,
        "groups": [group],
        "pooled": [],
        "open_at_exit": [group | {"count": 1, "open": 1}],
        "tracked": 12,
        "collected_unclosed": None,
        "coverage": {"python": 12, "adapter": 0, "native": None},
        "guard_cpu_s": 0.25,
    }


def test_the_time_is_when_it_happened_in_utc() -> None:
    ago = 90 * SECOND
    before = time.time_ns()
    text = encode_summary(replace(a_summary(), at_ns=time.monotonic_ns() - ago))["time"]
    after = time.time_ns()
    assert text.endswith("Z")
    told = datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * SECOND
    # Two clocks are read one after the other, and whole microseconds are written.
    assert before - ago - 10_000_000 <= told <= after - ago + 10_000_000


def test_a_path_that_is_no_utf8_and_a_line_end_in_it_leave_the_line_whole(path: Path) -> None:
    created = Origin(stack=(Frame("/srv/\udcff\n\u2028größer.py", 1, "f"),))
    with json_lines(path) as exporter:
        exporter.export([an_event(created=created)])
    text = path.read_bytes().decode("utf-8")
    assert text.count("\n") == 1
    assert json.loads(text)["created"]["stack"][0]["file"] == "/srv/\udcff\n\u2028größer.py"


def test_the_process_id_is_put_into_the_path(tmp_path: Path) -> None:
    with json_lines(tmp_path / "leaks-{pid}.jsonl") as exporter:
        exporter.export([an_event()])
    assert len(lines(tmp_path / f"leaks-{os.getpid()}.jsonl")) == 1


def test_an_earlier_record_is_kept_and_continued(path: Path) -> None:
    for _ in range(2):
        with json_lines(path) as exporter:
            exporter.export([an_event()])
    assert len(lines(path)) == 2


def test_several_processes_write_whole_lines_into_one_file(path: Path) -> None:
    start, go = os.pipe()
    children = []
    for number in range(4):
        pid = os.fork()
        if pid == 0:  # the child: must not return into pytest
            code = 1
            try:
                os.close(go)
                os.read(start, 1)  # the end of the pipe: all begin together
                with json_lines(path, limit=100 * MEBIBYTE) as exporter:
                    for _ in range(100):
                        exporter.export([an_event(fd=number, why="x" * 6000)])
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    os.close(start)
    os.close(go)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    assert sorted(line["fd"] for line in lines(path)) == [n for n in range(4) for _ in range(100)]


def test_a_line_is_given_up_when_another_process_keeps_the_file_locked(
    path: Path, said: Said
) -> None:
    with json_lines(path) as exporter:
        with path.open("a") as other:
            fcntl.flock(other, fcntl.LOCK_SH)  # ours is exclusive: this one keeps it out
            exporter.export([an_event(fd=1)])
        assert said() == (
            f"sockguard: {path} is kept locked by another process: a line was given up\n"
        )
        exporter.export([an_event(fd=2)])
    assert [line["fd"] for line in lines(path)] == [2]


def test_the_size_limit_keeps_the_summary_and_is_said_once(path: Path, said: Said) -> None:
    with json_lines(path) as exporter:
        exporter.export([an_event()])
    size = path.stat().st_size
    with json_lines(path, limit=3 * size) as exporter:
        exporter.export([an_event()] * 5)
        exporter.summarize(a_summary())
    assert [line["event"] for line in lines(path)] == [LEAK] * 3 + ["sockguard.summary"]
    assert said().splitlines() == [
        f"sockguard: {path} has reached {3 * size} bytes (--output-limit): "
        "only the summary is written from now on"
    ]


# -- what fails, fails alone ---------------------------------------------------------------


def test_a_failing_exporter_disturbs_no_other_and_is_named_once(said: Said) -> None:
    before, failing, after = Recorder(), Failing(), Recorder()
    with engine(before, failing, after) as made:
        made.publish([an_event()])
        made.publish([an_event(RESOLVED)])
        assert made.exporters == [before, after]
    assert before.got == after.got == [LEAK, RESOLVED, "closed"]
    assert failing.got == [LEAK]
    assert said() == "sockguard: exporter failing failed and is switched off: out of paper\n"


@contextmanager
def a_disk_with(room: int) -> Iterator[None]:
    """Let no file of this process grow past ``room`` bytes: a write is cut there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_ends_the_record_at_a_whole_line_and_is_said_once(
    path: Path, said: Said
) -> None:
    with json_lines(path) as exporter:
        exporter.export([an_event()])
    size = path.stat().st_size
    recorder = Recorder()
    with engine(JsonLinesExporter(str(path), MEBIBYTE), recorder) as made:
        with a_disk_with(2 * size + size // 2):
            for _ in range(3):
                made.publish([an_event()])
        assert made.exporters == [recorder]
    assert len(lines(path)) == 2
    assert recorder.got == [LEAK] * 3 + ["closed"]
    written = f"only {size // 2} of {size} bytes fit into {path}"
    assert said() == f"sockguard: exporter JSON Lines failed and is switched off: {written}\n"


def test_a_device_without_room_stops_that_exporter_only(said: Said) -> None:
    recorder = Recorder()
    with engine(JsonLinesExporter("/dev/full", MEBIBYTE), recorder) as made:
        made.publish([an_event()])
        made.publish([an_event()])
        assert made.exporters == [recorder]
    assert said().count("sockguard: exporter JSON Lines failed") == 1


def test_a_closed_standard_error_stops_the_text_only(path: Path) -> None:
    with engine(text(), JsonLinesExporter(str(path), MEBIBYTE)) as made:
        saved = os.dup(2)
        os.close(2)
        try:
            made.publish([an_event()])
        finally:
            os.dup2(saved, 2)
            os.close(saved)
        assert [exporter.name for exporter in made.exporters] == ["JSON Lines"]
        made.publish([an_event()])
    assert len(lines(path)) == 2


def test_a_fifo_without_a_reader_stops_nothing_and_is_said(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    environ = {name: value for name, value in os.environ.items() if "SOCKGUARD" not in name}
    done = subprocess.run(
        [sys.executable, "-c", "print('runs')"],
        env=environ | {"SOCKGUARD": "1", "SOCKGUARD_OUTPUT": str(fifo)},
        capture_output=True,
        text=True,
        timeout=30,  # a hang: opening it would wait for a reader
    )
    assert (done.returncode, done.stdout) == (0, "runs\n")
    assert done.stderr.count("sockguard: no JSON Lines are written: ") == 1


def test_a_fifo_whose_reader_left_is_said_and_ends_the_record(tmp_path: Path, said: Said) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with engine(JsonLinesExporter(str(fifo), MEBIBYTE)) as made:
        made.publish([an_event()])
        assert json.loads(os.read(reader, 65536))["event"] == LEAK
        os.close(reader)
        made.publish([an_event()])
        assert made.exporters == []
    assert said().count("sockguard: exporter JSON Lines failed") == 1


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[int]:
    """A file of the program's."""
    fd = os.open(tmp_path / "theirs", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def test_our_output_goes_on_when_the_program_closed_its_descriptor(path: Path) -> None:
    with json_lines(path) as exporter:
        os.close(exporter._fd)
        exporter.export([an_event()])
    assert len(lines(path)) == 1


def test_not_a_byte_of_ours_gets_into_a_file_that_took_our_number(path: Path, theirs: int) -> None:
    exporter = JsonLinesExporter(str(path), MEBIBYTE)
    number = exporter._fd
    os.dup2(theirs, number)
    try:
        exporter.export([an_event()])
        exporter.summarize(a_summary())
        exporter.close()
        assert os.path.sameopenfile(number, theirs)
        assert os.fstat(theirs).st_size == 0
    finally:
        os.close(number)
    assert len(lines(path)) == 2


def test_a_number_that_is_not_ours_any_more_is_not_closed(path: Path, theirs: int) -> None:
    exporter = JsonLinesExporter(str(path), MEBIBYTE)
    number = exporter._fd
    os.dup2(theirs, number)
    exporter.close()
    assert os.path.sameopenfile(number, theirs)
    os.close(number)


def test_a_child_of_the_program_does_not_inherit_our_output(path: Path) -> None:
    with json_lines(path) as exporter:
        assert not os.get_inheritable(exporter._fd)


# -- the tally -----------------------------------------------------------------------------


def test_the_tally_is_one_byte_for_a_process_that_leaked(tmp_path: Path) -> None:
    tally = tmp_path / "tally"
    tally.touch()
    exporter = TallyExporter(str(tally))
    exporter.export([an_event(RESOLVED)])
    exporter.summarize(a_summary(late=1))
    assert tally.read_bytes() == b""
    exporter.export([an_event(RESOLVED), an_event()])
    exporter.export([an_event()])
    assert tally.read_bytes() == b"L"
    TallyExporter(str(tally)).export([an_event()])
    assert tally.read_bytes() == b"LL"


def test_a_tally_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    recorder = Recorder()
    with engine(TallyExporter(str(tmp_path / "gone")), recorder) as made:
        made.publish([an_event()])
    assert recorder.got == [LEAK, "closed"]
    assert not (tmp_path / "gone").exists()
