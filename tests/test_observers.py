"""One contract for both observers, over real sockets; then what only Linux has."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sockguard import detector, endpoints
from sockguard.findings import Kind, Observation
from sockguard.observers import LostError, build, choose, sock_diag, tcp_info
from sockguard.observers.epoll import EpollSet
from sockguard.records import SocketRecord
from sockguard.tcp import TcpState

RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close sends RST, not FIN
OBSERVERS = ("epoll", "portable")
TCP = ("inet", "inet6", "mapped")
FAMILIES = (*TCP, "unix")


@pytest.fixture(params=OBSERVERS)
def observer(request):
    with contextlib.closing(build(request.param)) as built:
        yield built


@pytest.fixture
def linux():
    with contextlib.closing(build("epoll")) as built:
        yield built


@contextlib.contextmanager
def a_connection(family: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Our socket and its peer; both are closed in the end."""
    with contextlib.ExitStack() as stack:
        if family == "unix":
            ours, theirs = socket.socketpair()
        else:
            listener, address = stack.enter_context(a_listener(family))
            theirs = socket.create_connection(address)
            ours, _ = listener.accept()
        stack.callback(ours.close)
        stack.callback(theirs.close)
        yield ours, theirs


@contextlib.contextmanager
def a_listener(family: str) -> Iterator[tuple[socket.socket, tuple]]:
    if family == "inet":
        listener, host = socket.create_server(("127.0.0.1", 0)), "127.0.0.1"
    else:
        host = "::1" if family == "inet6" else "127.0.0.1"
        listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    with listener:
        yield listener, (host, listener.getsockname()[1])


@pytest.fixture(params=FAMILIES)
def pair(request):
    with a_connection(request.param) as both:
        yield both


@pytest.fixture(params=TCP)
def tcp_pair(request):
    with a_connection(request.param) as both:
        yield both


@pytest.fixture
def unix_pair():
    with a_connection("unix") as both:
        yield both


def a_record(sock: socket.socket) -> SocketRecord:
    record = SocketRecord(sock)
    record.fd = sock.fileno()
    record.serial = 1
    record.created_ns = time.monotonic_ns()
    record.peer = endpoints.render(endpoints.raw_peer(sock))
    return record


def adopted(observer, sock: socket.socket) -> SocketRecord:
    """Adopt, and take the hints that an adoption itself may raise."""
    observer.adopt(sock.fileno())
    list(observer.harvest())
    return a_record(sock)


def wait_for(sock: socket.socket, event: int) -> None:
    """Wait until the kernel has taken in what the peer did."""
    poll = select.poll()
    poll.register(sock.fileno(), event)
    assert poll.poll(5_000), "the peer's sign never came"


def kind_of_trouble(observer, sock, record) -> Kind | None:
    """What the detector makes of one look."""
    seen = observer.observe(sock, record)
    if seen is None:
        return None
    trouble = detector.follow(record, None, seen, now_ns=time.monotonic_ns())
    return None if trouble is None else trouble.kind


def reset(theirs: socket.socket, ours: socket.socket) -> None:
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    theirs.close()
    wait_for(ours, 0)  # POLLERR and POLLHUP are always on


# -- the contract ----------------------------------------------------------------------


def test_an_open_connection_is_no_trouble(observer, pair):
    ours, theirs = pair
    record = adopted(observer, ours)
    theirs.sendall(b"data")
    wait_for(ours, select.POLLIN)
    assert kind_of_trouble(observer, ours, record) is None


def test_a_peers_close_is_hinted_and_seen(observer, pair):
    ours, theirs = pair
    record = adopted(observer, ours)
    theirs.close()
    wait_for(ours, select.POLLRDHUP)
    assert record.fd in observer.harvest()
    assert kind_of_trouble(observer, ours, record) is Kind.PEER_CLOSED


def test_a_close_before_the_adoption_is_hinted_all_the_same(observer, pair):
    ours, theirs = pair
    theirs.close()
    wait_for(ours, select.POLLRDHUP)
    observer.adopt(ours.fileno())
    assert ours.fileno() in observer.harvest()
    assert kind_of_trouble(observer, ours, a_record(ours)) is Kind.PEER_CLOSED


def test_a_fin_behind_unread_data_is_seen_where_the_observer_can(observer, tcp_pair):
    ours, theirs = tcp_pair
    record = adopted(observer, ours)
    theirs.sendall(b"data")
    theirs.close()
    wait_for(ours, select.POLLRDHUP)
    assert record.fd in observer.harvest()
    if observer.name == "portable":  # its docstring says so: a peek finds the data only
        assert kind_of_trouble(observer, ours, record) is None
        ours.recv(4)
    assert kind_of_trouble(observer, ours, record) is Kind.PEER_CLOSED


def test_a_reset_is_a_reset_and_stays_one(observer, tcp_pair):
    ours, theirs = tcp_pair
    record = adopted(observer, ours)
    reset(theirs, ours)
    assert record.fd in observer.harvest()
    assert kind_of_trouble(observer, ours, record) is Kind.PEER_RESET
    with pytest.raises(ConnectionResetError):
        ours.recv(1)
    assert kind_of_trouble(observer, ours, record) is Kind.PEER_RESET


def test_a_pending_reset_is_still_the_programs_to_see_after_we_looked(observer, tcp_pair):
    ours, theirs = tcp_pair
    record = adopted(observer, ours)
    reset(theirs, ours)
    list(observer.harvest())
    observer.observe(ours, record)
    assert observer.evidence(ours, record).end_unread is True
    observer.observe(ours, record)
    with pytest.raises(ConnectionResetError):
        ours.recv(1)
    assert observer.evidence(ours, record).end_unread is None


def test_looking_reads_no_byte_and_changes_no_option(observer, pair):
    ours, theirs = pair
    ours.settimeout(30)
    record = adopted(observer, ours)
    theirs.sendall(b"data")
    theirs.close()
    wait_for(ours, select.POLLRDHUP)
    before = options(ours)
    for _ in range(2):
        list(observer.harvest())
        observer.observe(ours, record)
        observer.evidence(ours, record)
    assert options(ours) == before
    assert ours.recv(100) == b"data"
    observer.observe(ours, record)  # with only the FIN left to read
    assert ours.recv(100) == b""


def options(sock: socket.socket) -> dict:
    """Everything that a program could compare: options, flags, time-out, descriptors."""
    names = {name for name in dir(socket) if name.startswith("SO_")} - {"SO_COOKIE"}
    found = {}
    for name in names:
        with contextlib.suppress(OSError):
            found[name] = sock.getsockopt(socket.SOL_SOCKET, getattr(socket, name), 64)
    found["timeout"] = sock.gettimeout()
    found["inheritable"] = sock.get_inheritable()
    found["blocking"] = os.get_blocking(sock.fileno())
    found["open"] = sorted(os.listdir("/proc/self/fd"))
    return found


@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR])
def test_our_own_shutdown_is_no_close_by_the_peer(linux, pair, how):
    ours, _theirs = pair
    record = adopted(linux, ours)
    ours.shutdown(how)
    assert kind_of_trouble(linux, ours, record) is None


@pytest.mark.parametrize("how", [socket.SHUT_WR, socket.SHUT_RDWR])
def test_our_own_end_of_sending_is_no_close_by_the_peer_to_the_portable_one(tcp_pair, how):
    ours, _theirs = tcp_pair
    with contextlib.closing(build("portable")) as portable:
        record = adopted(portable, ours)
        ours.shutdown(how)
        assert kind_of_trouble(portable, ours, record) is None


def test_a_real_fin_after_our_own_shutdown_of_reading_is_still_found(linux, tcp_pair):
    ours, theirs = tcp_pair
    record = adopted(linux, ours)
    ours.shutdown(socket.SHUT_RD)
    assert record.fd in linux.harvest()  # a false hint, and it must not spend the true one
    theirs.close()
    wait_for(ours, select.POLLRDHUP)
    deadline = time.monotonic() + 5
    hinted: list[int] = []
    while record.fd not in hinted:
        assert time.monotonic() < deadline
        hinted = linux.harvest()
    assert kind_of_trouble(linux, ours, record) is Kind.PEER_CLOSED


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_a_fresh_socket_is_no_trouble(observer, family):
    with socket.socket(family) as sock:
        assert kind_of_trouble(observer, sock, adopted(observer, sock)) is None


def test_a_refused_connection_is_no_trouble_before_and_after_it_is_told(observer):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.connect_ex(address)
        record = adopted(observer, sock)
        wait_for(sock, select.POLLOUT)
        assert kind_of_trouble(observer, sock, record) is None
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
        assert kind_of_trouble(observer, sock, record) is None


@pytest.mark.parametrize("waiting", [False, True])
@pytest.mark.parametrize("family", TCP)
def test_a_listener_is_no_trouble_with_a_client_at_the_door_or_none(observer, family, waiting):
    with a_listener(family) as (listener, address):
        record = adopted(observer, listener)
        if waiting:
            socket.create_connection(address).close()
            wait_for(listener, select.POLLIN)
        assert kind_of_trouble(observer, listener, record) is None


def test_a_unix_listener_is_no_trouble(observer, tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        record = adopted(observer, listener)
        assert kind_of_trouble(observer, listener, record) is None


def test_a_half_close_over_tcp_is_a_peers_fin(observer, tcp_pair):
    ours, theirs = tcp_pair
    record = adopted(observer, ours)
    theirs.shutdown(socket.SHUT_WR)
    wait_for(ours, select.POLLRDHUP)
    assert kind_of_trouble(observer, ours, record) is Kind.PEER_CLOSED


def test_a_half_close_on_a_unix_socket_is_none_and_the_hang_up_after_it_is(observer, unix_pair):
    ours, theirs = unix_pair
    record = adopted(observer, ours)
    theirs.shutdown(socket.SHUT_WR)
    wait_for(ours, select.POLLRDHUP)
    list(observer.harvest())
    assert kind_of_trouble(observer, ours, record) is None
    theirs.close()
    assert record.fd in observer.harvest()
    assert kind_of_trouble(observer, ours, record) is Kind.PEER_CLOSED


def test_a_unix_peer_that_closes_after_our_own_shutdown_is_seen(linux, unix_pair):
    ours, theirs = unix_pair
    record = adopted(linux, ours)
    ours.shutdown(socket.SHUT_RDWR)
    assert kind_of_trouble(linux, ours, record) is None
    theirs.close()
    assert kind_of_trouble(linux, ours, record) is Kind.PEER_CLOSED


def test_our_fin_after_theirs_is_the_end_and_no_trouble(observer, tcp_pair):
    ours, theirs = tcp_pair
    record = adopted(observer, ours)
    theirs.shutdown(socket.SHUT_WR)
    wait_for(ours, select.POLLRDHUP)
    ours.shutdown(socket.SHUT_WR)
    theirs.settimeout(5)
    assert theirs.recv(1) == b""  # it has our FIN: the connection is over, not reset
    seen = observer.observe(ours, record)
    assert seen is not None
    assert seen.state in (TcpState.LAST_ACK, TcpState.CLOSED)


def at_a_number_of_its_own(sock: socket.socket) -> socket.socket:
    """A duplicate whose number nothing else gets meanwhile."""
    return socket.socket(fileno=fcntl.fcntl(sock, fcntl.F_DUPFD_CLOEXEC, 500))


def test_a_number_that_went_to_a_stranger_raises_a_hint_and_no_verdict(observer, pair):
    ours, theirs = pair
    twin = at_a_number_of_its_own(ours)
    record = adopted(observer, twin)
    with a_connection("inet") as (stranger, _):
        # epoll keeps the connection under the old number as long as `ours` lives.
        os.dup2(stranger.fileno(), twin.fileno(), inheritable=False)
        fd = twin.detach()
        theirs.close()
        wait_for(ours, select.POLLRDHUP)
        assert fd in observer.harvest()
        assert observer.observe(twin, record) is None
        with socket.socket(fileno=fd) as successor:
            assert kind_of_trouble(observer, successor, a_record(successor)) is None


def test_a_closed_duplicate_leaves_the_other_one_watched(observer, pair):
    ours, theirs = pair
    record = adopted(observer, ours)
    twin = ours.dup()
    adopted(observer, twin)
    twin.close()
    theirs.close()
    wait_for(ours, select.POLLRDHUP)
    assert record.fd in observer.harvest()
    assert kind_of_trouble(observer, ours, record) is Kind.PEER_CLOSED


def test_a_reused_number_is_adopted_afresh(observer):
    with a_connection("inet") as (former, _), a_connection("inet6") as (ours, theirs):
        with at_a_number_of_its_own(former) as first:
            fd = adopted(observer, first).fd
        with at_a_number_of_its_own(ours) as reused:
            assert reused.fileno() == fd
            record = adopted(observer, reused)
            theirs.close()
            wait_for(reused, select.POLLRDHUP)
            assert fd in observer.harvest()
            assert kind_of_trouble(observer, reused, record) is Kind.PEER_CLOSED


def test_adopting_again_raises_the_hint_again(observer, pair):
    ours, theirs = pair
    observer.adopt(ours.fileno())
    theirs.close()
    wait_for(ours, select.POLLRDHUP)
    for _ in range(2):
        assert ours.fileno() in observer.harvest()
        observer.adopt(ours.fileno())


def test_adopting_a_closed_or_strange_number_raises_nothing(observer, tmp_path):
    with open(tmp_path / "file", "wb") as file:
        observer.adopt(file.fileno())
    observer.adopt(65_000)
    with a_connection("inet") as (ours, theirs):
        record = adopted(observer, ours)
        theirs.close()
        wait_for(ours, select.POLLRDHUP)
        assert record.fd in observer.harvest()


def test_evidence_counts_bytes_and_not_the_fin(observer, tcp_pair):
    ours, theirs = tcp_pair
    record = adopted(observer, ours)
    theirs.sendall(b"0123456789")
    theirs.close()
    wait_for(ours, select.POLLRDHUP)
    evidence = observer.evidence(ours, record)
    assert evidence.unread_bytes == 10
    assert evidence.local == endpoints.render(ours.getsockname())
    assert evidence.end_unread is (True if observer.name == "epoll" else None)


def test_evidence_tells_an_unread_fin_from_one_that_was_read(linux, tcp_pair):
    ours, theirs = tcp_pair
    record = adopted(linux, ours)
    theirs.close()
    wait_for(ours, select.POLLRDHUP)
    evidence = linux.evidence(ours, record)
    assert (evidence.unread_bytes, evidence.end_unread) == (0, True)
    assert ours.recv(1) == b""
    assert linux.evidence(ours, record).end_unread is None


def test_evidence_does_not_take_a_fin_that_came_with_the_data_for_a_read_end(linux, tcp_pair):
    ours, theirs = tcp_pair
    record = adopted(linux, ours)
    theirs.sendall(b"data")
    theirs.close()
    wait_for(ours, select.POLLRDHUP)
    ours.recv(4)
    evidence = linux.evidence(ours, record)
    assert (evidence.unread_bytes, evidence.end_unread) == (0, None)


def test_evidence_knows_the_peer_also_after_a_reset(observer, tcp_pair):
    ours, theirs = tcp_pair
    record = adopted(observer, ours)
    peer = endpoints.render(theirs.getsockname())
    reset(theirs, ours)
    with pytest.raises(OSError, match="not connected"):
        ours.getpeername()
    assert peer.rpartition(":")[2] == observer.evidence(ours, record).peer.rpartition(":")[2]


def test_evidence_sees_a_close_that_a_makefile_holds_up(observer, pair):
    ours, _theirs = pair
    record = adopted(observer, ours)
    assert not observer.evidence(ours, record).closed_by_program
    with ours.makefile("rb"):
        assert not observer.evidence(ours, record).closed_by_program
        ours.close()
        assert observer.evidence(ours, record).closed_by_program


# -- what only Linux has ---------------------------------------------------------------


def test_the_age_of_a_fin_is_known_to_a_late_observer(linux, tcp_pair):
    ours, theirs = tcp_pair
    before = time.monotonic_ns()
    theirs.close()
    wait_for(ours, select.POLLRDHUP)
    after = time.monotonic_ns()
    record = a_record(ours)
    age_ns = 0
    while age_ns < 150_000_000:  # only real time makes a FIN old
        asked = time.monotonic_ns()
        age_ns = linux.observe(ours, record).last_ack_ms * 1_000_000
        told = time.monotonic_ns()
        assert told - after < 5_000_000_000
        select.select([], [], [], 0.01)
    slack = 50_000_000
    assert asked - after - slack <= age_ns <= told - before + slack


def test_acknowledged_bytes_are_counted(linux, tcp_pair):
    ours, theirs = tcp_pair
    record = a_record(ours)
    before = linux.observe(ours, record).bytes_acked
    ours.sendall(b"x" * 500)
    deadline = time.monotonic() + 5
    while linux.observe(ours, record).bytes_acked < before + 500:
        assert time.monotonic() < deadline
        select.select([theirs], [], [], 0.01)


def test_decode_needs_no_more_than_an_old_kernel_gave():
    info = bytearray(104)
    info[0] = 8
    struct.pack_into("=I", info, 56, 1234)
    struct.pack_into("=I", info, 68, 99)
    assert tcp_info.decode(bytes(info)) == Observation(
        state=TcpState.CLOSE_WAIT, connected=True, last_ack_ms=1234, bytes_acked=None
    )
    info += struct.pack("=QQ", 0, 0)[: 128 - 104 - 8] + struct.pack("=Q", 77)
    assert tcp_info.decode(bytes(info)).bytes_acked == 77


def test_decode_of_a_state_that_it_does_not_know_is_unknown():
    assert tcp_info.decode(b"\x63" + bytes(127)).state is None


@pytest.mark.parametrize("sock_type", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_tcp_info_of_what_has_none_is_none(sock_type):
    family = socket.AF_UNIX if sock_type == socket.SOCK_STREAM else socket.AF_INET
    with socket.socket(family, sock_type) as sock:
        assert tcp_info.read(sock) is None
    assert tcp_info.read(sock) is None
    assert tcp_info.read(object()) is None


def test_the_receive_queue_counts_bytes_and_fin(tcp_pair):
    ours, theirs = tcp_pair

    def queue() -> int | None:
        return sock_diag.receive_queue(ours.family, ours.getsockname(), ours.getpeername())

    assert queue() == 0
    theirs.sendall(b"0123456789")
    wait_for(ours, select.POLLIN)
    assert queue() == 10
    theirs.close()
    wait_for(ours, select.POLLRDHUP)
    assert queue() == 11
    ours.recv(9)
    assert queue() == 2


def test_the_receive_queue_of_a_connection_that_is_not_there_is_unknown():
    nowhere = ("127.0.0.1", 1)
    assert sock_diag.receive_queue(socket.AF_INET, nowhere, nowhere) is None


@pytest.mark.parametrize("length", [0, 15, 52, 59])
def test_a_short_answer_of_sock_diag_is_unknown(length):
    assert sock_diag.decode_rqueue(bytes(length)) is None
    assert sock_diag.decode_unix_peer(bytes(length)) is None


def test_the_peer_of_a_unix_socket_is_told_by_inode(unix_pair):
    ours, theirs = unix_pair
    inode = os.fstat(ours.fileno()).st_ino
    assert sock_diag.unix_peer(inode) == os.fstat(theirs.fileno()).st_ino
    theirs.close()
    assert sock_diag.unix_peer(inode) == 0
    ours.close()
    assert sock_diag.unix_peer(inode) is None


def test_the_unix_peer_is_found_behind_other_attributes():
    header = bytes(16)
    name = struct.pack("=HH", 4 + 3, 0) + b"abc\0"  # padded to four
    peer = struct.pack("=HHI", 8, 2, 4711)
    assert sock_diag.decode_unix_peer(header + name + peer) == 4711
    assert sock_diag.decode_unix_peer(header + name + peer[:-1]) is None
    assert sock_diag.decode_unix_peer(header + bytes(8) + peer) is None


def test_the_choice_comes_with_its_reason():
    assert choose() == ("epoll", "Linux with EPOLLRDHUP")
    assert choose("epoll") == ("epoll", "asked for")
    assert choose("portable") == ("portable", "asked for")


def test_without_epoll_the_portable_observer_is_chosen_and_the_reason_says_so(monkeypatch):
    monkeypatch.delattr(select, "EPOLLRDHUP")
    for wanted in ("auto", "epoll"):
        name, reason = choose(wanted)
        assert name == "portable"
        assert "no epoll" in reason


# -- descriptors closed under us -------------------------------------------------------


def numbers_of(epoll_set: EpollSet) -> tuple[int, int]:
    return epoll_set._sentinel, epoll_set._epoll.fileno()


def test_our_descriptors_keep_out_of_the_low_numbers():
    epoll_set = EpollSet()
    try:
        assert min(numbers_of(epoll_set)) >= 256
    finally:
        epoll_set.close()


@contextlib.contextmanager
def strangers(what: str, numbers: tuple[int, ...], path: Path) -> Iterator[list[int]]:
    """The program's own objects under the numbers that were ours."""
    with contextlib.ExitStack() as stack:
        for number in numbers:
            if what == "closed":
                continue
            if what == "file":
                made = os.open(path / "file", os.O_RDWR | os.O_CREAT)
            elif what == "socket":
                made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach()
            else:
                own = select.epoll()
                made = os.dup(own.fileno())
                own.close()
            os.dup2(made, number, inheritable=False)
            os.close(made)
            stack.callback(os.close, number)
        yield list(numbers)


@pytest.mark.parametrize("which", ["both", "sentinel", "epoll"])
@pytest.mark.parametrize("what", ["closed", "file", "socket", "epoll"])
def test_lost_descriptors_are_noticed_and_their_new_owners_spared(linux, tmp_path, what, which):
    with a_connection("inet") as (ours, theirs):
        record = adopted(linux, ours)
        sentinel, epoll_fd = numbers_of(linux._set)
        lost = {"both": (sentinel, epoll_fd), "sentinel": (sentinel,), "epoll": (epoll_fd,)}[which]
        for number in lost:
            os.closerange(number, number + 1)
        with strangers(what, lost, tmp_path) as taken:
            before = [state_of(number) for number in taken] if what != "closed" else []
            with pytest.raises(LostError):
                linux.harvest()
            if what != "closed":
                assert [state_of(number) for number in taken] == before
            linux.adopt(record.fd)
            theirs.close()
            wait_for(ours, select.POLLRDHUP)
            assert record.fd in linux.harvest()
            assert kind_of_trouble(linux, ours, record) is Kind.PEER_CLOSED
        if which != "both":  # what of ours was left open must not pile up
            rest = {sentinel, epoll_fd} - set(lost)
            for number in rest & {int(name) for name in os.listdir("/proc/self/fd")}:
                if number not in numbers_of(linux._set):
                    os.close(number)


def state_of(number: int) -> tuple:
    """What a descriptor is, and, of an epoll, what is registered there."""
    status = os.fstat(number)
    info = Path(f"/proc/self/fdinfo/{number}").read_text()
    return status.st_dev, status.st_ino, os.readlink(f"/proc/self/fd/{number}"), info


def test_a_programs_own_epoll_that_watches_its_own_socket_under_our_numbers_is_spared(linux):
    sentinel, epoll_fd = numbers_of(linux._set)
    os.closerange(sentinel, sentinel + 1)
    os.closerange(epoll_fd, epoll_fd + 1)
    one, other = socket.socketpair()
    with one, other, select.epoll() as own:
        os.dup2(one.fileno(), sentinel, inheritable=False)
        own.register(sentinel, select.EPOLLIN)
        os.dup2(own.fileno(), epoll_fd, inheritable=False)
        before = state_of(epoll_fd)
        with pytest.raises(LostError):
            linux.harvest()
        assert state_of(epoll_fd) == before
        other.send(b"x")
        assert own.poll(5) == [(sentinel, select.EPOLLIN)]
        os.close(epoll_fd)
        os.close(sentinel)


def test_closing_an_observer_spares_whoever_has_its_numbers_by_now(tmp_path):
    observer = build("epoll")
    numbers = numbers_of(observer._set)
    for number in numbers:
        os.close(number)
    with strangers("file", numbers, tmp_path) as taken:
        before = [state_of(number) for number in taken]
        observer.close()
        del observer
        assert [state_of(number) for number in taken] == before
