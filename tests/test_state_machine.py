"""Whatever a program does with its sockets, sockguard says what the kernel says.

A Hypothesis machine opens, closes, wraps, duplicates, drops and forks; after every step the
kernel's own tables are the referee. Both ends of each connection are sockets of the program.
"""

from __future__ import annotations

import _socket
import fcntl
import functools
import gc
import os
import select
import socket
import ssl
import struct
import termios
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import trustme
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sockguard import guard as guards
from sockguard import sites
from sockguard.config import NS_PER_S, Config
from sockguard.findings import Finding, Kind
from sockguard.guard import Guard
from sockguard.registry import fileno
from sockguard.watcher import Watcher

ESTABLISHED, CLOSED, CLOSE_WAIT = 1, 7, 8
DEAD = {CLOSED, CLOSE_WAIT}
THRESHOLD_S = 5
MOST_SOCKETS = 24
# A segment on loopback may be on its way when we look; an acknowledgement takes 40 ms.
PATIENCE_S = 5.0
CHILD_IS_WELL = 17

# -- the referee -----------------------------------------------------------------------------


def inode(fd: int) -> int:
    return os.fstat(fd).st_ino


def listed_states() -> dict[int, int]:
    """Return TCP states by inode as /proc lists them: all but CLOSE, of the whole host."""
    states = {}
    for name in ("tcp", "tcp6"):
        with open(f"/proc/net/{name}") as table:
            next(table)
            for row in table:
                columns = row.split()
                states[int(columns[9])] = int(columns[3], 16)
    return states


def state(fd: int) -> int | None:
    """Return the state of a TCP socket by its TCP_INFO, past any object: CLOSE is told too."""
    twin = _socket.socket(fileno=os.dup(fd))
    try:
        return twin.getsockopt(_socket.IPPROTO_TCP, _socket.TCP_INFO, 1)[0]
    except OSError:
        return None
    finally:
        twin.close()


def states_of_this_process() -> dict[int, int]:
    """Return the TCP state of each open socket of this process, by inode."""
    states = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the listing's own descriptor is gone by now
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                states[inode(int(name))] = state(int(name))
    return {number: known for number, known in states.items() if known is not None}


def await_agreement(look: Callable[[], bool], what: Callable[[], str]) -> None:
    """Have ``look`` succeed in the end: what the kernel has on its way may come late."""
    deadline = time.monotonic() + PATIENCE_S
    while not look():
        assert time.monotonic() < deadline, what()
        select.select([], [], [], 0.001)


def unread(fd: int) -> int:
    (count,) = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0"))
    return count


# -- the program's sockets -------------------------------------------------------------------


class Held:
    """A socket that the program holds: as an object, in a garbage cycle, or by its number."""

    def __init__(self, sock: socket.socket, made_in: str, *, connected: bool) -> None:
        self.sock: socket.socket | None = sock
        self.fd = fileno(sock)
        self.inode = inode(self.fd)
        self.made_in = made_in
        self.connected = connected
        self.peer = peer_name(sock)
        self.files: list[Any] = []
        #: Made under the guard that is installed now.
        self.tracked = True
        #: Detached: only the number is left.
        self.bare = False
        #: Only a reference cycle holds it.
        self.lost: weakref.ref[socket.socket] | None = None

    def object(self) -> socket.socket | None:
        return self.sock if self.lost is None else self.lost()

    def has_object(self) -> bool:
        sock = self.object()
        return sock is not None and fileno(sock) == self.fd

    def is_usable(self) -> bool:
        """Tell an object that the program may go on calling."""
        return self.sock is not None and not self.sock._closed

    def is_plain(self) -> bool:
        return self.is_usable() and not self.files and not isinstance(self.sock, ssl.SSLSocket)


class Ring:
    """Holds a socket and itself."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.me = self


def peer_name(sock: socket.socket) -> str | None:
    try:
        host, port, *_ = sock.getpeername()
    except OSError:
        return None
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@functools.cache
def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    return client, server


def as_json(finding: Finding) -> str:
    return f"{finding.kind.value} {finding.state} fd {finding.fd} {finding.peer}"


pick = st.integers(min_value=0, max_value=2**16)
PACES = ["eager", "lazy", "real"]


class Program(RuleBasedStateMachine):
    """Rules are what the program does; the invariant asks guard and kernel."""

    def __init__(self, level: str, observer: str) -> None:
        super().__init__()
        gc.disable()  # a cycle goes when a rule says so
        self.held: list[Held] = []
        self.listeners: list[socket.socket] = []
        #: Kernel sockets whose reading side the program has shut down itself.
        self.reading_shut: set[int] = set()
        self.is_full = level == "full"
        self.is_portable = observer == "portable"
        self.config = Config(threshold=THRESHOLD_S, level=level, observer=observer)
        self.offset_ns = 0
        self.pace = "lazy"
        #: Sockets freed in trouble since the last check: at least so many, at most so many.
        self.freed = (0, 0)
        #: Objects without a descriptor that the program has not let go of.
        self.remains: list[socket.socket] = []
        self.steps = 0
        self.as_found = dict(vars(socket.socket))
        self._install()

    def _install(self) -> None:
        #: The kernel sockets that this guard has found, and how many it may find freed.
        self.ever_found: set[int] = set()
        self.ever_freed = 0
        # As `sockguard.watch` does, with an observer of our choice.
        self.guard = Guard(self.config, watches=False, finalizes=True)
        guards._set_up(self.guard)

    def teardown(self) -> None:
        try:
            for held in self.held:
                for file in held.files:
                    file.close()
                if held.bare:
                    os.close(held.fd)
                elif held.sock is not None:
                    held.sock.close()
            for listener in self.listeners:
                listener.close()
            gc.collect()
        finally:
            guards.uninstall()
            gc.enable()

    # -- the invariant ---------------------------------------------------------------------

    def now(self) -> int:
        return time.monotonic_ns() + self.offset_ns

    @property
    def watcher(self) -> Watcher:
        return self.guard._the_engine().watcher

    def tick(self, seconds: int = 0) -> None:
        self.offset_ns += seconds * NS_PER_S
        self.watcher.tick(now_ns=self.now())

    def open_findings(self) -> dict[int, Finding]:
        cases = [case for case in self.watcher._cases.values() if case.finding is not None]
        groups = self.watcher.leaks.groups()
        assert len(cases) == sum(leak.open for leak in groups)
        found = {case.identity.inode: case.finding for case in cases}
        self.ever_found |= found.keys()
        # A kernel socket is counted once, however many objects it has had.
        assert sum(leak.count for leak in groups) <= len(self.ever_found) + self.ever_freed
        return found

    def in_trouble(self, states: dict[int, int]) -> tuple[set[int], set[int]]:
        """Return the sockets that have to be found, and those that may be."""
        must, may = set(), set()
        for held in self.held:
            now = states.get(held.inode)
            if not held.tracked:
                continue
            if self.is_portable and held.inode in self.reading_shut:
                may.add(held.inode)  # a read says the same there as after a FIN
            if not (now == CLOSE_WAIT or (now == CLOSED and held.connected)):
                continue
            may.add(held.inode)
            if held.has_object() and not self._is_beyond_portable(held, now):
                must.add(held.inode)
        return must, may

    def _is_beyond_portable(self, held: Held, now: int | None) -> bool:
        """Tell what the portable observer says it can't know: a FIN behind unread data."""
        if not self.is_portable:
            return False
        return unread(held.fd) > 0 if now == CLOSE_WAIT else held.peer is None

    def agrees(self, found: Callable[[], dict[int, Finding]]) -> bool:
        before = states_of_this_process()
        findings = found()
        if states_of_this_process() != before:
            return False  # the kernel was not done
        must, may = self.in_trouble(before)
        accused = {number: as_json(findings[number]) for number in findings.keys() - may}
        assert not accused, f"falsely accused: {accused}, the kernel says {before}"
        return must <= findings.keys()

    @invariant()
    def guard_and_kernel_agree(self) -> None:
        def after_a_tick() -> dict[int, Finding]:
            self.tick()
            return self.open_findings()

        def past_the_threshold() -> dict[int, Finding]:
            for seconds in (0, 0, THRESHOLD_S + 1, THRESHOLD_S + 1):
                self.tick(seconds)
            return self.open_findings()

        if self.pace == "eager":
            await_agreement(lambda: self.agrees(past_the_threshold), self._differences)
        else:
            self.agrees(after_a_tick)  # accuses nobody falsely; it may still miss some
        for finding in self.open_findings().values():
            assert finding.since_fin_ns >= THRESHOLD_S * NS_PER_S
        collected: list[Finding] = []

        def checked() -> dict[int, Finding]:
            findings = self.watcher.check(0, now_ns=self.now())
            collected.extend(finding for finding in findings if finding.kind is Kind.COLLECTED)
            still = [finding for finding in findings if finding.kind is not Kind.COLLECTED]
            by_inode = {inode(finding.fd): finding for finding in still}
            assert len(by_inode) == len(still)
            self._describes_them(by_inode)
            return by_inode

        await_agreement(lambda: self.agrees(checked), self._differences)
        least, most = self.freed
        assert least <= len(collected) <= most, (
            f"{least} to {most} were freed, {[as_json(f) for f in collected]} told"
        )
        self.freed = (0, 0)
        self.steps += 1
        if self.steps % 15 == 0:  # up to 100 ms where the host has many connections
            self._kernel_tables_agree()

    def _describes_them(self, findings: dict[int, Finding]) -> None:
        for number, finding in findings.items():
            twins = [held for held in self.held if held.inode == number]
            site = sites.culprit(finding.created.stack)
            assert site is not None
            assert site.function in {held.made_in for held in twins if held.fd == finding.fd}
            assert finding.peer in {None, *(held.peer for held in twins)}

    def _kernel_tables_agree(self) -> None:
        """The referee is right: /proc lists the same state for each socket not in CLOSE."""

        def look() -> bool:
            mine, listed = states_of_this_process(), listed_states()
            return all(listed.get(number, CLOSED) == now for number, now in mine.items())

        await_agreement(look, lambda: "/proc/net/tcp and TCP_INFO differ")

    def _differences(self) -> str:
        states = states_of_this_process()
        must, _ = self.in_trouble(states)
        found = {inode(f.fd) for f in self.watcher.check(0, now_ns=self.now())}
        missed = [vars(held) for held in self.held if held.inode in must]
        return f"missed by the guard: one of {missed}; check finds {found}; kernel {states}"

    # -- choosing and keeping --------------------------------------------------------------

    def _hold(self, sock: socket.socket, made_in: str, *, connected: bool = True) -> Held:
        sock.setblocking(False)
        self.held.append(Held(sock, made_in, connected=connected))
        return self.held[-1]

    def _choose(self, number: int, fits: Callable[[Held], bool] = Held.is_usable) -> Held | None:
        fitting = [held for held in self.held if fits(held)]
        if number % 2:  # half of the time one in trouble, if there is one
            fitting = [held for held in fitting if state(held.fd) in DEAD] or fitting
        return fitting[number % len(fitting)] if fitting else None

    def _forget_closed(self) -> None:
        self.held = [held for held in self.held if held.bare or held.has_object()]

    def _address(self, number: int) -> Any:
        return self.listeners[number % len(self.listeners)].getsockname()[:2]

    def has_room(self) -> bool:
        return len(self.held) < MOST_SOCKETS

    # -- rules: connections ----------------------------------------------------------------

    @initialize(pace=st.sampled_from(PACES), connections=st.integers(1, 3))
    def begins_with_connections(self, pace: str, connections: int) -> None:
        self.pace = pace
        self.opens_a_listener(v6=False)
        self.opens_a_listener(v6=True)
        for number in range(connections):
            self.connects(number, accepted=True)

    @precondition(lambda self: len(self.listeners) < 4)
    @rule(v6=st.booleans())
    def opens_a_listener(self, v6: bool) -> None:
        host, family = ("::1", socket.AF_INET6) if v6 else ("127.0.0.1", socket.AF_INET)
        listener = socket.create_server((host, 0), family=family)
        listener.setblocking(False)
        self.listeners.append(listener)

    @precondition(has_room)
    @rule(number=pick, accepted=st.booleans())
    def connects(self, number: int, accepted: bool) -> None:
        self._hold(socket.create_connection(self._address(number)), "connects")
        if accepted:
            self.accepts(number)

    @precondition(has_room)
    @rule(number=pick)
    def accepts(self, number: int) -> None:
        with suppress(BlockingIOError):
            sock, _ = self.listeners[number % len(self.listeners)].accept()
            self._hold(sock, "accepts")

    @precondition(has_room)
    @rule()
    def makes_a_socket_for_later(self) -> None:
        self._hold(socket.socket(), "makes_a_socket_for_later", connected=False)

    @rule(number=pick, which=pick)
    def connects_what_is_not_connected(self, number: int, which: int) -> None:
        held = self._choose(number, lambda held: held.is_plain() and state(held.fd) == CLOSED)
        if held is None:
            return
        with suppress(OSError):  # another family, or the reset is still to be told
            held.sock.connect(self._address(which))
        for twin in self.held:
            if twin.inode == held.inode and state(held.fd) == ESTABLISHED:
                twin.connected, twin.peer = True, peer_name(held.sock)

    @rule(number=pick, size=st.sampled_from([1, 10, 5000]))
    def sends(self, number: int, size: int) -> None:
        if held := self._choose(number):
            with suppress(OSError):
                held.sock.send(b"x" * size)

    @rule(number=pick, size=st.sampled_from([1, 65536]))
    def reads(self, number: int, size: int) -> None:
        if held := self._choose(number):
            with suppress(OSError):
                held.sock.recv(size)

    @rule(number=pick, how=st.sampled_from([socket.SHUT_WR, socket.SHUT_RD, socket.SHUT_RDWR]))
    def shuts_down(self, number: int, how: int) -> None:
        if held := self._choose(number, Held.is_plain):
            with suppress(OSError):
                held.sock.shutdown(how)
                if how == socket.SHUT_RD:
                    self.reading_shut.add(held.inode)

    @rule(number=pick, both=st.booleans())
    def starts_tls(self, number: int, both: bool) -> None:
        first = self._choose(number, lambda held: held.is_plain() and bool(peer_name(held.sock)))
        if first is None:
            return
        ends, unseen = [first], []
        if both:
            address = first.sock.getpeername()
            ends += [
                held
                for held in self.held
                if held.is_plain() and held.sock.getsockname() == address and peer_name(held.sock)
            ][:1]
        for held, context in zip(ends, tls_contexts(), strict=False):
            is_server = context is tls_contexts()[1]
            held.sock = context.wrap_socket(
                held.sock,
                server_side=is_server,
                do_handshake_on_connect=False,
                server_hostname=None if is_server else "localhost",
            )
            if not held.tracked:  # the guard has not seen where it was opened
                held.tracked, held.made_in = True, "starts_tls"
                unseen.append(held)
        for _ in range(4):
            for held in ends:
                with suppress(OSError):
                    held.sock.do_handshake()
        for held in unseen:  # the guard first looks at it now: a hello may have met a reset
            held.peer = peer_name(held.sock)

    # -- rules: ways to lose a socket ------------------------------------------------------

    @rule(number=pick)
    def closes(self, number: int) -> None:
        if held := self._choose(number):
            self.closes_this(held)

    @rule(number=pick)
    def resets(self, number: int) -> None:
        if held := self._choose(number):
            held.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.closes_this(held)

    def closes_this(self, held: Held) -> None:
        held.sock.close()
        self.remains += [held.sock] if held.fd % 2 else []
        self._forget_closed()

    @rule(number=pick)
    def closes_and_opens_on_the_same_number(self, number: int) -> None:
        held = self._choose(number, lambda held: held.is_usable() and not held.files)
        if held is None:
            return
        self.closes_this(held)
        name = "closes_and_opens_on_the_same_number"
        fresh = self._hold(socket.create_connection(self._address(number)), name)
        assert fresh.fd <= held.fd

    @precondition(has_room)
    @rule(number=pick)
    def duplicates(self, number: int) -> None:
        if held := self._choose(number, Held.is_plain):
            self._hold(held.sock.dup(), "duplicates", connected=held.connected)

    @rule(number=pick, wrapped_again=st.booleans())
    def detaches(self, number: int, wrapped_again: bool) -> None:
        held = self._choose(number, lambda held: held.is_usable() and not held.files)
        if held is None:
            return
        assert held.sock.detach() == held.fd
        self.remains += [held.sock] if held.fd % 2 else []
        held.sock, held.bare = None, True
        if wrapped_again:
            self.held.remove(held)
            self._hold(socket.socket(fileno=held.fd), "detaches", connected=held.connected)

    @rule(number=pick)
    def closes_a_bare_descriptor(self, number: int) -> None:
        if held := self._choose(number, lambda held: held.bare):
            os.close(held.fd)
            self.held.remove(held)

    @rule(number=pick)
    def looks_through_a_second_object(self, number: int) -> None:
        if held := self._choose(number):
            second = socket.socket(fileno=held.fd)
            second.detach()

    @rule(number=pick)
    def makes_a_file_and_closes(self, number: int) -> None:
        if held := self._choose(number):
            held.files.append(held.sock.makefile("rb"))
            held.sock.close()

    @rule(number=pick)
    def closes_a_file(self, number: int) -> None:
        if held := self._choose(number, lambda held: bool(held.files)):
            held.files.pop().close()
            self._forget_closed()

    @rule(number=pick, in_a_cycle=st.booleans())
    def drops_the_last_reference(self, number: int, in_a_cycle: bool) -> None:
        held = self._choose(number, lambda held: held.is_usable() and not held.files)
        if held is None:
            return
        if in_a_cycle:  # until the collector runs it is as open as any
            held.lost = weakref.ref(held.sock)
            Ring(held.sock)
        else:
            self._expect_freed(held)
            self.held.remove(held)
        held.sock = None

    @rule()
    def loses_a_socket_that_nobody_has_looked_at(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
        client.close()
        fd = ours.fileno()
        await_agreement(lambda: state(fd) == CLOSE_WAIT, lambda: "no FIN came")
        del ours
        least, most = self.freed
        self.ever_freed += self.is_full
        self.freed = (least + self.is_full, most + self.is_full)

    @precondition(lambda self: any(held.lost is not None for held in self.held))
    @rule()
    def collects(self) -> None:
        for held in self.held:
            if held.lost is not None:
                self._expect_freed(held)
        gc.collect()
        self._forget_closed()

    def _expect_freed(self, held: Held) -> None:
        """At level `full` a socket freed after its peer went is told once, unless found before."""
        now = state(held.fd)
        was_dead = now == CLOSE_WAIT or (now == CLOSED and held.connected)
        if self.is_full and held.tracked and was_dead and held.inode not in self.open_findings():
            least, most = self.freed
            self.ever_freed += 1
            # The finalizer has the real clock: in another one it comes before the FIN.
            self.freed = (least + (self.offset_ns == 0), most + 1)

    # -- rules: the process ----------------------------------------------------------------

    @rule(seconds=st.sampled_from([0, 1, THRESHOLD_S, 10 * THRESHOLD_S]))
    def time_passes(self, seconds: int) -> None:
        self.tick(0 if self.pace == "real" else seconds)

    @rule()
    def forks(self) -> None:
        pid = os.fork()
        if pid == 0:  # the child: must not return into Hypothesis
            code = 1
            try:
                code = self._in_child()
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == CHILD_IS_WELL

    def _in_child(self) -> int:
        if self.guard.check(0):
            return 2  # they are the parent's to report
        with socket.create_server(("127.0.0.1", 0)) as listener:
            theirs = socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
            theirs.close()
            await_agreement(lambda: state(ours.fileno()) == CLOSE_WAIT, lambda: "no FIN came")
            found = [finding.fd for finding in self.guard.check(0)]
        return CHILD_IS_WELL if found == [ours.fileno()] else 3

    @rule()
    def takes_the_guard_out_and_in_again(self) -> None:
        guards.uninstall()
        assert dict(vars(socket.socket)) == self.as_found
        self._install()
        self.freed = (0, 0)
        for held in self.held:
            held.tracked = False


# No deadline: steps are system calls on a machine with other work. No shrinking: each try
# that misses a socket waits for it, and the failing program is printed all the same.
SETTINGS = settings(
    stateful_step_count=30,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
)


# Sockets are dropped on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@contextmanager
def a_quick_collector() -> Iterator[None]:
    """Have the collector look at what a program makes, and not at all that the tests have."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@pytest.mark.parametrize(("observer", "programs"), [("epoll", 25), ("portable", 10)])
@pytest.mark.parametrize("level", ["light", "full"])
def test_it_agrees_with_the_kernel_whatever_the_program_does(
    level: str, observer: str, programs: int
) -> None:
    with a_quick_collector():
        run_state_machine_as_test(
            lambda: Program(level, observer), settings=settings(SETTINGS, max_examples=programs)
        )


# Programs that matter and that chance may not come by. Each begins with a connection, of
# which socket 0 is the client's end and socket 1 the server's; a step is a rule of the machine.
STORIES = {
    "a leak that is freed later is counted once": [
        ("closes", 0),
        ("drops_the_last_reference", 0, False),
    ],
    "a leak in a cycle is counted once": [
        ("closes", 0),
        ("drops_the_last_reference", 0, True),
        ("collects",),
    ],
    "a socket outlives a second object on its number": [
        ("looks_through_a_second_object", 1),
        ("closes", 0),
    ],
    "a leak that had a second object is counted once when it is freed": [
        ("closes", 0),
        ("looks_through_a_second_object", 0),
        ("drops_the_last_reference", 0, False),
    ],
    "a leak that is wrapped in TLS is counted once when it is freed": [
        ("closes", 0),
        ("starts_tls", 0, False),
        ("drops_the_last_reference", 0, False),
    ],
    "a leak stays one when the first of two objects is closed": [
        ("duplicates", 1),
        ("closes", 0),
        ("closes", 0),
        ("closes", 0),
    ],
    "a leak stays one when its object lets go of the number": [
        ("closes", 0),
        ("detaches", 0, False),
        ("collects",),
        ("closes_a_bare_descriptor", 0),
    ],
}


@pytest.mark.parametrize("steps", STORIES.values(), ids=STORIES.keys())
def test_it_agrees_with_the_kernel_when(steps: list[tuple[Any, ...]]) -> None:
    program = Program("full", "epoll")
    try:
        program.begins_with_connections("eager", 1)
        program.guard_and_kernel_agree()
        for name, *arguments in steps:
            getattr(program, name)(*arguments)
            program.guard_and_kernel_agree()
    finally:
        program.teardown()
