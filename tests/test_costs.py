"""What sockguard costs, where it can be told exactly: objects, bytes, modules, calls, wake-ups.

What can only be measured is in ``benchmarks/``.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.builders import SECOND, a_finding
from support.hooked import hooks

import sockguard
from sockguard import leaks as leaks_module
from sockguard import listeners as listeners_module
from sockguard import registry as registry_module
from sockguard import stacks
from sockguard.config import Config
from sockguard.findings import Evidence, Observation
from sockguard.leaks import OTHER, Leaks
from sockguard.listeners import Listeners
from sockguard.observers import tcp_info
from sockguard.observers.linux import LinuxObserver
from sockguard.records import SocketRecord
from sockguard.registry import Registry, fileno
from sockguard.stacks import StackTable, resolve
from sockguard.watcher import Watcher

ROOT = Path(__file__).parents[1]
READS = {"recv", "recv_into", "recvfrom", "recvfrom_into", "recvmsg", "recvmsg_into"}
BYTES_A_SOCKET = 400
# What `import sockguard` may load, with what these need: one more is a decision.
MODULES = ("__future__", "typing")


# -- methods ---------------------------------------------------------------------------


def attributes() -> dict[str, object]:
    """Return what an attribute of ``socket.socket`` is, wherever it is inherited from."""
    classes = reversed(socket.socket.__mro__)
    return {name: value for cls in classes for name, value in vars(cls).items()}


def replaced(level: str) -> set[str]:
    before = attributes()
    with sockguard.watch(level=level):
        now = attributes()
    assert attributes() == before
    return {name for name in before.keys() | now.keys() if now.get(name) is not before.get(name)}


def test_light_leaves_every_attribute_of_a_socket_but_init_the_very_same_object():
    assert replaced("light") == {"__init__"}


def test_full_replaces_the_reads_and_the_finalizer_and_nothing_else():
    assert replaced("full") == {"__init__", "__del__"} | READS


def test_full_replaces_one_method_of_a_tls_socket():
    import ssl

    before = dict(vars(ssl.SSLSocket))
    with sockguard.watch(level="light"):
        assert dict(vars(ssl.SSLSocket)) == before
    with sockguard.watch(level="full"):
        now = dict(vars(ssl.SSLSocket))
    assert {name for name in now if now[name] is not before.get(name)} == {"read"}


# -- bytes -----------------------------------------------------------------------------


def a_watcher(registry: Registry, observer: object, **options: object) -> Watcher:
    return Watcher(Config(**options), registry, observer, tcp_info.decode, lambda events: None)


def connections(count: int, stack: ExitStack) -> list[socket.socket]:
    """Open TCP connections on loopback; both ends, held open by ``stack``."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    made = []
    for _ in range(count):
        made.append(stack.enter_context(socket.create_connection(listener.getsockname())))
        made.append(stack.enter_context(listener.accept()[0]))
    return made


def bytes_of(record: SocketRecord) -> int:
    """Return the size of a record and of all that it alone holds.

    The stack belongs to all of the call site, the names to thread and task; True and None
    to everybody.
    """
    assert record.previous is None
    names = set(type(record).__slots__) - {"stack", "thread", "task", "span"}
    held = [getattr(record, name) for name in names]
    own = [value for value in held if not isinstance(value, (bool, type(None)))]
    return sys.getsizeof(record) + sum(map(sys.getsizeof, own))


def test_a_tracked_socket_takes_at_most_400_bytes_once_its_call_site_was_seen():
    with hooks() as registry, ExitStack() as stack:
        observer = LinuxObserver()
        stack.callback(observer.close)
        watcher = a_watcher(registry, observer)
        made = connections(100, stack)
        for tick in range(3):
            watcher.tick(now_ns=tick * SECOND)
        table = sys.getsizeof(registry.by_fd) / len(registry.by_fd)
        sizes = [bytes_of(registry.by_fd[sock.fileno()]) + table for sock in made]
        assert max(sizes) <= BYTES_A_SOCKET


def test_sockets_of_one_call_site_share_one_stack_after_adoption():
    with hooks() as registry, ExitStack() as stack:
        observer = LinuxObserver()
        stack.callback(observer.close)
        watcher = a_watcher(registry, observer)
        made = connections(20, stack)
        before = {id(registry.by_fd[sock.fileno()].stack) for sock in made}
        assert len(before) == len(made)
        for tick in range(3):
            watcher.tick(now_ns=tick * SECOND)
        # One line makes the clients, another the accepted ones.
        assert len({id(registry.by_fd[sock.fileno()].stack) for sock in made}) == 2


# -- modules ---------------------------------------------------------------------------


def loaded_by(statement: str) -> set[str]:
    """Return the modules that ``statement`` loads into a bare interpreter."""
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "known = set(sys.modules)\n"
        f"{statement}\n"
        "print(*sorted(set(sys.modules) - known))"
    )
    # Without site: what the .pth files of this environment load is not ours.
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-c", code], check=True, capture_output=True, timeout=30
    )
    return set(done.stdout.decode().split())


def test_importing_sockguard_loads_nothing_of_its_own_and_hardly_anything_else():
    loaded = loaded_by("import sockguard")
    assert loaded - loaded_by(f"import {', '.join(MODULES)}") == {"sockguard"}
    assert {name.partition(".")[0] for name in loaded} <= {"sockguard", *sys.stdlib_module_names}


def test_the_hot_path_loads_nothing_heavy():
    names = ("hooks", "reads", "patch", "registry", "records", "stacks")
    loaded = loaded_by("\n".join(f"import sockguard.{name}" for name in names))
    assert "sockguard.hooks" in loaded
    heavy = {"logging", "json", "gc", "traceback", "asyncio", "opentelemetry", "wrapt"}
    assert {name.partition(".")[0] for name in loaded} & heavy == set()


# -- the watcher's calls ---------------------------------------------------------------


class Recorder:
    """An observer that counts what it is asked, and sees no trouble anywhere."""

    name = "recorder"

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.adopted: list[int] = []

    def adopt(self, fd: int) -> None:
        self.asked["adopt"] += 1
        self.adopted.append(fd)

    def harvest(self) -> list[int]:
        self.asked["harvest"] += 1
        return []

    def observe(self, sock: object, record: SocketRecord) -> Observation | None:
        self.asked["observe"] += 1
        return Observation(state=None)

    def evidence(self, sock: object, record: SocketRecord) -> Evidence:
        self.asked["evidence"] += 1
        return Evidence()

    def close(self) -> None:
        """Nothing is held."""


def test_sockets_that_die_younger_than_a_tick_are_never_asked_about():
    recorder = Recorder()
    with hooks() as registry:
        watcher = a_watcher(registry, recorder)
        for tick in range(5):
            with ExitStack() as stack:
                connections(10, stack)
            watcher.tick(now_ns=tick * SECOND)
        assert registry.tracked() == 5 * (1 + 20)
    assert recorder.asked == {"harvest": 5}


def test_a_healthy_socket_is_adopted_once_and_never_observed():
    recorder = Recorder()
    with hooks() as registry, ExitStack() as stack:
        watcher = a_watcher(registry, recorder)
        made = []
        for tick in range(6):  # new ones at every tick: all records are walked each time
            made += connections(2, stack)
            watcher.tick(now_ns=tick * SECOND)
        fds = [sock.fileno() for sock in made]
    # What the last tick but one found there has outlived it; with each lot comes a listener.
    assert recorder.asked == {"harvest": 6, "adopt": 5 * (4 + 1)}
    assert len(set(recorder.adopted)) == len(recorder.adopted)
    assert set(fds[: 5 * 4]) <= set(recorder.adopted)


def test_a_socket_younger_than_a_tick_is_not_adopted_with_those_that_are_older():
    recorder = Recorder()
    with hooks() as registry, socket.socket() as old:
        watcher = a_watcher(registry, recorder)
        watcher.tick(now_ns=0)
        with socket.socket() as young:
            watcher.tick(now_ns=SECOND)
            assert recorder.adopted == [old.fileno()]
            watcher.tick(now_ns=2 * SECOND)
            assert recorder.adopted == [old.fileno(), young.fileno()]


def calls_of(act: object) -> Counter[str]:
    """Return which functions written in C ``act`` calls, and how often."""
    called: Counter[str] = Counter()

    def profile(frame: object, event: str, function: object) -> None:
        if event == "c_call":
            called[getattr(function, "__qualname__", repr(function))] += 1

    sys.setprofile(profile)
    try:
        act()
    finally:
        sys.setprofile(None)
    del called["setprofile"]
    return called


def test_a_settled_tick_does_the_same_for_500_idle_sockets_as_for_none():
    with hooks() as registry, ExitStack() as stack:
        observer = LinuxObserver()
        stack.callback(observer.close)
        watcher = a_watcher(registry, observer)
        for tick in range(3):
            watcher.tick(now_ns=tick * SECOND)
        for_none = calls_of(lambda: watcher.tick(now_ns=4 * SECOND))
        connections(250, stack)
        for tick in range(3):
            watcher.tick(now_ns=(5 + tick) * SECOND)
        assert calls_of(lambda: watcher.tick(now_ns=9 * SECOND)) == for_none
    # The system calls among them: is the epoll ours, what has it got, what did we cost.
    assert (for_none["stat"] or for_none["fstat"], for_none["epoll.modify"]) == (1, 1)
    assert for_none["epoll.poll"] == 1
    assert for_none["thread_time_ns"] == 2


IDLE = """
import os, select, socket, sockguard, sys, time
guard = sockguard.install(quiet=True)
pair = socket.socketpair()
thread = guard._heartbeat._now
while thread.native_id is None:
    select.select([], [], [], 0.01)
status = f"/proc/self/task/{thread.native_id}/status"
def wake_ups():
    with open(status) as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt"))
before, began = wake_ups(), time.monotonic()
select.select([], [], [], 3.2)
print(wake_ups() - before, time.monotonic() - began)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_an_idle_watcher_wakes_no_more_than_once_a_second():
    done = subprocess.run(
        [sys.executable, "-c", IDLE], check=True, capture_output=True, timeout=60, cwd=ROOT
    )
    woken, seconds = map(float, done.stdout.split())
    # One for each second begun; it ticks at all.
    assert 1 <= woken <= seconds + 1


# -- bounds ----------------------------------------------------------------------------


def stacks_of_one_frame(count: int) -> Iterator[stacks.Stack]:
    code = stacks_of_one_frame.__code__
    return ((code, lasti) for lasti in range(0, 2 * count, 2))


def test_the_stack_table_holds_no_more_than_its_bound():
    table = StackTable()
    for stack in stacks_of_one_frame(stacks.MAX_INTERNED + 10):
        table.intern(stack)
        assert len(table._stacks) <= stacks.MAX_INTERNED
    assert len(table._stacks) == 10


def test_resolved_lines_are_no_more_than_their_bound():
    for stack in stacks_of_one_frame(stacks.MAX_RESOLVED + 10):
        assert resolve(stack)[0].function == "stacks_of_one_frame"
    assert len(stacks._frames) <= stacks.MAX_RESOLVED


def test_causes_beyond_the_bound_are_counted_together():
    groups = Leaks()
    beyond = 25
    for number in range(leaks_module.MAX_GROUPS + beyond):
        groups.add(a_finding(fingerprint=f"{number:012x}"))
    held = {leak.fingerprint: leak.count for leak in groups.groups()}
    assert len(held) == leaks_module.MAX_GROUPS + 1
    assert held[OTHER] == beyond
    assert sum(held.values()) == leaks_module.MAX_GROUPS + beyond


def test_the_table_of_listeners_is_bounded(monkeypatch):
    monkeypatch.setattr(listeners_module, "MAX_LISTENERS", 4)
    with hooks() as registry, ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        table = Listeners(registry)
        for now_ns in range(3):
            table.find("192.0.2.1:1", now_ns)
            assert len(table._by_address) <= 4


def test_the_registry_holds_no_more_records_than_descriptors_were_ever_open():
    with hooks() as registry:
        for _ in range(300):
            socket.socket().close()
        assert registry.tracked() == 300
        assert len(registry.by_fd) < 10


def test_sockets_freed_unclosed_wait_for_the_watcher_in_a_bounded_queue():
    with warnings.catch_warnings(), sockguard.watch(level="full") as guard:
        warnings.simplefilter("ignore", ResourceWarning)
        for _ in range(registry_module.MAX_COLLECTED + 5):
            socket.socket(socket.AF_UNIX)
        assert len(guard._registry.collected) == registry_module.MAX_COLLECTED


def test_the_depth_of_a_stack_is_bounded():
    def deeper(left: int) -> socket.socket:
        return deeper(left - 1) if left else socket.socket()

    with hooks() as registry, deeper(100) as sock:
        assert len(registry.by_fd[fileno(sock)].stack) == 2 * 32
