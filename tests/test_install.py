"""Putting the guard in and taking it out: the process is left as it was found."""

from __future__ import annotations

import _socket
import contextlib
import gc
import os
import select
import socket
import ssl
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

import sockguard
from sockguard import guard as guard_module
from sockguard.config import Config
from sockguard.findings import Kind
from sockguard.guard import BorrowedGuard, Guard
from sockguard.patch import Patch
from sockguard.placement import WraptPlacement
from sockguard.registry import Registry


@pytest.fixture(autouse=True)
def _taken_out():
    yield
    sockguard.uninstall()


def threads() -> set[str]:
    return set(os.listdir("/proc/self/task"))


def descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return found


def trace() -> tuple:
    """All that a guard may leave behind; the classes with their order."""
    return (
        list(vars(socket.socket).items()),
        list(vars(ssl.SSLSocket).items()),
        list(gc.callbacks),
        threads(),
        descriptors(),
        guard_module.installed(),
    )


def closed_by_the_peer() -> tuple[socket.socket, list[socket.socket]]:
    """A socket whose peer has closed, and what to close in the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    theirs.close()
    poll = select.poll()
    poll.register(ours.fileno(), select.POLLRDHUP)
    assert poll.poll(5_000)
    return ours, [ours, theirs]


def run(code: str, *, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a program of its own, to its end."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
        env={**os.environ, **environ},
    )


# -- nothing is left -------------------------------------------------------------------


@pytest.mark.parametrize("level", ["light", "full"])
@pytest.mark.parametrize("observer", ["epoll", "portable"])
def test_uninstall_leaves_the_process_as_found(tmp_path, level, observer):
    before = trace()
    guard = sockguard.install(
        level=level, observer=observer, output=tmp_path / "out", quiet=True, interval=0.05
    )
    assert sockguard.install(level=level) is guard
    assert trace()[0] != before[0]
    assert len(threads() - before[3]) == 1
    ours, to_close = closed_by_the_peer()
    assert [finding.fd for finding in guard.check(threshold=0)] == [ours.fileno()]
    for sock in to_close:
        sock.close()
    sockguard.uninstall()
    assert trace() == before
    sockguard.uninstall()  # nothing is there: nothing happens
    assert trace() == before


def test_uninstall_before_the_first_tick_leaves_nothing_either():
    before = trace()
    sockguard.install(quiet=True)
    sockguard.uninstall()
    assert trace() == before


def test_install_after_uninstall_works_again():
    before = trace()
    for _ in range(3):
        guard = sockguard.install(quiet=True, threshold=0, level="full")
        ours, to_close = closed_by_the_peer()
        assert [finding.fd for finding in guard.check()] == [ours.fileno()]
        for sock in to_close:
            sock.close()
        sockguard.uninstall()
        assert trace() == before


def test_a_watched_block_leaves_nothing_also_when_it_raises():
    before = trace()

    def fail_in_a_watched_block() -> None:
        with sockguard.watch():
            assert threads() == before[3]  # and no thread runs in it
            assert trace()[0] != before[0]
            raise KeyError

    with pytest.raises(KeyError):
        fail_in_a_watched_block()
    assert trace() == before


def test_a_watcher_that_waits_for_the_collector_leaves_no_callback_with_it():
    before = trace()
    guard = sockguard.install(quiet=True)
    guard._heartbeat.arm(guard._wake)  # as after a fork
    assert len(gc.callbacks) == len(before[2]) + 1
    sockguard.uninstall()
    assert trace() == before


# -- an install that fails -------------------------------------------------------------


class Sabotage:
    """Put by somebody in the place of a method; it does not like to be looked at."""

    @property
    def __name__(self) -> str:
        raise RuntimeError("sabotage")


def test_an_install_that_fails_at_a_hook_takes_out_those_before_it():
    socket.socket.recvmsg = Sabotage()
    try:
        before = trace()
        with pytest.raises(RuntimeError, match="sabotage"):
            sockguard.install(level="full", quiet=True)
        assert trace() == before
    finally:
        del socket.socket.recvmsg
    with sockguard.watch() as guard, socket.socket() as sock:
        assert guard._registry.by_fd[sock.fileno()]() is sock


def test_hooks_that_fail_half_way_take_themselves_out():
    patch = Patch(
        Registry(),
        depth=8,
        full=True,
        finalizes=True,
        placement=WraptPlacement(),
        on_failure=print,
    )
    socket.socket.recvmsg = Sabotage()
    try:
        before = trace()
        with pytest.raises(RuntimeError, match="sabotage"):
            patch.place()
        assert trace() == before
    finally:
        del socket.socket.recvmsg


def test_tls_reads_that_can_not_be_hooked_are_said_and_the_guard_runs(capfd):
    read = ssl.SSLSocket.read
    ssl.SSLSocket.read = Sabotage()
    try:
        before = trace()
        guard = sockguard.install(level="full", quiet=True)
        with socket.socket() as sock:
            assert guard._registry.by_fd[sock.fileno()]() is sock
        sockguard.uninstall()
        assert trace() == before
    finally:
        ssl.SSLSocket.read = read
    assert "sabotage" in capfd.readouterr().err


def test_an_install_without_room_for_its_descriptors_leaves_nothing():
    code = """
import resource, os, socket, sys
import ssl, wrapt, sockguard, gc
from sockguard import guard, watcher
from sockguard.observers import linux  # what an install loads is loaded
def trace():
    return (list(vars(socket.socket).items()), list(vars(ssl.SSLSocket).items()),
            list(gc.callbacks), sorted(os.listdir("/proc/self/fd")), os.listdir("/proc/self/task"),
            guard.installed())
before = trace()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
for room in range(3):
    free = os.dup(0); os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + room, hard))
    try:
        sockguard.install(level="full", quiet=True)
    except OSError as error:
        print(room, error.strerror)
    else:
        print(room, "installed")
        sockguard.uninstall()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert trace() == before, room
sockguard.install(quiet=True)
sockguard.uninstall()
assert trace() == before
"""
    result = run(code, cwd=Path.cwd())
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0] == "0 Too many open files"
    assert len(lines) == 3


def test_an_install_without_a_thread_to_spare_leaves_nothing(monkeypatch):
    import _thread

    def refuse(*args: object) -> int:
        raise RuntimeError("can't start new thread")

    sockguard.install(quiet=True)  # what an install loads is loaded
    sockguard.uninstall()
    before = trace()
    with monkeypatch.context() as patched:
        patched.setattr(_thread, "start_new_thread", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            sockguard.install(level="full", quiet=True)
    assert trace() == before


def test_an_install_with_a_wrong_value_leaves_nothing(tmp_path):
    before = trace()
    for wrong in ({"threshold": -1}, {"level": "loud"}, {"output": tmp_path / "no" / "out"}):
        with pytest.raises(sockguard.ConfigError):
            sockguard.install(**wrong)
        assert trace() == before


def test_an_output_that_went_away_since_it_was_checked_is_said_and_the_guard_runs(tmp_path, capfd):
    folder = tmp_path / "gone"
    folder.mkdir()
    config = Config(output=str(folder / "out"), quiet=True)
    folder.rmdir()
    before = trace()
    guard = guard_module.install_config(config)
    ours, to_close = closed_by_the_peer()
    assert [finding.fd for finding in guard.check(threshold=0)] == [ours.fileno()]
    for sock in to_close:
        sock.close()
    sockguard.uninstall()
    assert trace() == before
    assert "no JSON Lines are written" in capfd.readouterr().err


# -- one guard a process ---------------------------------------------------------------


def test_a_second_install_keeps_the_first_and_warns_when_it_differs():
    first = sockguard.install(threshold=30, level="full", quiet=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sockguard.install(threshold=30) is first
        assert sockguard.install() is first
    with pytest.warns(RuntimeWarning, match="threshold, level") as caught:
        assert sockguard.install(threshold=31, level="light", quiet=True) is first
    assert caught[0].filename == __file__
    assert (first.config.threshold, first.config.level) == (30, "full")


def test_watch_borrows_an_installed_guard_and_leaves_it():
    installed = sockguard.install(quiet=True, threshold=60)
    ours, to_close = closed_by_the_peer()
    with sockguard.watch(threshold=0) as borrowed:
        assert isinstance(borrowed, BorrowedGuard)
        assert [finding.fd for finding in borrowed.check()] == [ours.fileno()]
        assert borrowed.check(threshold=60) == []
        assert borrowed.config is installed.config
    assert guard_module.installed() is installed
    assert installed.check() == []
    assert len(installed.check(threshold=0)) == 1
    for sock in to_close:
        sock.close()


def test_a_watch_in_a_watch_borrows_the_outer():
    with sockguard.watch() as outer:
        assert isinstance(outer, Guard)
        with sockguard.watch() as inner:
            assert isinstance(inner, BorrowedGuard)
        assert guard_module.installed() is outer


def test_check_looks_at_once_at_sockets_younger_than_a_tick():
    with sockguard.watch() as guard:
        assert guard.check() == []
        ours, to_close = closed_by_the_peer()
        finding = wait_until_old(guard)
        assert (finding.kind, finding.fd) == (Kind.PEER_CLOSED, ours.fileno())
        ours.close()
        assert guard.check() == []
        for sock in to_close:
            sock.close()


def wait_until_old(guard: Guard) -> sockguard.Finding:
    """With no threshold a finding is at once due, but for the kernel's own grain of time."""
    deadline = time.monotonic() + 5
    while not (findings := guard.check()):
        assert time.monotonic() < deadline
        select.select([], [], [], 0.001)
    [finding] = findings
    return finding


# -- others on the same class ----------------------------------------------------------


@pytest.mark.parametrize("name", ["__init__", "recv"])
def test_a_hook_that_somebody_wrapped_stays_in_but_does_nothing_any_more(name):
    before = list(vars(socket.socket).items())
    guard = sockguard.install(level="full", quiet=True)
    hook = getattr(socket.socket, name)

    def on_top(self, *args, **kwargs):
        return hook(self, *args, **kwargs)

    setattr(socket.socket, name, on_top)
    try:
        sockguard.uninstall()
        changed = [item for item in vars(socket.socket).items() if item not in before]
        assert changed == [(name, on_top)]
        tracked = guard._registry.tracked()
        one, other = socket.socketpair()
        with one, other:
            other.close()
            assert one.recv(1) == b""
        assert guard._registry.tracked() == tracked
    finally:
        setattr(socket.socket, name, hook.__wrapped__)
    if name == "__init__":
        assert list(vars(socket.socket).items()) == before
    else:
        # `recv` is inherited: there was none of its own to put back.
        delattr(socket.socket, name)
        assert list(vars(socket.socket).items()) == before


def test_what_others_put_in_before_us_is_kept_and_put_back():
    calls = []
    original = socket.socket.__init__

    def theirs(self, *args, **kwargs):
        calls.append(1)
        original(self, *args, **kwargs)

    socket.socket.__init__ = theirs
    try:
        with sockguard.watch() as guard, socket.socket() as sock:
            assert calls == [1]
            record = guard._registry.by_fd[sock.fileno()]
            assert record() is sock
        assert vars(socket.socket)["__init__"] is theirs
    finally:
        socket.socket.__init__ = original


@pytest.mark.parametrize("name", ["recv", "recvmsg_into"])
def test_a_method_that_others_wrapped_under_another_name_is_hooked_all_the_same(name):
    method = getattr(socket.socket, name)

    def wrapper(self, *args, **kwargs):
        return method(self, *args, **kwargs)

    setattr(socket.socket, name, wrapper)
    try:
        with sockguard.watch():
            assert getattr(socket.socket, name).__wrapped__ is wrapper
        assert vars(socket.socket)[name] is wrapper
    finally:
        delattr(socket.socket, name)


def test_names_taken_from_the_module_earlier_stay_the_class():
    earlier = socket.socket
    with sockguard.watch() as guard, earlier() as sock:
        assert socket.socket is earlier
        assert guard._registry.newest() is sock
        assert isinstance(sock, _socket.socket)


# -- ssl, imported after us --------------------------------------------------------------

LATE_SSL = """
import socket, sys
import wrapt
for name in [name for name in sys.modules if name.split(".")[0] in ("ssl", "_ssl")]:
    del sys.modules[name]  # wrapt has loaded it; the program has not
import sockguard
guard = sockguard.install(level="full", quiet=True)
assert "ssl" not in sys.modules
listener = socket.create_server(("127.0.0.1", 0))
{between}
import ssl
plain = socket.create_connection(listener.getsockname())
context = ssl._create_unverified_context()
tls = context.wrap_socket(plain, do_handshake_on_connect=False)
print("read" in vars(ssl.SSLSocket), hasattr(ssl.SSLSocket.read, "__wrapped__"))
sockguard.uninstall()
print(hasattr(ssl.SSLSocket.read, "__wrapped__"))
"""


def test_ssl_imported_after_the_install_is_hooked_by_its_first_socket_and_unhooked(tmp_path):
    result = run(LATE_SSL.format(between=""), cwd=tmp_path)
    assert (result.stdout.split(), result.stderr) == (["True", "True", "False"], "")


def test_ssl_imported_after_the_uninstall_is_left_alone(tmp_path):
    result = run(LATE_SSL.format(between="sockguard.uninstall()"), cwd=tmp_path)
    assert (result.stdout.split(), result.stderr) == (["True", "False", "False"], "")
