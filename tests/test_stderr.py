"""Standard error: reached or given up, never waited for, never a stranger's file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sockguard import stderr

LEAK = """
import socket
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
kept, _ = server.accept()
client.close()
import sys; print("done"); sys.exit(7)
"""


@contextmanager
def standard_error(fd: int | None) -> Iterator[None]:
    """Put ``fd``, or nothing, under number 2 for a while."""
    saved = os.dup(2)
    if fd is None:
        os.close(2)
    else:
        os.dup2(fd, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this module remembers for a process is put back after each test."""
    monkeypatch.setattr(stderr, "_ours", None)
    monkeypatch.setattr(stderr, "_said", set())


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe, its writing end blocking as standard error is."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    os.close(reader)
    os.close(writer)


class HangError(Exception):
    """A wait that should have been given up."""


@contextmanager
def no_hang() -> Iterator[None]:
    """Fail rather than wait for ever where a wait has no bound of its own."""

    def give_up(number: int, frame: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(20)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fill(writer: int) -> int:
    """Write until the pipe takes no more; return how much it took."""
    os.set_blocking(writer, False)
    size = 0
    try:
        while True:
            size += os.write(writer, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writer, True)
        return size


def drain(reader: int) -> bytes:
    chunks = []
    try:
        while chunk := os.read(reader, 65536):
            chunks.append(chunk)
    except BlockingIOError:
        pass
    return b"".join(chunks)


def opened(path: Path, flags: int = 0) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | flags)


def test_text_goes_out_whole_also_what_is_no_utf8(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    with no_hang(), standard_error(writer):
        stderr.remember()
        assert stderr.write("größer \udcff " + "x" * 9000)
    assert drain(reader) == "größer ".encode() + rb"\udcff " + b"x" * 9000


def test_a_full_pipe_takes_what_fits_and_is_given_up(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    taken = fill(writer)
    with no_hang(), standard_error(writer):
        stderr.remember()
        assert not stderr.write("too much")
        os.read(reader, 8192)
        assert not stderr.write("y" * 20_000)
    left = drain(reader)
    assert len(left) <= taken
    assert b"too much" not in left
    assert left.endswith(b"y")


def test_a_reader_that_went_away_is_no_error_of_the_program() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with standard_error(writer):
        stderr.remember()
        assert not stderr.write("anyone?")
    os.close(writer)


def test_a_closed_standard_error_takes_nothing() -> None:
    stderr.remember()
    with standard_error(None):
        assert not stderr.is_ours()
        assert not stderr.write("anyone?")


def test_a_process_that_began_without_one_never_gets_one(tmp_path: Path) -> None:
    file = opened(tmp_path / "data")
    with standard_error(None):
        stderr.remember()
        os.dup2(file, 2)
        assert not stderr.write("anyone?")
    os.close(file)
    assert (tmp_path / "data").read_bytes() == b""


def test_a_file_that_the_program_opened_under_number_two_is_not_written_to(
    tmp_path: Path, pipe: tuple[int, int]
) -> None:
    database = opened(tmp_path / "database")
    with standard_error(pipe[1]):
        stderr.remember()
        with standard_error(database):
            assert not stderr.write("a report")
            stderr.complain("a complaint")
        assert stderr.write("back again")
    os.close(database)
    assert (tmp_path / "database").read_bytes() == b""
    assert drain(pipe[0]) == b"back again"


def test_a_pipe_or_socket_of_the_programs_under_number_two_is_not_written_to(
    pipe: tuple[int, int],
) -> None:
    stderr.remember()
    with standard_error(pipe[1]):
        assert not stderr.write("a report")
    assert drain(pipe[0]) == b""


def test_a_log_that_the_program_put_there_for_appending_is_written_to(
    tmp_path: Path, pipe: tuple[int, int]
) -> None:
    log = opened(tmp_path / "log", os.O_APPEND)
    with standard_error(pipe[1]):
        stderr.remember()
        with standard_error(log):
            assert stderr.write("a report")
    os.close(log)
    assert (tmp_path / "log").read_bytes() == b"a report"
    assert drain(pipe[0]) == b""


def test_a_complaint_is_made_once_and_their_number_is_bounded(pipe: tuple[int, int]) -> None:
    with standard_error(pipe[1]):
        stderr.remember()
        for number in range(100):
            stderr.complain(f"trouble {number}")
            stderr.complain(f"trouble {number}")
    lines = drain(pipe[0]).decode().splitlines()
    assert lines == [f"sockguard: trouble {number}" for number in range(64)]


def guarded(*arguments: str, stderr: int | None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "sockguard", "--threshold", "0", "--interval", "0.05"]
    environ = {name: value for name, value in os.environ.items() if "SOCKGUARD" not in name}
    return subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=stderr, env=environ
    )


def outcome(process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    """Wait for the end; a process that hangs is killed, and the test fails."""
    with process:
        try:
            out, _ = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return process.returncode, out


def test_a_full_pipe_on_standard_error_does_not_hold_the_programs_exit(
    pipe: tuple[int, int],
) -> None:
    fill(pipe[1])
    process = guarded("-c", LEAK, stderr=pipe[1])
    assert outcome(process) == (7, b"done\n")
    assert set(drain(pipe[0])) == set(b"x")


def test_a_program_that_closes_standard_error_ends_as_without_us(tmp_path: Path) -> None:
    data = tmp_path / "data"
    script = f"import os; os.close(2); assert os.open({str(data)!r}, os.O_WRONLY | os.O_CREAT) == 2"
    process = guarded("-c", script + LEAK, stderr=subprocess.DEVNULL)
    assert outcome(process) == (7, b"done\n")
    assert data.read_bytes() == b""
