"""Children of every kind under guard: each leak once, by the process that has it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import kernel
from support.ldjson import Line, leaks, line_of, lines_in, summaries, wait_for_leaks
from support.programs import SERVERS, guarded

FAMILY = SERVERS / "family.py"
MULTIPROCESSING = ["fork", "spawn", "forkserver"]
EXECUTORS = ["executor-fork", "executor-spawn"]
# They end past atexit (os._exit), and close no record: docs of `sockguard.summary`.
WITHOUT_SUMMARY = ["os.fork"]
KINDS = [*MULTIPROCESSING, *EXECUTORS, *WITHOUT_SUMMARY, "subprocess"]


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    """A server that the family connects to."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        yield listener


def hang_up(listener: socket.socket, connections: int) -> None:
    for _ in range(connections):
        listener.accept()[0].close()


def assert_line(leak: Line, port: int) -> None:
    assert lines_in(leak["created"]["stack"], FAMILY)[0] == line_of(FAMILY, "create_connection(")
    assert leak["peer"] == f"127.0.0.1:{port}"
    assert (leak["kind"], leak["state"]) == ("peer_closed", "close_wait")


@pytest.mark.parametrize("kind", KINDS)
def test_each_process_reports_its_own_leak_once(
    kind: str, peer: socket.socket, tmp_path: Path
) -> None:
    output = tmp_path / "leaks.jsonl"
    port = peer.getsockname()[1]
    with guarded(output, FAMILY.name, kind, str(port)) as parent:
        children = [int(word) for word in parent.line()[1:]]
        family = {parent.pid, *children}
        assert len(family) == (3 if kind in MULTIPROCESSING else 2)
        hang_up(peer, len(family))
        found = wait_for_leaks(output, len(family))
        assert sorted(leak["pid"] for leak in found) == sorted(family)
        # A fork holds its parent's as well: they are the parent's to report.
        shown = {pid: kernel.close_wait(pid) for pid in family}
        assert shown[parent.pid] == 1
        assert min(shown.values()) == 1
        assert parent.end() == 0, parent.errors()
        assert parent.errors() == ""

    assert len({leak["local"] for leak in leaks(output)}) == len(leaks(output)) == len(family)
    for leak in leaks(output):
        assert_line(leak, port)
    closing = summaries(output)
    for pid in family if kind not in WITHOUT_SUMMARY else {parent.pid}:
        assert (closing[pid]["leaked"], closing[pid]["open_at_exit"]) == (1, [])
        assert [group["open"] for group in closing[pid]["groups"]] == [1]


def test_a_fork_reports_nothing_that_it_only_inherited(peer: socket.socket, tmp_path: Path) -> None:
    output = tmp_path / "leaks.jsonl"
    port = peer.getsockname()[1]
    with guarded(output, FAMILY.name, "os.fork", str(port)) as parent:
        (child,) = (int(word) for word in parent.line()[1:])
        inherited = peer.accept()[0]
        hang_up(peer, 1)
        wait_for_leaks(output, 1)
        inherited.close()
        found = wait_for_leaks(output, 2)
        assert [leak["pid"] for leak in found] == [child, parent.pid]
        assert kernel.close_wait(child) == 2
        assert parent.end() == 0
    assert len(leaks(output)) == 2
    assert summaries(output)[parent.pid]["leaked"] == 1


def test_a_fork_amid_another_thread_s_import_can_open_sockets(tmp_path: Path) -> None:
    # The importing thread is not in the child, the lock that it holds is: forever.
    with guarded(tmp_path / "leaks.jsonl", "fork_amid_import.py") as parent:
        assert parent.line() == ["opened"]
        assert parent.end() == 0
