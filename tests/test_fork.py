"""Forks under guard: parent and child are both watched, and neither notices."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

# What every script begins with. Waiting is a poll for a condition, with a deadline.
PRELUDE = """
import _socket, gc, json, os, select, signal, socket, sys, threading, time, warnings

OUTPUT = os.environ["SOCKGUARD_OUTPUT"]

def until(condition, what):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"never came: {what}"
        select.select([], [], [], 0.01)

def lines():
    with open(OUTPUT) as file:
        return [json.loads(line) for line in file if line.endswith("\\n")]

def leaks(pid=None):
    pid = pid or os.getpid()
    return [x for x in lines() if x["pid"] == pid and x["event"] == "sockguard.socket.leak"]

def listen():
    return socket.create_server(("127.0.0.1", 0))

def dial(server):
    # Not through socket.socket: this end is not tracked.
    client = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    client.connect(server.getsockname())
    return client

def accept(server):
    return server.accept()[0]

kept = []

def leak():
    with listen() as server:
        client = dial(server)
        kept.append(accept(server))
    client.close()

def reported(count):
    until(lambda: len(leaks()) >= count, f"leak {count} of {os.getpid()}")

def ends_well(pid):
    assert os.waitpid(pid, 0)[1] == 0, "the child failed"

def fork(child):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            child()
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    return pid

def tasks():
    return sorted(map(int, os.listdir("/proc/self/task")))

def watched():
    until(lambda: len(tasks()) == 2, "the watcher's thread")
"""


class Ended:
    """A script that ran to its end, with what it printed and recorded."""

    def __init__(self, done: subprocess.CompletedProcess[str], output: Path) -> None:
        self.status = done.returncode
        self.out = done.stdout
        self.err = done.stderr
        self.lines = [json.loads(line) for line in output.read_text().splitlines()]

    def leaks(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == "sockguard.socket.leak"]


@pytest.fixture
def run(tmp_path: Path) -> Any:
    def run(script: str, *flags: str, threshold: str = "0.1") -> Ended:
        output = tmp_path / "leaks.jsonl"
        output.touch()
        (tmp_path / "script.py").write_text(PRELUDE + script)
        environ = {name: value for name, value in os.environ.items() if "SOCKGUARD" not in name}
        environ |= {
            "SOCKGUARD": "1",
            "SOCKGUARD_OUTPUT": str(output),
            "SOCKGUARD_THRESHOLD": threshold,
            "SOCKGUARD_INTERVAL": "0.05",
            "SOCKGUARD_QUIET": "1",
        }
        done = subprocess.run(
            [sys.executable, *flags, str(tmp_path / "script.py")],
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return Ended(done, output)

    return run


def test_parent_and_child_each_report_their_own_leaks_once(run: Any) -> None:
    ended = run("""
gc.disable()
server = listen()
clients = [dial(server) for _ in range(3)]
early = [accept(server) for _ in range(3)]
clients.pop().close()
reported(1)  # found before the fork

def child():
    assert tasks() == [os.getpid()], "nothing has woken it yet"
    leak()  # a new socket does
    reported(1)
    leak()
    reported(2)

pid = fork(child)
clients.pop().close()  # the child holds its own copy of that end
ends_well(pid)
reported(2)  # a stuck server opens no sockets, and nothing was collected
clients.pop().close()  # it goes on beating
reported(3)
leak()
reported(4)
print(os.getpid(), pid)
""")
    parent, child = map(int, ended.out.split())
    assert Counter(line["pid"] for line in ended.leaks()) == {parent: 4, child: 2}
    assert all(line["group_count"] <= 3 for line in ended.leaks())


def test_a_parent_that_forks_and_then_only_waits_is_watched(run: Any) -> None:
    ended = run(
        """
gc.disable()
me = os.getpid()
leak()

def child():
    assert not leaks(me), "found before the fork: nothing is shown"
    until(lambda: leaks(me), "the parent's report")

ends_well(fork(child))
print(me)
""",
        threshold="2",
    )
    assert [line["pid"] for line in ended.leaks()] == [int(ended.out)]


def test_the_collector_wakes_a_child_that_opens_no_socket(run: Any) -> None:
    run("""
gc.disable()
watched()

def child():
    assert tasks() == [os.getpid()]
    gc.collect()
    watched()

ends_well(fork(child))
""")


def test_a_child_that_opens_nothing_reports_nothing_of_its_parents(run: Any) -> None:
    ended = run("""
server = listen()
client = dial(server)
early = accept(server)

def child():
    client.close()
    os.read(ready, 1)
    gc.collect()
    with listen():
        watched()
    # Long enough for it to look at all that it knows: a leak of its own is found.
    leak()
    reported(1)

ready, go = os.pipe()
pid = fork(child)
client.close()
os.write(go, b"!")
ends_well(pid)
gc.collect()
reported(1)
print(os.getpid(), pid, early.fileno())
""")
    parent, child, early = map(int, ended.out.split())
    ours, theirs = sorted(ended.leaks(), key=lambda line: line["pid"] != parent)
    assert (ours["pid"], ours["fd"]) == (parent, early)
    assert theirs["pid"] == child
    assert theirs["created"]["stack"][1]["function"] == "leak"


def test_a_worker_names_the_listener_that_its_master_made(run: Any) -> None:
    ended = run("""
server = listen()

def child():
    client = dial(server)
    kept.append(accept(server))
    client.close()
    reported(1)

ends_well(fork(child))
""")
    (line,) = ended.leaks()
    assert "listen" in [frame["function"] for frame in line["listener"]["stack"]]


def test_tls_on_an_inherited_connection_keeps_where_it_was_opened(run: Any) -> None:
    ended = run("""
import ssl
server = listen()
client = dial(server)
plain = accept(server)

def child():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls = context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
    client.close()
    os.write(ready, b"!")
    reported(1)

done, ready = os.pipe()
pid = fork(child)
os.read(done, 1)
client.close()
ends_well(pid)
print(pid)
""")
    (line,) = (line for line in ended.leaks() if line["pid"] == int(ended.out))
    assert line["created"]["stack"][0]["function"] == "accept"


def test_many_forks_in_a_row_warn_of_no_thread_of_ours(run: Any) -> None:
    ended = run(
        """
late = 0
for number in range(30):
    with listen():
        watched()  # it beats before each fork
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pid = fork(lambda: None)
    late += bool(caught)
    ends_well(pid)
# A fork waits 50 ms, no more: on a busy machine that may once not be enough.
assert late <= 3, caught[0].message
leak()
reported(1)
""",
        "-W",
        "error::DeprecationWarning",
    )
    assert len(ended.leaks()) == 1
    assert ended.err == ""


BLOCKING = """
import _thread, sockguard.guard
gate, entered, left = (_thread.allocate_lock() for _ in range(3))
for lock in (gate, entered, left):
    lock.acquire()

class Blocking:
    name = "blocking"
    def export(self, events):
        entered.release()
        gate.acquire()
        left.release()
    def summarize(self, summary): pass
    def close(self): pass

engine = sockguard.guard.installed()._the_engine()
engine.exporters.append(Blocking())
leak()
entered.acquire()  # the watcher is in there, and stays
"""


def test_a_fork_goes_on_while_an_exporter_blocks(run: Any) -> None:
    ended = run(
        BLOCKING
        + """
def child():
    leak()
    reported(1)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # CPython sees a thread, and rightly says so
    pid = fork(child)
assert not left.acquire(False), "the fork waited for the exporter"
ends_well(pid)
assert not left.acquire(False)
engine.exporters.pop()
gate.release()
left.acquire()
leak()
reported(2)
print(os.getpid(), pid)
"""
    )
    parent, child = map(int, ended.out.split())
    assert Counter(line["pid"] for line in ended.leaks()) == {parent: 2, child: 1}


def test_a_process_ends_while_an_exporter_blocks(run: Any) -> None:
    ended = run(BLOCKING)
    assert [line["event"] for line in ended.lines] == ["sockguard.socket.leak", "sockguard.summary"]


def test_children_of_children_and_forks_in_threads_are_watched(run: Any) -> None:
    ended = run("""
def watched_child(then):
    def child():
        leak()
        reported(1)
        then()
    return child

def in_thread():
    def body():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the program's own thread
            ends_well(fork(watched_child(lambda: None)))
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()

ends_well(fork(watched_child(lambda: ends_well(fork(watched_child(in_thread))))))
leak()
reported(1)
""")
    assert sorted(Counter(line["pid"] for line in ended.leaks()).values()) == [1, 1, 1, 1]
    assert ended.err == ""


def test_a_daemon_that_closes_all_descriptors_and_gets_our_numbers_is_still_watched(
    run: Any, tmp_path: Path
) -> None:
    ended = run("""
import resource
folder = os.path.dirname(OUTPUT)

def ours():
    return sorted(fd for fd in map(int, os.listdir("/proc/self/fd")) if fd >= 800)

def daemon():
    os.setsid()
    if os.fork():
        os._exit(0)
    leak()
    reported(1)  # everything of ours is open
    numbers = ours()
    assert len(numbers) == 4, numbers
    os.closerange(3, 4096)
    theirs = os.open(folder + "/theirs", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    for number in numbers:
        os.dup2(theirs, number)
    leak()
    reported(2)
    leak()
    reported(3)
    for number in numbers:
        assert os.path.sameopenfile(theirs, number), "one of their descriptors was closed"
    assert os.fstat(theirs).st_size == 0, "something of ours was written"

def tell(result):
    with open(folder + "/result.new", "w") as file:
        file.write(result)
    os.rename(folder + "/result.new", folder + "/result")

def guarded_daemon():
    try:
        daemon()
    except BaseException as error:
        tell(repr(error))
        raise
    tell(f"well {os.getpid()}")

# An orphan is handed to us: we can wait for its end.
import ctypes
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
ends_well(fork(guarded_daemon))
until(lambda: os.path.exists(folder + "/result"), "the daemon's result")
_, status = os.wait()
print(open(folder + "/result").read(), status)
""")
    word, pid, status = ended.out.split()
    assert (word, status) == ("well", "0"), ended.out + ended.err
    assert [line["pid"] for line in ended.leaks()] == [int(pid)] * 3
    assert (tmp_path / "theirs").read_bytes() == b""


CALLBACKS = """
gc.disable()
calls = []
def first(phase, info): calls.append(("first", phase))
def second(phase, info): calls.append(("second", phase))
each_once = [(who, phase) for phase in ("start", "stop") for who in ("first", "second")]
"""


def test_callbacks_of_the_collector_are_called_once_each_and_left_as_they_were(run: Any) -> None:
    run(
        CALLBACKS
        + """
gc.callbacks.append(first)

def child():
    assert len(gc.callbacks) == 2  # ours wakes the watcher where no socket does
    gc.callbacks.append(second)
    gc.collect()
    assert calls == each_once, calls
    watched()
    def settled():
        gc.collect()
        return gc.callbacks == [first, second]
    until(settled, "ours to be gone")
    calls.clear()
    gc.collect()
    assert calls == each_once, calls

ends_well(fork(child))
assert gc.callbacks == [first]
"""
    )


def test_no_callback_is_skipped_when_the_watcher_begins_in_the_midst_of_a_collection(
    run: Any,
) -> None:
    run(
        CALLBACKS
        + """
def child():
    (ours,) = gc.callbacks

    def slow(phase, info):
        first(phase, info)
        # As long as the watcher's first beat takes to come: other threads run in a callback.
        deadline = time.monotonic() + 0.5
        while ours in gc.callbacks and time.monotonic() < deadline:
            select.select([], [], [], 0.01)

    gc.callbacks.extend([slow, second])
    gc.collect()
    assert calls == each_once, calls

ends_well(fork(child))
"""
    )


def mask(words: str) -> set[int]:
    bits = int(words, 16)
    return {number for number in range(1, 65) if bits >> (number - 1) & 1}


def test_the_watcher_is_deaf_to_signals_and_changes_no_mask_of_the_programs(run: Any) -> None:
    ended = run("""
def blocked(tid):
    with open(f"/proc/self/task/{tid}/status") as file:
        return next(line.split()[1] for line in file if line.startswith("SigBlk"))

def show():
    watched()
    for tid in tasks():
        print(blocked(tid))

me = os.getpid()
show()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
ends_well(fork(lambda: None))
with listen():  # wakes the watcher from a thread with a mask of its own
    show()
""")
    main, watcher, main_after, watcher_after = map(mask, ended.out.split())
    every = {int(number) for number in signal.valid_signals()} - {signal.SIGKILL, signal.SIGSTOP}
    assert main == set()
    assert main_after == {signal.SIGUSR1}
    assert watcher >= every
    assert watcher_after >= every


def test_a_signal_reaches_the_programs_handler_while_the_watcher_runs(run: Any) -> None:
    run("""
got = []
signal.signal(signal.SIGUSR1, lambda number, frame: got.append(threading.current_thread()))
ends_well(fork(lambda: None))
with listen():
    watched()
os.kill(os.getpid(), signal.SIGUSR1)
until(lambda: got, "the signal")
assert got == [threading.main_thread()]
assert threading.enumerate() == [threading.main_thread()]
""")
