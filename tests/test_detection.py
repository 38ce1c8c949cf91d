"""When is it a leak, and why: real sockets, a clock that the test moves."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import shutil
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sockguard.config import Config
from sockguard.findings import LEAK, RESOLVED, Event, Finding, Kind, Verdict
from sockguard.observers import build, tcp_info
from sockguard.patch import Patch
from sockguard.placement import WraptPlacement
from sockguard.registry import Registry
from sockguard.tcp import TcpState
from sockguard.watcher import Watcher

S = 1_000_000_000
MINUTE = 60 * S
RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close sends RST, not FIN


class Bench:
    """A watcher, wired as the guard does it, with the clock in the test's hand."""

    def __init__(self, config: Config) -> None:
        self.registry = Registry()
        self.observer = build({"auto": "epoll"}.get(config.observer, config.observer))
        self.events: list[Event] = []
        self.watcher = Watcher(
            config, self.registry, self.observer, tcp_info.decode, self.events.extend
        )
        self.patch = Patch(
            self.registry,
            depth=config.depth,
            full=config.level == "full",
            finalizes=True,
            placement=WraptPlacement(),
            on_failure=self._raise,
        )
        self.now = time.monotonic_ns()

    @staticmethod
    def _raise(error: BaseException) -> None:
        raise error

    def adopt_all(self) -> None:
        """Two ticks: the second adopts what outlived the first."""
        self.now = time.monotonic_ns()
        self.tick()
        self.tick()

    def tick(self, after: int = 0) -> list[Event]:
        """Move the clock, look, and return what was published."""
        self.now += after
        already = len(self.events)
        self.watcher.tick(self.now)
        return self.events[already:]

    def finding(self, after: int = 0) -> Finding:
        """The one leak that a tick publishes."""
        [event] = self.tick(after)
        assert event.name == LEAK
        return event.finding

    def checked(self, threshold: int = 0) -> list[Finding]:
        return self.watcher.check(threshold, self.now)

    def collected_unclosed(self) -> int | None:
        return self.watcher.summarize().collected_unclosed


@contextlib.contextmanager
def a_bench(**options) -> Iterator[Bench]:
    bench = Bench(Config(**{"level": "full", **options}))
    try:
        bench.patch.place()
        yield bench
    finally:
        bench.patch.remove()
        bench.observer.close()


@pytest.fixture
def bench():
    with a_bench() as made:
        yield made


@pytest.fixture(params=["epoll", "portable"])
def either_bench(request):
    with a_bench(observer=request.param) as made:
        yield made


class Door:
    """A listener, and connections through it: our accepted end, and its peer."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self.listener = self._keep(make_a_listener())

    def _keep(self, sock: socket.socket) -> socket.socket:
        self._stack.callback(sock.close)
        return sock

    def client(self) -> socket.socket:
        return self._keep(socket.create_connection(self.listener.getsockname()))

    def accept(self) -> socket.socket:
        return self._keep(self.listener.accept()[0])

    def connection(self) -> tuple[socket.socket, socket.socket]:
        theirs = self.client()
        return self.accept(), theirs

    def close(self) -> None:
        self._stack.close()


def make_a_listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


@pytest.fixture
def door():
    """After the bench, so that its sockets are tracked; closed before it."""
    with contextlib.closing(Door()) as opened:
        yield opened


def wait_for(sock: socket.socket, event: int = 0, seconds: float = 5) -> None:
    poll = select.poll()
    poll.register(sock.fileno(), event)
    assert poll.poll(seconds * 1000), "the peer's sign never came"


def fin(theirs: socket.socket, ours: socket.socket) -> None:
    theirs.close()
    wait_for(ours, select.POLLRDHUP)


def reset(theirs: socket.socket, ours: socket.socket) -> None:
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    theirs.close()
    wait_for(ours)


def silent_for(sock: socket.socket, milliseconds: int) -> None:
    """Wait until the kernel has heard nothing of the peer for so long."""
    deadline = time.monotonic() + 5
    while tcp_info.decode(tcp_info.read(sock)).last_ack_ms < milliseconds:
        assert time.monotonic() < deadline
        select.select([], [], [], 0.01)


# -- the clock -------------------------------------------------------------------------


def test_a_peer_that_closed_is_found_at_the_threshold_and_never_before(either_bench, door):
    bench = either_bench
    ours, theirs = door.connection()
    peer = theirs.getsockname()
    bench.adopt_all()
    before = time.monotonic_ns()
    fin(theirs, ours)
    after = bench.now = time.monotonic_ns()
    assert bench.tick() == []
    bench.now = before + MINUTE - 1
    assert bench.tick() == []
    bench.now = after + MINUTE + S // 10
    finding = bench.finding()
    assert finding.kind is Kind.PEER_CLOSED
    assert finding.state is TcpState.CLOSE_WAIT
    assert finding.fd == ours.fileno()
    assert finding.peer == f"127.0.0.1:{peer[1]}"
    slack = 50_000_000
    assert bench.now - after - slack <= finding.since_fin_ns <= bench.now - before + slack
    assert bench.tick(MINUTE) == []  # it is said once


def test_an_idle_connection_that_is_reset_starts_its_clock_at_the_reset(either_bench, door):
    bench = either_bench
    ours, theirs = door.connection()
    bench.adopt_all()
    silent_for(ours, 100)
    bench.tick(60 * MINUTE)
    reset(theirs, ours)
    assert tcp_info.decode(tcp_info.read(ours)).last_ack_ms >= 100  # the trap is laid
    assert bench.tick() == []
    assert bench.tick(MINUTE - 1) == []
    finding = bench.finding(1)
    assert finding.kind is Kind.PEER_RESET
    assert finding.since_fin_ns == MINUTE


def test_a_reset_behind_a_fin_keeps_the_fins_clock_and_kind(bench, door):
    ours, theirs = door.connection()
    bench.adopt_all()
    fin(theirs, ours)
    bench.tick()
    bench.tick(30 * S)
    ours.send(b"x")  # nobody is there: it draws a reset
    wait_for(ours)
    assert bench.tick(29 * S) == []
    finding = bench.finding(S + S // 10)
    assert (finding.kind, finding.state) == (Kind.PEER_CLOSED, TcpState.CLOSED)
    assert finding.since_fin_ns >= MINUTE


def test_connections_that_never_were_are_never_accused(bench, door):
    address = door.listener.getsockname()
    door.listener.close()
    with socket.socket() as refused, socket.socket(), socket.socket(socket.AF_UNIX):
        with pytest.raises(ConnectionRefusedError):
            refused.connect(address)
        bench.adopt_all()
        assert bench.tick(60 * MINUTE) + bench.tick(60 * MINUTE) == []
        assert bench.checked() == []


def listings(ours: tuple, theirs: tuple) -> dict[str, bool]:
    """Do `ss` and /proc/net/tcp show the end `ours` of the connection to `theirs`?"""
    ports = [f":{name[1]:04X}" for name in (ours, theirs)]
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    shown = {"proc": any([row[1][-5:], row[2][-5:]] == ports for row in rows)}
    if shutil.which("ss"):
        command = ["ss", "-Htan", f"sport = :{ours[1]} and dport = :{theirs[1]}"]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        shown["ss"] = output.strip() != ""
    return shown


def test_a_reset_is_found_although_no_tool_lists_it(bench, door):
    ours, theirs = door.connection()
    bench.adopt_all()
    names = ours.getsockname(), theirs.getsockname()
    assert set(listings(*names).values()) == {True}
    reset(theirs, ours)
    assert set(listings(*names).values()) == {False}
    bench.tick()
    finding = bench.finding(MINUTE)
    assert (finding.kind, finding.verdict) == (Kind.PEER_RESET, Verdict.UNREAD)


def test_a_connection_that_keep_alive_gave_up_is_found_although_no_tool_lists_it(bench, door):
    ours, theirs = door.connection()
    bench.adopt_all()
    names = ours.getsockname(), theirs.getsockname()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in (("TCP_KEEPIDLE", 1), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 2)):
        ours.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
    theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, 1)
    assert set(listings(*names).values()) == {True}
    fin(theirs, ours)
    wait_for(ours, seconds=20)  # POLLERR: a probe found nobody
    assert set(listings(*names).values()) == {False}
    bench.tick()
    finding = bench.finding(MINUTE)
    assert (finding.kind, finding.state) == (Kind.PEER_RESET, TcpState.CLOSED)
    assert finding.peer == f"127.0.0.1:{names[1][1]}"


def serve(ours: socket.socket, theirs: socket.socket) -> None:
    """Send a byte and wait for its acknowledgement."""
    acked = tcp_info.decode(tcp_info.read(ours)).bytes_acked
    ours.sendall(b"x")
    theirs.recv(1)
    deadline = time.monotonic() + 5
    while tcp_info.decode(tcp_info.read(ours)).bytes_acked <= acked:
        assert time.monotonic() < deadline
        select.select([], [], [], 0.001)


def test_a_half_close_is_spared_while_it_is_served_and_accused_when_sending_stops(bench, door):
    ours, theirs = door.connection()
    bench.adopt_all()
    theirs.shutdown(socket.SHUT_WR)
    wait_for(ours, select.POLLRDHUP)
    bench.tick()
    for _ in range(6):
        serve(ours, theirs)
        assert bench.tick(30 * S) == []
    assert bench.tick(MINUTE - 1) == []
    finding = bench.finding(1)
    assert finding.kind is Kind.PEER_CLOSED
    # The threshold's clock has restarted, the FIN's has not.
    assert 4 * MINUTE <= finding.since_fin_ns <= 4 * MINUTE + S


def test_a_half_close_on_a_unix_socket_is_never_accused_and_the_hang_up_is(either_bench):
    bench = either_bench
    ours, theirs = socket.socketpair()
    with ours, theirs:
        bench.adopt_all()
        theirs.shutdown(socket.SHUT_WR)
        wait_for(ours, select.POLLRDHUP)
        assert bench.tick() + bench.tick(10 * MINUTE) == []
        theirs.close()
        assert bench.tick() + bench.tick(MINUTE - 1) == []
        finding = bench.finding(1)
        assert (finding.kind, finding.state) == (Kind.PEER_CLOSED, None)
        assert finding.since_fin_ns == MINUTE


def test_a_watcher_whose_descriptors_went_to_the_program_adopts_all_anew(door_first, tmp_path):
    bench, door = door_first(observer="epoll")
    ours, theirs = door.connection()
    bench.adopt_all()
    lost = bench.observer._set
    numbers = (lost._sentinel, lost._epoll.fileno())
    for number in numbers:
        os.closerange(number, number + 1)
    with open(tmp_path / "the program's", "wb") as file:
        for number in numbers:
            os.dup2(file.fileno(), number, inheritable=False)
        assert bench.tick() == []
        fin(theirs, ours)
        bench.tick()
        assert bench.finding(2 * MINUTE).fd == ours.fileno()
        for number in numbers:
            assert os.write(number, b"mine") == 4
            os.close(number)


# -- the end ---------------------------------------------------------------------------


def a_found_leak(bench: Bench, door: Door) -> socket.socket:
    ours, theirs = door.connection()
    bench.adopt_all()
    fin(theirs, ours)
    bench.tick()
    bench.finding(2 * MINUTE)
    return ours


def test_a_leak_that_is_closed_later_is_withdrawn_with_how_long_it_was_open(either_bench, door):
    bench = either_bench
    a_found_leak(bench, door).close()
    [event] = bench.tick(3 * MINUTE)
    assert event.name == RESOLVED
    assert 5 * MINUTE <= event.open_ns <= 5 * MINUTE + S
    assert event.group_open == 0
    [group] = bench.watcher.leaks.groups()
    assert (group.count, group.open, group.resolved) == (1, 0, 1)
    assert bench.tick(MINUTE) == []


@pytest.mark.parametrize("first", [0, 1])
def test_duplicates_make_one_leak_that_is_open_until_both_are_closed(bench, door, first):
    ours, theirs = door.connection()
    twins = [ours, ours.dup()]
    with twins[1]:
        bench.adopt_all()
        fin(theirs, ours)
        bench.tick()
        bench.finding(2 * MINUTE)
        assert len(bench.checked()) == 1
        assert bench.tick(MINUTE) == []
        twins[first].close()
        assert bench.tick(MINUTE) == []
        assert len(bench.checked()) == 1
        twins[1 - first].close()
        [event] = bench.tick(MINUTE)
        assert event.name == RESOLVED
    assert [(leak.count, leak.open) for leak in bench.watcher.leaks.groups()] == [(1, 0)]


def test_a_detached_descriptor_is_still_an_open_leak(bench, door):
    fd = a_found_leak(bench, door).detach()
    assert bench.tick(MINUTE) == []
    os.close(fd)
    [event] = bench.tick(MINUTE)
    assert event.name == RESOLVED


def test_a_tls_socket_inherits_where_and_when_the_plain_one_was_made(bench, door):
    plain, theirs = door.connection()
    created = bench.registry.by_fd[plain.fileno()].created_ns
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    wrapped = context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
    with wrapped:
        bench.adopt_all()
        fin(theirs, wrapped)
        bench.tick()
        finding = bench.finding(2 * MINUTE)
        assert finding.created.stack[0].function == "accept"
        assert finding.listener is not None
        assert finding.age_ns == bench.now - created
        assert bench.tick(MINUTE) == []
        assert len(bench.checked()) == 1


def test_a_leak_stays_one_leak_when_it_is_wrapped_for_tls(bench, door):
    plain = a_found_leak(bench, door)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False) as tls:
        bench.adopt_all()
        bench.now += 10 * MINUTE
        assert bench.tick() + bench.tick(10 * MINUTE) == []
        with pytest.raises(ssl.SSLError):
            tls.do_handshake()  # it meets the FIN
    [event] = bench.tick()
    assert event.name == RESOLVED


def test_a_new_socket_on_an_old_fd_starts_its_own_clock(either_bench, door):
    bench = either_bench
    old, old_peer = door.connection()
    new_peer = door.client()
    bench.adopt_all()
    old_peer.shutdown(socket.SHUT_WR)  # not close: it would set a lower number free
    wait_for(old, select.POLLRDHUP)
    bench.tick()
    bench.tick(50 * S)
    fd = old.fileno()
    old.close()
    new = door.accept()
    assert new.fileno() == fd
    old_peer.close()
    fin(new_peer, new)
    assert bench.tick() == []
    assert bench.tick(S) == []
    assert bench.tick(MINUTE - 2 * S) == []
    finding = bench.finding(2 * S)
    assert finding.fd == fd
    assert finding.since_fin_ns < MINUTE + 2 * S


# -- freed without a close -------------------------------------------------------------


def passed(since_ns: int, milliseconds: int) -> None:
    """Wait for real time to pass: a finalizer knows no other clock."""
    while time.monotonic_ns() < since_ns + milliseconds * 1_000_000:
        select.select([], [], [], 0.01)


def free(bench: Bench, door: Door, *, sign: str, seen: bool = False, cycle: bool = False) -> None:
    """Drop the last reference to an accepted socket, 150 ms after its peer's sign."""
    theirs = door.client()
    ours = door.listener.accept()[0]
    bench.adopt_all()
    if sign:
        {"fin": fin, "reset": reset}[sign](theirs, ours)
        at_ns = bench.now = time.monotonic_ns()
        if seen:
            bench.tick()
        passed(at_ns, 150)
    if cycle:
        holder = [ours]
        holder.append(holder)
        del holder
    with pytest.warns(ResourceWarning, match="unclosed"):  # noqa: PT031  # either may free it
        del ours
        gc.collect()
    theirs.close()
    bench.now = time.monotonic_ns()


@pytest.mark.parametrize("cycle", [False, True])
@pytest.mark.parametrize("seen", [False, True])
def test_a_socket_freed_long_after_the_fin_is_found_as_collected(door_first, seen, cycle):
    bench, door = door_first(threshold=0.1)
    free(bench, door, sign="fin", seen=seen, cycle=cycle)
    finding = bench.finding()
    assert finding.kind is Kind.COLLECTED
    assert finding.since_fin_ns >= S // 10
    assert finding.created.stack[0].function == "free"
    assert [(leak.count, leak.open) for leak in bench.watcher.leaks.groups()] == [(1, 0)]
    assert bench.collected_unclosed() == 1
    assert bench.tick(MINUTE) == []


def test_a_socket_freed_long_after_a_reset_was_seen_is_found_as_collected(door_first):
    bench, door = door_first(threshold=0.1)
    free(bench, door, sign="reset", seen=True)
    finding = bench.finding()
    assert finding.kind is Kind.COLLECTED
    assert finding.since_fin_ns >= S // 10


@pytest.mark.parametrize("cycle", [False, True])
@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("sign", ["fin", "reset", ""])
def test_a_socket_freed_before_the_threshold_or_in_health_is_only_counted(
    door_first, sign, seen, cycle
):
    bench, door = door_first(threshold=60)
    free(bench, door, sign=sign, seen=seen, cycle=cycle)
    assert bench.tick() + bench.tick(10 * MINUTE) == []
    assert bench.collected_unclosed() == 1
    assert bench.watcher.leaks.groups() == []


def test_a_reset_that_nobody_saw_before_the_socket_was_freed_has_no_age(door_first):
    bench, door = door_first(threshold=0.1)
    free(bench, door, sign="reset")
    assert bench.tick() + bench.tick(MINUTE) == []


def test_a_leak_that_is_freed_later_is_withdrawn_and_not_told_again(door_first):
    bench, door = door_first(threshold=0.1)
    theirs = door.client()
    ours = door.listener.accept()[0]
    bench.adopt_all()
    fin(theirs, ours)
    passed(time.monotonic_ns(), 150)
    bench.now = time.monotonic_ns()
    bench.finding()
    with pytest.warns(ResourceWarning, match="unclosed"):
        del ours
    assert [event.name for event in bench.tick(S)] == [RESOLVED]
    assert [(leak.count, leak.open) for leak in bench.watcher.leaks.groups()] == [(1, 0)]
    assert bench.collected_unclosed() == 1


def test_check_tells_a_collected_socket_once(door_first):
    bench, door = door_first(threshold=60)
    free(bench, door, sign="fin")
    assert [finding.kind for finding in bench.checked(S // 10)] == [Kind.COLLECTED]
    assert bench.checked(S // 10) == []


def test_level_light_does_not_know_who_was_freed_and_says_so(door_first):
    bench, door = door_first(threshold=0.1, level="light")
    free(bench, door, sign="fin")
    assert bench.tick(MINUTE) == []
    assert bench.collected_unclosed() is None


@pytest.fixture
def door_first():
    """A bench of the test's own options, with a door made under it."""
    with contextlib.ExitStack() as stack:

        def make(**options) -> tuple[Bench, Door]:
            bench = stack.enter_context(a_bench(**options))
            return bench, stack.enter_context(contextlib.closing(Door()))

        yield make


# -- why, where, how many --------------------------------------------------------------


def read_once(sock: socket.socket) -> bytes:
    return sock.recv(100)


@pytest.mark.parametrize(
    ("verdict", "unread", "end_unread"),
    [
        (Verdict.MAKEFILE, 0, True),
        (Verdict.EOF_IGNORED, 0, None),
        (Verdict.UNREAD, 3, True),
        (Verdict.UNKNOWN, 0, None),
    ],
)
def test_the_verdict_follows_the_evidence(bench, door, verdict, unread, end_unread):
    ours, theirs = door.connection()
    bench.adopt_all()
    if verdict is not Verdict.MAKEFILE:
        theirs.sendall(b"abc")
    fin(theirs, ours)
    with contextlib.ExitStack() as stack:
        if verdict is Verdict.MAKEFILE:
            stack.enter_context(ours.makefile("rb"))
            ours.close()
        elif verdict is not Verdict.UNREAD:
            assert read_once(ours) == b"abc"  # and with it the FIN: nothing waits any more
        if verdict is Verdict.EOF_IGNORED:
            assert read_once(ours) == b""
        bench.tick()
        finding = bench.finding(2 * MINUTE)
    assert finding.verdict is verdict
    assert (finding.unread_bytes, finding.end_unread) == (unread, end_unread)
    if verdict is Verdict.EOF_IGNORED:
        assert finding.eof.stack[0].function == "read_once"
        assert finding.eof.stack[1].function == "test_the_verdict_follows_the_evidence"
        assert finding.eof.thread == "MainThread"
    else:
        assert finding.eof is None


def test_in_level_light_a_read_end_is_unknown_and_not_unread(door_first):
    bench, door = door_first(level="light")
    ours, theirs = door.connection()
    bench.adopt_all()
    fin(theirs, ours)
    assert read_once(ours) == b""
    bench.tick()
    finding = bench.finding(2 * MINUTE)
    assert (finding.verdict, finding.eof) == (Verdict.UNKNOWN, None)


def test_a_socket_is_traced_to_its_line_and_its_listeners(bench, door):
    ours, theirs = door.connection()
    bench.adopt_all()
    fin(theirs, ours)
    bench.tick()
    finding = bench.finding(2 * MINUTE)
    assert [frame.function for frame in finding.created.stack[:3]] == [
        "accept",
        "connection",
        "test_a_socket_is_traced_to_its_line_and_its_listeners",
    ]
    assert finding.created.stack[0].file == os.path.abspath(__file__)
    assert [frame.function for frame in finding.listener.stack[:2]] == [
        "make_a_listener",
        "__init__",
    ]


def test_a_client_has_no_listener_even_when_it_shares_the_port(bench, door):
    theirs = door.client()
    ours = door.accept()
    bench.adopt_all()
    fin(ours, theirs)
    bench.tick()
    finding = bench.finding(2 * MINUTE)
    assert finding.fd == theirs.fileno()
    assert finding.listener is None


def a_dead_connection(*ignore: str) -> tuple[list[Event], list[Finding]]:
    """What a bench with these patterns publishes, and what its check says."""
    with a_bench(ignore=ignore) as bench, contextlib.closing(Door()) as door:
        ours, theirs = door.connection()
        bench.adopt_all()
        fin(theirs, ours)
        events = bench.tick() + bench.tick(2 * MINUTE) + bench.tick(2 * MINUTE)
        return events, bench.checked()


def test_an_ignored_line_or_group_is_spared():
    [event], [_] = a_dead_connection("no such line", "^$")
    assert event.name == LEAK
    for pattern in (r"test_detection\.py:\d+ accept$", f"^{event.finding.fingerprint}$"):
        assert a_dead_connection("no such line", pattern) == ([], [])


def test_events_thin_out_and_counts_do_not(bench, door):
    pairs = [door.connection() for _ in range(20)]
    bench.adopt_all()
    for ours, theirs in pairs:
        fin(theirs, ours)
    bench.tick()
    leaks = bench.tick(2 * MINUTE)
    assert len(leaks) == len([1, 2, 3, 4, 5, 8, 16])
    assert {event.group_count for event in leaks} == {20}
    assert [(leak.count, leak.open) for leak in bench.watcher.leaks.groups()] == [(20, 20)]
    for ours, _ in pairs[:10]:
        ours.close()
    resolved = bench.tick(MINUTE)
    assert len(resolved) == len([1, 2, 3, 4, 5, 8])
    assert {event.group_open for event in resolved} == {10}
    [group] = bench.watcher.leaks.groups()
    assert (group.count, group.open, group.resolved) == (20, 10, 10)


def test_check_sees_a_socket_that_is_younger_than_a_tick_and_publishes_nothing(bench, door):
    ours, theirs = door.connection()
    fin(theirs, ours)
    bench.now = time.monotonic_ns()
    assert bench.checked(MINUTE) == []
    bench.now += S
    [finding] = bench.checked()
    assert (finding.kind, finding.fd) == (Kind.PEER_CLOSED, ours.fileno())
    assert bench.events == []
    assert bench.watcher.leaks.groups() == []
