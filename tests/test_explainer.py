"""The search for holders: what it must not do to the program, and whom it must not accuse."""

from __future__ import annotations

import asyncio
import datetime
import gc
import http.client
import signal
import socket
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

import pytest
from situations import peer
from support.connections import abandoned, wait_for_the_end
from support.hooked import hooks

import sockguard
from sockguard import handlers
from sockguard.config import load
from sockguard.findings import LEAK, MAX_POOLS, POOLED, Confidence, Event, Finding, Verdict
from sockguard.heap import MAX_PASS_NS, Heap
from sockguard.holders import MAX_SEARCH_NS, Search
from sockguard.observers import build, tcp_info
from sockguard.watcher import Watcher

# Sockets are freed unclosed here, on purpose.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

PATIENCE_S = 10.0
LATER_NS = 10**12
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Answers a request of each connection it is asked to, and closes it."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()

    def serve(self) -> None:
        theirs, _ = self._listener.accept()
        with theirs, theirs.makefile("rb") as request:
            while request.readline().strip():
                pass
            theirs.sendall(ANSWER)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def idle(server: Server) -> http.client.HTTPConnection:
    """Return a connection kept by hand: idle after its response, and its server has gone."""
    kept = http.client.HTTPConnection(*server.address)
    kept.request("GET", "/")
    server.serve()
    kept.getresponse().read()
    wait_for_the_end(kept.sock)
    return kept


class Watched:
    """A watcher whose ticks the test gives, with what it has published."""

    def __init__(self, watcher: Watcher, events: list[Event]) -> None:
        self.watcher = watcher
        self.events = events

    def tick(self) -> None:
        for later_ns in (0, 0, LATER_NS):
            self.watcher.tick(now_ns=time.monotonic_ns() + later_ns)

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events]


@contextmanager
def watching(gives_up: list[bool] | None = None) -> Iterator[Watched]:
    """``gives_up``: whether a fork waits; empty is no."""
    published: list[Event] = []

    def publish(events: Sequence[Event]) -> None:
        published.extend(events)

    with hooks() as registry, ExitStack() as undo:
        observer = build("portable")
        undo.callback(observer.close)
        watcher = Watcher(
            load({"threshold": 60.0}),
            registry,
            observer,
            tcp_info.decode,
            publish,
            gives_up=lambda: bool(gives_up),
        )
        undo.callback(watcher.close)
        yield Watched(watcher, published)


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


# -- whom it must not accuse -----------------------------------------------------------


def test_pools_that_lost_a_connection_one_after_the_other_are_not_many(server: Server) -> None:
    """Each dead connection is closed before the next pool has one: never more than one."""
    with sockguard.watch(threshold=0, explain=10) as guard:
        pools = []
        for _ in range(MAX_POOLS + 2):
            pools.append(idle(server))
            assert guard.check() == []
            pools[-1].close()


def test_pools_that_lose_connections_at_the_same_time_are_many(server: Server) -> None:
    with sockguard.watch(threshold=0, explain=10) as guard:
        pools = [idle(server) for _ in range(MAX_POOLS + 1)]
        assert guard.check()
        assert {found.verdict for found in guard.check()} == {Verdict.POOLED}
        for pool in pools:
            pool.close()


def test_a_search_that_a_fork_cut_short_accuses_nobody(server: Server) -> None:
    gives_up = [True]
    with watching(gives_up) as watched:
        pool = idle(server)
        watched.tick()
        assert watched.names == []
        gives_up.clear()
        watched.tick()
        assert watched.names == [POOLED]
        pool.close()


def test_a_pool_that_no_name_reaches_is_a_leak(server: Server) -> None:
    class Client:
        pass

    gc.collect()
    gc.disable()
    try:
        with sockguard.watch(threshold=0, explain=10) as guard:
            client = Client()
            client.pool, client.me = idle(server), client  # type: ignore[attr-defined]
            del client
            assert only(guard.check()).verdict is Verdict.CYCLE
    finally:
        gc.enable()
        gc.collect()


STAMPS: list[datetime.datetime] = []
ERRORS: list[Exception] = []


class Clock(datetime.tzinfo):
    sock: socket.socket


@pytest.mark.parametrize(
    ("by_the_clock", "confidence"), [(False, Confidence.CERTAIN), (True, Confidence.LIKELY)]
)
def test_only_a_traceback_is_certain_if_nothing_out_of_sight_has_it_too(
    by_the_clock: bool, confidence: Confidence
) -> None:
    """A datetime, which the collector does not know, has its time zone."""

    def fail() -> None:
        sock = abandoned()
        if by_the_clock:
            clock = Clock()
            clock.sock = sock
            STAMPS.append(datetime.datetime(2030, 1, 1, tzinfo=clock))
            del clock
        raise ValueError(sock.fileno())

    with sockguard.watch(threshold=0, explain=10) as guard:
        try:
            fail()
        except ValueError as error:
            ERRORS.append(error)
        try:
            found = only(guard.check())
            assert (found.verdict, found.confidence) == (Verdict.EXCEPTION, confidence)
        finally:
            STAMPS.clear()
            ERRORS.clear()


POOL: list[Any] = []


def test_a_pools_connection_that_a_thread_has_is_not_forgotten() -> None:
    """Its pool counts it as in use, and it is."""
    redis = pytest.importorskip("redis")

    has, end = threading.Event(), threading.Event()

    def work() -> None:
        connection = POOL[0].get_connection()
        has.set()
        end.wait(PATIENCE_S)
        POOL[0].release(connection)

    with sockguard.watch(threshold=0, explain=10) as guard, ExitStack() as undo:
        others = len(peer.close_wait())
        server = peer.Redis()
        POOL.append(redis.ConnectionPool(port=server.port))
        undo.callback(POOL.clear)
        undo.callback(POOL[0].disconnect)
        worker = threading.Thread(target=work, name="worker")
        worker.start()
        undo.callback(worker.join)
        undo.callback(end.set)
        assert has.wait(PATIENCE_S)
        server.leave()
        peer.wait_for_close_wait(others + 1)
        found = only(guard.check())
    assert (found.verdict, "no thread" in found.why) == (Verdict.STUCK, False)
    assert found.waits_at is not None
    assert found.waits_at.thread == "worker"


# -- what it must not do to the program ------------------------------------------------


class Metaclass(type):
    compared = 0

    def __eq__(cls, other: object) -> bool:
        Metaclass.compared += 1
        return cls is other

    __hash__ = type.__hash__


class Link(metaclass=Metaclass):
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock


def test_a_metaclass_is_not_asked_to_compare() -> None:
    async def hold(has: asyncio.Event, end: asyncio.Event) -> None:
        link = Link(abandoned())
        has.set()
        await end.wait()
        link.sock.close()

    async def run(guard: Any) -> Finding:
        has, end = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(hold(has, end))
        await has.wait()
        Metaclass.compared = 0
        found = only(await asyncio.to_thread(guard.check))
        compared = Metaclass.compared
        end.set()
        await task
        assert compared == 0
        return found

    with sockguard.watch(threshold=0, explain=10) as guard:
        assert asyncio.run(run(guard)).verdict is Verdict.STUCK


def test_a_snapshot_of_locals_that_the_program_keeps_stays_as_it_was() -> None:
    kept = []
    has, end = threading.Event(), threading.Event()

    def note() -> None:
        kept.append(sys._getframe(1).f_locals)

    def work(argument: str) -> None:
        note()
        has.set()
        end.wait(PATIENCE_S)

    worker = threading.Thread(target=work, args=("an argument",))
    worker.start()
    assert has.wait(PATIENCE_S)
    with sockguard.watch(threshold=0, explain=10) as guard:
        sock = abandoned()
        guard.check()
        sock.close()
    try:
        assert kept[0]["argument"] == "an argument"
    finally:
        end.set()
        worker.join()


class App:
    sock: socket.socket


class Row:
    __slots__ = ("app",)

    def __init__(self, app: App) -> None:
        self.app = app


def rows_of_one(count: int) -> list[Row]:
    app = App()
    app.sock = abandoned()
    return [Row(app) for _ in range(count)]


def test_an_object_that_everything_refers_to_is_not_looked_at_to_the_end() -> None:
    rows = rows_of_one(100_000)
    search = Search(lambda: rows[0].app, Heap(), most_ns=1_000_000)
    try:
        search.run()
        assert search.cut == "the search ran out of time"
        assert search._incoming.get(id(rows[0].app), 0) < 50_000
    finally:
        search.close()
        rows[0].app.sock.close()


class OverdueError(Exception):
    pass


def test_an_exception_of_the_program_keeps_nothing_of_a_search_alive() -> None:
    """A signal handler raises in the midst of it, and the program keeps the exception."""

    def strike(number: int, frame: FrameType | None) -> None:
        raise OverdueError

    before = signal.signal(signal.SIGVTALRM, strike)
    kept = []
    try:
        with sockguard.watch(threshold=0, explain=10) as guard:
            rows = rows_of_one(100_000)
            for tenths in range(1, 8):
                signal.setitimer(signal.ITIMER_VIRTUAL, tenths * MAX_SEARCH_NS / 1e10)
                with pytest.raises(OverdueError) as caught:
                    guard.check()
                kept.append(caught.value)
            rows[0].app.sock.close()
            app = weakref.ref(rows[0].app)
            rows.clear()
            assert app() is None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


# -- what a failure costs --------------------------------------------------------------


def test_a_part_that_fails_costs_its_answer_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(chain: object) -> None:
        raise LookupError("a new version of a library")

    monkeypatch.setattr(handlers, "handler", fail)
    with watching() as watched:
        kept = {"sock": abandoned()}
        watched.tick()
        assert watched.names == [LEAK]
        assert watched.events[0].finding.holders
        kept["sock"].close()


def test_two_checks_at_a_time_do_not_meet_each_other() -> None:
    gc.collect()
    gc.disable()
    try:
        with sockguard.watch(threshold=0, explain=10) as guard:
            node: list[Any] = []
            node += [node, abandoned()]
            del node
            verdicts: list[Verdict] = []

            def check() -> None:
                verdicts.extend(found.verdict for found in guard.check())

            threads = [threading.Thread(target=check) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert verdicts == [Verdict.CYCLE] * 4
    finally:
        gc.enable()
        gc.collect()


def test_a_pass_over_a_large_heap_asks_for_few_objects() -> None:
    """As dear as a pass was: with many objects it would hold the interpreter for too long."""
    heap = Heap()
    widths = []
    for took_ns in (MAX_PASS_NS // 100, MAX_PASS_NS // 2, MAX_PASS_NS):
        heap.learn(took_ns, 1)
        widths.append(heap.width())
    assert widths[0] > widths[1] > widths[2]
    assert widths[2] <= 2
