"""Programs that close what they open: whatever the load, nobody is accused."""

from __future__ import annotations

import importlib.util
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType

import pytest
from support.ldjson import wait_for

from sockguard.config import load
from sockguard.engine import Engine
from sockguard.findings import Event, Summary
from sockguard.guard import Guard

LEAKY = Path(__file__).parent.parent / "examples" / "leaky_server.py"
THRESHOLD_S = 60.0
FAR_NS = 1000 * int(THRESHOLD_S) * 1_000_000_000


class Collected:
    """An exporter that keeps what it is given."""

    name = "a list"

    def __init__(self) -> None:
        self.events: list[Event] = []

    def export(self, events: Sequence[Event]) -> None:
        self.events += events

    def summarize(self, summary: Summary) -> None:
        raise AssertionError("nobody ends here")

    def close(self) -> None:
        """Nothing is held."""


class Guarded:
    """A guard without a thread, its ticks given by the test."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._engine: Engine = guard._the_engine()
        self._published = Collected()
        self._engine.exporters.append(self._published)

    def tick(self, later_ns: int = 0) -> None:
        self._engine.watcher.tick(now_ns=time.monotonic_ns() + later_ns)

    def tick_for_long(self) -> None:
        """Tick twice now, to adopt all; then at times far beyond the threshold."""
        for later_ns in (0, 0, FAR_NS, 2 * FAR_NS, 3 * FAR_NS):
            self.tick(later_ns)

    @property
    def events(self) -> list[str]:
        return [event.name for event in self._published.events]

    @property
    def leaked(self) -> int:
        return sum(leak.count for leak in self._engine.watcher.leaks.groups())

    def accused(self) -> int:
        """Return how many are accused by any path: events, groups, or a look at all."""
        return len(self.events) + self.leaked + len(self._guard.check(threshold=0))

    @property
    def tracked(self) -> int:
        return self._guard._registry.tracked()


@contextmanager
def guarding(level: str) -> Iterator[Guarded]:
    guard = Guard(load({"threshold": THRESHOLD_S, "level": level}), watches=False, finalizes=True)
    guard.start()
    try:
        yield Guarded(guard)
    finally:
        guard.stop()


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("leaky_server", LEAKY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("handler", "leaked"), [("handle_and_close", 0), ("handle_and_forget", 12)]
)
def test_a_corrected_server_is_not_accused_under_the_load_that_convicts_the_leaky_one(
    handler: str, leaked: int
) -> None:
    module, sessions = example(), {}
    whole, half = [b"GET /\n"] * 28, [b"GET /slow"] * 12
    with guarding("full") as guarded, socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(
            target=serve_until_shut_down, args=(module, listener, handler, sessions)
        )
        server.start()
        module.call(listener.getsockname(), whole + half)
        wait_for("the complaints", lambda: len(module.complaints) == len(half))
        wait_for("the sessions' end", lambda: len(sessions) == leaked)
        guarded.tick_for_long()
        assert guarded.leaked == leaked
        assert (guarded.accused() == 0) == (leaked == 0)
        assert guarded.tracked == 1 + 2 * len(whole + half)
        listener.shutdown(socket.SHUT_RDWR)
        server.join()
        for connection in sessions.values():
            connection.close()


def serve_until_shut_down(
    module: ModuleType, listener: socket.socket, handler: str, sessions: dict[object, socket.socket]
) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        module.serve(listener, getattr(module, handler), sessions)


def exchange(listener: socket.socket, source: str, count: int, *, tick: Guarded) -> None:
    """Make ``count`` connections at once; ask, answer, close both ends."""
    with ExitStack() as stack:
        clients = []
        for _ in range(count):
            client = stack.enter_context(socket.socket())
            client.bind((source, 0))
            client.connect(listener.getsockname())
            client.sendall(b"ping")
            clients.append(client)
        servers = [stack.enter_context(listener.accept()[0]) for _ in clients]
        tick.tick()  # open and young
        for server in servers:
            server.sendall(server.recv(4))
        for client in clients:
            assert client.recv(4) == b"ping"
            client.close()
        tick.tick()  # in CLOSE_WAIT, for an instant as in every server
        for server in servers:
            assert server.recv(1) == b""


def test_ten_thousand_short_connections_give_no_finding() -> None:
    total, at_once = 10_000, 50
    # Of a source address of our own: the ports wait in TIME_WAIT, for nobody else to miss.
    source = f"127.{os.getpid() % 200 + 10}.{os.getpid() // 200 % 250}.1"
    with guarding("full") as guarded, socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(total // at_once):
            exchange(listener, source, at_once, tick=guarded)
            guarded.tick(FAR_NS)
        guarded.tick_for_long()
        assert guarded.tracked == 1 + 2 * total
        assert guarded.accused() == 0


@pytest.fixture
def many_descriptors() -> Iterator[int]:
    """Raise the soft limit on open files within the hard one; return how many there may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    raised = 12_000 if hard == resource.RLIM_INFINITY else min(hard, 12_000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, raised), hard))
    yield raised
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_five_thousand_idle_connections_give_no_finding_but_one_that_ends_does(
    many_descriptors: int,
) -> None:
    total = 5_000
    assert many_descriptors > 2 * total, "the hard limit on open files is too low for this test"
    with (
        guarding("light") as guarded,
        socket.create_server(("127.0.0.1", 0)) as listener,
        ExitStack() as stack,
    ):
        for _ in range(total):
            client = stack.enter_context(socket.create_connection(listener.getsockname()))
            server = stack.enter_context(listener.accept()[0])
        guarded.tick_for_long()
        assert guarded.tracked == 1 + 2 * total
        assert guarded.accused() == 0

        client.close()
        guarded.tick(4 * FAR_NS)
        guarded.tick(5 * FAR_NS)
        assert guarded.leaked == 1
        server.close()
        guarded.tick(6 * FAR_NS)
        assert guarded.events == ["sockguard.socket.leak", "sockguard.socket.leak.resolved"]
