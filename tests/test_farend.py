"""The far end of a connection: named where it is on this host, said to be gone where it is."""

from __future__ import annotations

import gc
import os
import select
import socket
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.hooked import hooks
from support.programs import SERVERS, clean_environment, running

from sockguard import endpoints
from sockguard.farend import FarEnd, FarEnds
from sockguard.observers import sock_diag
from sockguard.records import SocketRecord
from sockguard.registry import Registry
from sockguard.tcp import TcpState

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux's sock_diag")

PATIENCE_S = 10.0
ALL = ("inet", "inet6", "mapped", "unix")
# More than a search of this host takes.
AMPLE_NS = 10_000_000_000


class Place:
    """Sockets under the hooks, closed in the end, and who finds their far ends."""

    def __init__(self, registry: Registry, stack: ExitStack) -> None:
        self.registry = registry
        self._stack = stack
        self._far_ends = FarEnds(registry, 32)

    def keep(self, sock: socket.socket) -> socket.socket:
        sock.settimeout(PATIENCE_S)
        return self._stack.enter_context(sock)

    def listener(self, kind: str = "inet") -> socket.socket:
        if kind == "inet":
            return self.keep(socket.create_server(("127.0.0.1", 0)))
        return self.keep(
            socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        )

    def connect(self, kind: str, listener: socket.socket) -> socket.socket:
        host = "::1" if kind == "inet6" else "127.0.0.1"
        return self.keep(socket.create_connection((host, listener.getsockname()[1])))

    def connection(self, kind: str = "inet") -> tuple[socket.socket, socket.socket]:
        """Return the side that connects and the one that accepts."""
        if kind == "unix":
            near, far = socket.socketpair()
            return self.keep(near), self.keep(far)
        listener = self.listener(kind)
        return self.connect(kind, listener), self.keep(listener.accept()[0])

    def of(self, sock: socket.socket) -> SocketRecord:
        return next(record for record, other in self.registry.live() if other is sock)

    def find(self, sock: socket.socket, budget_ns: int = AMPLE_NS) -> FarEnd | None:
        return self._far_ends.find(self.of(sock), budget_ns=budget_ns)


@pytest.fixture
def place() -> Iterator[Place]:
    with hooks() as registry, ExitStack() as stack:
        yield Place(registry, stack)


def wait_for_end(sock: socket.socket) -> None:
    """Wait until the kernel has taken in the peer's end; the FIN acknowledged, or a reset."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    assert poll.poll(PATIENCE_S * 1000)
    if sock.family == socket.AF_UNIX or endpoints.raw_peer(sock) is None:
        return
    # A FIN is acknowledged up to 40 ms late, and nothing tells when. tcp(7), TCP_QUICKACK
    ends = sock.getpeername(), sock.getsockname()
    for _ in range(1000):
        far = sock_diag.connection(sock.family, *ends)
        if far is None or far.state is not TcpState.FIN_WAIT_1:
            return
        select.select([], [], [], 0.005)
    raise AssertionError("the FIN was never acknowledged")


def inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def functions(far: FarEnd | None) -> list[str]:
    assert far is not None
    assert far.created is not None
    return [frame.function for frame in far.created.stack]


# -- in this process -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("which", [0, 1], ids=["of the connecting", "of the accepted"])
def test_a_far_end_of_this_process_is_named_with_its_creation_stack(place, kind, which):
    pair = place.connection(kind)
    near, far = pair[which], pair[1 - which]
    found = place.find(near)
    assert (found.pid, found.fd, found.inode) == (os.getpid(), far.fileno(), inode(far))
    assert found.held is True
    assert found.state is (None if kind == "unix" else TcpState.ESTABLISHED)
    assert "connection" in functions(found) or "connect" in functions(found)
    assert found.process == Path("/proc/self/comm").read_text().strip()
    assert not found.is_closed
    assert not found.is_unaccepted


@pytest.mark.parametrize("noted", [True, False], ids=["peer noted", "not adopted yet"])
@pytest.mark.parametrize("kind", ["inet", "inet6", "mapped"])
def test_both_states_are_told_when_one_side_has_half_closed(place, kind, noted):
    near, far = place.connection(kind)
    if noted:
        for sock in (near, far):
            place.of(sock).peer = endpoints.render(sock.getpeername())
    far.shutdown(socket.SHUT_WR)
    wait_for_end(near)
    # Without a moment for a search: they are tracked.
    closing, waiting = place.find(near, budget_ns=0), place.find(far, budget_ns=0)
    assert (closing.state, closing.fd) == (TcpState.FIN_WAIT_2, far.fileno())
    assert (waiting.state, waiting.fd) == (TcpState.CLOSE_WAIT, near.fileno())


def test_connections_are_not_mixed_up(place):
    listener = place.listener()
    pairs = [(place.connect("inet", listener), place.keep(listener.accept()[0])) for _ in range(3)]
    for near, far in pairs:
        assert place.find(near).fd == far.fileno()
        assert place.find(far).fd == near.fileno()


@pytest.mark.parametrize("kind", ["inet", "unix"])
def test_a_far_end_that_this_process_did_not_track_is_named_without_a_stack(place, kind):
    near, far = place.connection(kind)
    del place.registry.by_fd[far.fileno()]
    found = place.find(near)
    assert (found.pid, found.fd, found.created) == (os.getpid(), far.fileno(), None)


def test_a_far_end_inherited_from_the_parent_has_its_stack(place):
    near, far = place.connection()
    record = place.registry.by_fd.pop(far.fileno())
    place.registry.inherited[far.fileno()] = record
    assert "connection" in functions(place.find(near, budget_ns=0))


# -- in another process ----------------------------------------------------------------


def test_a_far_end_in_another_process_is_named(place, tmp_path):
    listener = place.listener()
    port = listener.getsockname()[1]
    command = [sys.executable, "-I", "-S", SERVERS / "farend_plain.py", str(port)]
    with running(command, tmp_path, clean_environment()) as program:
        near = place.keep(listener.accept()[0])
        pid, fd, number = map(int, program.line())
        wait_for_end(near)
        found = place.find(near)
        assert found == FarEnd(
            state=TcpState.FIN_WAIT_2,
            pid=pid,
            fd=fd,
            inode=number,
            held=True,
            process=Path(f"/proc/{pid}/comm").read_text().strip(),
        )
        assert program.end() == 0
        assert place.find(near).is_closed


def test_a_unix_far_end_in_another_process_is_named(place):
    near, far = place.connection("unix")
    far.setblocking(True)
    with subprocess.Popen(["cat"], stdin=far, stdout=subprocess.DEVNULL) as process:
        far.close()
        found = place.find(near)
        assert (found.pid, found.fd, found.process) == (process.pid, 0, "cat")
        near.shutdown(socket.SHUT_WR)
        assert process.wait(PATIENCE_S) == 0
    found = place.find(near)
    assert found.held is False
    assert found.is_closed


def test_a_search_that_ran_out_of_time_says_unknown_and_goes_on_where_it_was(place):
    near, far = place.connection()
    del place.registry.by_fd[far.fileno()]
    first = place.find(near, budget_ns=0)
    assert (first.state, first.held) == (TcpState.ESTABLISHED, True)
    assert (first.pid, first.fd, first.process) == (None, None, None)
    for _ in range(20_000):  # each comes one descriptor further
        found = place.find(near, budget_ns=0)
        if found.pid is not None:
            break
    assert (found.pid, found.fd) == (os.getpid(), far.fileno())


def test_where_one_was_found_the_next_is_sought_first_and_within_the_time(place):
    pairs = [place.connection() for _ in range(2)]
    for near, far in pairs:
        del place.registry.by_fd[far.fileno()]
        assert place.find(near).pid == os.getpid()
    search = place._far_ends._search
    assert next(search._in_turn(0, -1))[0] == os.getpid()
    assert place.find(pairs[0][0], budget_ns=0).pid is None


def test_a_search_that_is_forbidden_is_no_far_end():
    done = subprocess.run(
        [sys.executable, "-c", FORBIDDEN],
        env=clean_environment(PYTHONPATH=str(Path(__file__).parents[1])),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "None\n"), done.stderr
    assert "could not be told: ValueError('os.listdir')" in done.stderr


FORBIDDEN = """
import socket, sys
from sockguard import stderr
from sockguard.farend import FarEnds
from sockguard.records import SocketRecord
from sockguard.registry import Registry
def forbid(event, args):
    if event == "os.listdir":
        raise ValueError(event)
with socket.create_server(("127.0.0.1", 0)) as listener:
    near = socket.create_connection(listener.getsockname())
    far = listener.accept()[0]
record = SocketRecord(near)
record.fd = near.fileno()
stderr.remember()
sys.addaudithook(forbid)
print(FarEnds(Registry(), 32).find(record))
"""


# -- nowhere ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
def test_a_far_end_that_was_closed_for_good_is_said_to_be(place, kind):
    near, far = place.connection(kind)
    far.close()
    wait_for_end(near)
    state = None if kind == "unix" else TcpState.FIN_WAIT_2
    found = place.find(near)
    assert found == FarEnd(state=state, held=False)
    assert found.is_closed


def test_a_far_end_with_a_duplicate_is_not_closed(place):
    near, far = place.connection()
    other = place.keep(far.dup())
    far.close()
    assert place.find(near).fd == other.fileno()


@pytest.mark.parametrize("kind", ["inet", "inet6", "mapped"])
def test_a_far_end_that_nobody_has_accepted_is_not_called_closed(place, kind):
    listener = place.listener(kind)
    near = place.connect(kind, listener)
    assert place.find(near).is_unaccepted
    near.shutdown(socket.SHUT_WR)
    found = place.find(near)
    assert (found.state, found.held) == (TcpState.CLOSE_WAIT, False)
    assert found.is_unaccepted


def test_a_listener_is_nobodys_far_end(place):
    listener = place.listener()
    mine, gone = listener.getsockname(), ("127.0.0.1", 1)
    assert sock_diag.connection(socket.AF_INET, mine, gone) is None
    assert place.find(listener) is None


def test_who_is_not_on_this_host_is_none():
    ours, theirs = ("192.0.2.1", 50000), ("198.51.100.7", 443)
    assert sock_diag.connection(socket.AF_INET, theirs, ours) is None


def test_link_local_ends_are_found_by_their_scope(place):
    address = link_local()
    if address is None:
        pytest.skip("no interface with a link-local IPv6 address")
    listener = place.keep(socket.socket(socket.AF_INET6))
    listener.bind(address)
    listener.listen()
    near = place.keep(socket.socket(socket.AF_INET6))
    near.connect(listener.getsockname())
    far = place.keep(listener.accept()[0])
    near.sendall(b"four")
    assert select.select([far], [], [], PATIENCE_S)[0]
    queue = sock_diag.receive_queue(socket.AF_INET6, far.getsockname(), far.getpeername())
    assert queue == 4
    assert place.find(near).fd == far.fileno()
    del place.registry.by_fd[far.fileno()]
    assert place.find(near).fd == far.fileno()


def link_local() -> tuple[str, int, int, int] | None:
    for line in Path("/proc/net/if_inet6").read_text().splitlines():
        digits, index, _, scope, flags, _ = line.split()
        if scope == "20" and not int(flags, 16) & 0x40:  # tentative
            host = ":".join(digits[at : at + 4] for at in range(0, 32, 4))
            return host, 0, 0, int(index, 16)
    return None


def test_what_has_no_far_end_is_none(place, tmp_path):
    near, _ = place.connection()
    record = place.of(near)
    alone = [
        socket.socket(),
        socket.socket(socket.AF_UNIX),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    ]
    for sock in alone:
        assert place.find(place.keep(sock)) is None
    near.close()
    assert FarEnds(place.registry, 32).find(record) is None


def test_a_reset_far_end_is_none(place):
    near, far = place.connection()
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    far.close()
    wait_for_end(near)
    assert place.find(near) is None


# -- the program is not touched --------------------------------------------------------


class Hostile(socket.socket):
    def _no(self, *_: object) -> object:
        raise AssertionError("a method of the program was called")

    fileno = getsockname = getpeername = getsockopt = __eq__ = __repr__ = _no  # type: ignore[assignment]
    __hash__ = socket.socket.__hash__


@pytest.mark.parametrize("kind", ["inet", "unix"])
def test_no_method_of_the_programs_runs_and_nothing_is_kept_alive(place, kind):
    near, far = place.connection(kind)
    hostile = Hostile(fileno=far.detach())
    fd = hostile.__class__.__base__.fileno(hostile)
    found = place.find(near)
    assert (found.pid, found.fd) == (os.getpid(), fd)
    assert place._far_ends.find(place.registry.by_fd[fd]).fd == near.fileno()
    gone = weakref.ref(hostile)
    gc.disable()
    try:
        socket.socket.close(hostile)
        del hostile
        assert gone() is None
    finally:
        gc.enable()


def test_looking_leaves_no_descriptor(place, tmp_path):
    near, far = place.connection()
    del place.registry.by_fd[far.fileno()]
    place.find(near)
    before = set(os.listdir("/proc/self/fd"))
    place.find(near)
    place.find(near, budget_ns=0)
    assert set(os.listdir("/proc/self/fd")) == before
