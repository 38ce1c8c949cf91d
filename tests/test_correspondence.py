"""Both ends of a connection in one report: of this process, of a guarded one, of any other."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.ldjson import Line, lines_in, wait_for_leaks
from support.programs import SERVERS, clean_environment, guarded, running

FILE = SERVERS / "two_ends.py"
ACCEPTS = next(
    number
    for number, line in enumerate(FILE.read_text("utf-8").splitlines(), start=1)
    if "listener.accept()" in line
)
# Longer than some ticks of the other process: it is asked when the trouble begins.
WAITS = {"threshold": "1.5", "interval": "0.1"}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells it on Linux only")


def the_leak(output: Path) -> Line:
    (leak, *_) = wait_for_leaks(output, 1)
    return leak


def test_a_guarded_process_tells_where_it_made_the_other_end(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "server", tmp_path / "client"
    theirs.mkdir()
    ours.mkdir()
    with guarded(theirs / "leaks.jsonl", FILE.name, "server") as server:
        (port,) = server.line()
        with guarded(ours / "leaks.jsonl", FILE.name, "client", port, **WAITS) as client:
            (fd,) = server.line()
            leak = the_leak(ours / "leaks.jsonl")
            assert client.end() == 0
        assert server.end() == 0
    far = leak["far_end"]
    assert (leak["pid"], leak["state"]) == (client.pid, "close_wait")
    assert (far["pid"], far["fd"], far["state"], far["held"]) == (
        server.pid,
        int(fd),
        "fin_wait_2",
        True,
    )
    assert lines_in(far["created"]["stack"], FILE)[0] == ACCEPTS
    assert far["created"]["thread"] == "MainThread"


def test_of_an_unguarded_process_all_is_told_but_that(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "server", tmp_path / "client"
    theirs.mkdir()
    ours.mkdir()
    command = [sys.executable, FILE, "server"]
    with running(command, theirs, clean_environment()) as server:
        (port,) = server.line()
        with guarded(ours / "leaks.jsonl", FILE.name, "client", port) as client:
            (fd,) = server.line()
            far = the_leak(ours / "leaks.jsonl")["far_end"]
            assert client.end() == 0
        assert server.end() == 0
    assert (far["pid"], far["fd"], far["state"]) == (server.pid, int(fd), "fin_wait_2")
    assert far["created"] is None


def test_the_other_end_in_the_same_process_is_named(tmp_path: Path) -> None:
    output = tmp_path / "leaks.jsonl"
    with guarded(output, FILE.name, "both") as both:
        fd, far_fd = both.line()
        leak = the_leak(output)
        assert both.end() == 0
    far = leak["far_end"]
    assert leak["fd"] == int(fd)
    assert (far["pid"], far["fd"], far["state"]) == (both.pid, int(far_fd), "fin_wait_2")
    assert lines_in(far["created"]["stack"], FILE)[0] == ACCEPTS
