"""The examples, run as a user would; and what a leak line says, against the truth."""

from __future__ import annotations

import datetime
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.ldjson import (
    Line,
    leaks,
    line_of,
    lines,
    lines_in,
    summaries,
    wait_for_leaks,
)
from support.programs import Program, clean_environment, guarded

ROOT = Path(__file__).parent.parent
LEAKY = ROOT / "examples" / "leaky_server.py"
POOLED = ROOT / "examples" / "pooled_client.py"
MOST_S = 15


class Outcome(NamedTuple):
    """How a program ended, and what it wrote."""

    pid: int
    code: int
    story: str
    report: str
    output: Path

    @property
    def close_wait(self) -> int:
        """The kernel's count, as the program itself read it from /proc."""
        match = re.search(r"^kernel: .*CLOSE_WAIT: (\d+)$", self.story, re.MULTILINE)
        assert match is not None, self.story
        return int(match[1])


Outcomes = dict[str, Outcome]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Run all examples at once by the command of the README: each lives for a few seconds."""
    folder = tmp_path_factory.mktemp("examples")
    words = {"leaky": [LEAKY], "fixed": [LEAKY, "--fixed"], "pooled": [POOLED]}
    words["careless"] = [POOLED, "--careless"]
    started: dict[str, subprocess.Popen[str]] = {}
    ended: Outcomes = {}
    try:
        for name, command in words.items():
            options = ["--threshold", "1", "--output", str(folder / f"{name}.jsonl")]
            started[name] = subprocess.Popen(
                [sys.executable, "-m", "sockguard", *options, *map(str, command)],
                cwd=ROOT,
                env=clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        for name, process in started.items():
            story, report = process.communicate(timeout=MOST_S)
            output = folder / f"{name}.jsonl"
            ended[name] = Outcome(process.pid, process.returncode, story, report, output)
    finally:
        for process in started.values():
            if process.poll() is None:
                process.kill()
                process.communicate()
    return ended


def test_the_leaky_server_ends_well_and_is_reported_at_its_accept(outcomes: Outcomes) -> None:
    run = outcomes["leaky"]
    line = line_of(LEAKY, "listener.accept()")
    assert run.code == 0
    assert "leaked here: the peer closed, we did not" in run.report
    assert f"opened   examples/leaky_server.py:{line} in serve" in run.report
    assert f"examples/leaky_server.py:{line} in serve" in run.report.splitlines()[-1]
    for leak in leaks(run.output):
        assert lines_in(leak["created"]["stack"], LEAKY) == [line]
        told_at = lines_in(leak["eof"]["stack"], LEAKY)
        assert told_at[0] == line_of(LEAKY, "connection.recv(")
        assert (leak["kind"], leak["verdict"]) == ("peer_closed", "eof_ignored")


def test_the_leaky_server_has_as_many_leaks_as_the_kernel_shows(outcomes: Outcomes) -> None:
    run = outcomes["leaky"]
    assert run.close_wait > 0
    assert f"sockguard: {run.close_wait} sockets leaked at 1 place" in run.report
    (group,) = summaries(run.output)[run.pid]["groups"]
    assert (group["count"], group["open"]) == (run.close_wait, run.close_wait)
    assert max(leak["group_count"] for leak in leaks(run.output)) <= run.close_wait


def test_the_fixed_server_has_no_finding_under_the_same_load(outcomes: Outcomes) -> None:
    run, leaky = outcomes["fixed"], outcomes["leaky"]
    assert run.code == 0
    clients = re.compile(r"^(?:clients|server: \d).*$", re.MULTILINE)
    assert clients.findall(run.story) == clients.findall(leaky.story)
    assert run.close_wait == 0
    assert re.fullmatch(r"sockguard: no leak; \d+ sockets tracked\n", run.report)
    (summary,) = lines(run.output)
    assert (summary["groups"], summary["open_at_exit"]) == ([], [])
    assert summary["tracked"] == summaries(leaky.output)[leaky.pid]["tracked"]


def test_the_pooled_client_s_idle_connection_is_no_leak(outcomes: Outcomes) -> None:
    run = outcomes["pooled"]
    assert run.code == 0
    assert run.close_wait == 1
    assert re.fullmatch(r"sockguard: no leak; \d+ sockets tracked\n", run.report)
    (pooled,) = lines(run.output, "sockguard.socket.pooled")
    assert (pooled["verdict"], pooled["end_unread"], pooled["eof"]) == ("pooled", True, None)
    assert lines_in(pooled["created"]["stack"], POOLED)[0] == line_of(
        POOLED, '"client:", session.get(url, timeout=10).text)'
    )
    assert "HTTPConnectionPool, 1 idle" in pooled["why"]
    summary = summaries(run.output)[run.pid]
    assert [(group["count"], group["open"]) for group in summary["pooled"]] == [(1, 0)]


def test_a_session_for_each_request_is_a_leak(outcomes: Outcomes) -> None:
    run = outcomes["careless"]
    assert run.code == 0
    assert run.close_wait == 8
    (leak, *_) = leaks(run.output)
    assert leak["verdict"] == "pooled"
    assert "pools made at one line" in leak["why"]
    (group,) = summaries(run.output)[run.pid]["groups"]
    assert group["count"] == 8


@pytest.mark.parametrize("missing", ["requests", "uvicorn"])
def test_the_pooled_client_says_in_one_sentence_what_it_lacks(missing: str, tmp_path: Path) -> None:
    # Finding the name and failing to import it is what a missing package looks like.
    (tmp_path / f"{missing}.py").write_text(f"raise ModuleNotFoundError(name={missing!r})\n")
    ended = subprocess.run(
        [sys.executable, POOLED],
        env=clean_environment(PYTHONPATH=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=MOST_S,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"this example needs {missing}: pip install 'sockguard[test]'\n"


# -- the leak line ---------------------------------------------------------------------

TEXT = (str,)
SECONDS = (float, int)
ORIGIN = {"stack": (list,), "thread": (str, type(None)), "task": (str, type(None))}
ORIGIN |= {"trace_id": (str, type(None)), "span_id": (str, type(None))}
# DESIGN, section 5; a type is the one that a TCP socket of a thread gives on Linux.
FIELDS: dict[str, tuple[type, ...]] = {
    "event": TEXT,
    "time": TEXT,
    "pid": (int,),
    "fingerprint": TEXT,
    "kind": TEXT,
    "verdict": TEXT,
    "state": TEXT,
    "fd": (int,),
    "local": TEXT,
    "peer": TEXT,
    "age_s": SECONDS,
    "since_fin_s": SECONDS,
    "unread_bytes": (int,),
    "created": (dict,),
    "eof": (dict, type(None)),
    "holders": (list, type(None)),
    "advice": TEXT,
    "group_count": (int,),
}


def assert_types(fields: dict[str, Any], types: dict[str, tuple[type, ...]]) -> None:
    for name, allowed in types.items():
        assert type(fields[name]) in allowed, f"{name}: {fields[name]!r}"


@pytest.mark.parametrize("example", ["leaky", "careless"])
def test_every_field_of_a_leak_line_is_there_and_of_its_type(
    outcomes: Outcomes, example: str
) -> None:
    run = outcomes[example]
    found = leaks(run.output)
    assert found
    for leak in found:
        assert_types(leak, FIELDS)
        for origin in (leak["created"], leak["eof"]):
            if origin is None:
                continue
            assert_types(origin, ORIGIN)
            assert origin["stack"]
            for frame in origin["stack"]:
                assert_types(frame, {"file": TEXT, "line": (int,), "function": TEXT})
        assert leak["pid"] == run.pid
        assert re.fullmatch(r"[0-9a-f]{12}", leak["fingerprint"])
        assert re.fullmatch(r"127\.0\.0\.1:\d+", leak["local"])
        assert re.fullmatch(r"127\.0\.0\.1:\d+", leak["peer"])
        assert leak["local"] != leak["peer"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", leak["time"])
        assert leak["unread_bytes"] == 0
        assert leak["advice"]


# -- since when ------------------------------------------------------------------------

EXACT_S = 0.050
THRESHOLD_S = 0.3


def unix_time(line: Line) -> float:
    return datetime.datetime.fromisoformat(line["time"].replace("Z", "+00:00")).timestamp()


def passes(seconds: float) -> None:
    """Let time pass in the kernel, whose clock nobody can pass in."""
    threading.Event().wait(seconds)


@pytest.fixture
def late_server(tmp_path: Path) -> Iterator[tuple[Program, int, Path]]:
    """A guarded server that accepts when it is told to; its port, its JSON Lines.

    It looks seldom: from the look alone nobody can tell when the peer closed.
    """
    output = tmp_path / "leaks.jsonl"
    with guarded(output, "late_server.py", interval="0.25") as program:
        port = int(program.line()[1])
        yield program, port, output
        assert program.end() == 0
        assert program.errors() == ""


def assert_since(leak: Line, before: float, after: float) -> None:
    """The finding's own time less ``since_fin_s`` is the moment that lies in between."""
    fin = unix_time(leak) - leak["since_fin_s"]
    assert before - EXACT_S <= fin <= after + EXACT_S
    assert leak["since_fin_s"] >= THRESHOLD_S


def accept(program: Program) -> None:
    program.tell("accept")
    assert program.line() == ["accepted"]


def test_since_fin_is_the_time_since_the_client_closed(
    late_server: tuple[Program, int, Path],
) -> None:
    program, port, output = late_server
    closed: dict[str, tuple[float, float]] = {}
    clients = []
    for _ in range(4):
        clients.append(socket.create_connection(("127.0.0.1", port)))
        accept(program)
    passes(0.2)  # its age is not the age of the FIN
    for client in clients:
        passes(0.06)  # all over the time between two looks
        peer = "{}:{}".format(*client.getsockname())
        before = time.time()
        client.close()
        closed[peer] = (before, time.time())
    found = wait_for_leaks(output, len(clients))
    assert {leak["peer"] for leak in found} == set(closed)
    for leak in found:
        assert_since(leak, *closed[leak["peer"]])
        assert leak["age_s"] > leak["since_fin_s"] + 0.15


def test_since_fin_is_right_for_a_client_that_closed_before_it_was_accepted(
    late_server: tuple[Program, int, Path],
) -> None:
    program, port, output = late_server
    before = time.time()
    socket.create_connection(("127.0.0.1", port)).close()
    after = time.time()
    passes(0.2)
    accept(program)
    (leak,) = wait_for_leaks(output, 1)
    assert_since(leak, before, after)
    assert leak["since_fin_s"] > leak["age_s"] + 0.15


def test_an_idle_connection_that_is_reset_starts_its_clock_at_the_reset(
    late_server: tuple[Program, int, Path],
) -> None:
    program, port, output = late_server
    client = socket.create_connection(("127.0.0.1", port))
    accept(program)
    passes(2 * THRESHOLD_S)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    before = time.time()
    client.close()
    (leak,) = wait_for_leaks(output, 1)
    assert leak["kind"] == "peer_reset"
    assert unix_time(leak) - before >= THRESHOLD_S  # never accused before
    assert unix_time(leak) - leak["since_fin_s"] >= before - 0.001  # the wall clock's grain
    assert leak["age_s"] > leak["since_fin_s"] + 2 * THRESHOLD_S - 0.1
