"""Level `full`: a read that tells the program of the end is noted, and nothing is changed."""

from __future__ import annotations

import array
import asyncio
import contextlib
import ctypes
import mmap
import os
import select
import socket
import ssl
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Iterator

import pytest
import trustme
from support.hooked import hooks

import sockguard
from sockguard.reads import METHODS
from sockguard.records import Eof
from sockguard.registry import Registry
from sockguard.stacks import resolve

RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close sends RST, not FIN
OURS = os.path.dirname(sockguard.__file__)


def unguarded_or(guarded: bool) -> contextlib.AbstractContextManager[Registry | None]:
    return hooks(full=True) if guarded else contextlib.nullcontext()


@pytest.fixture
def registry():
    with hooks(full=True) as made:
        yield made


@contextlib.contextmanager
def a_connection(family: str = "inet") -> Iterator[tuple[socket.socket, socket.socket]]:
    if family == "unix":
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            theirs = socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
    with ours, theirs:
        yield ours, theirs


def noted(registry: Registry, sock: socket.socket) -> Eof | None:
    return registry.by_fd[sock.fileno()].eof


def wait_for(sock: socket.socket, event: int = 0) -> None:
    poll = select.poll()
    poll.register(sock.fileno(), event)
    assert poll.poll(5_000), "the peer's sign never came"


def fin(theirs: socket.socket, ours: socket.socket) -> None:
    theirs.close()
    wait_for(ours, select.POLLRDHUP)


def reset(theirs: socket.socket, ours: socket.socket) -> None:
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    theirs.close()
    wait_for(ours)


# Each reading method, asked for up to `n` bytes; what it returned, and the data it gave.
def recv(sock, n):
    data = sock.recv(n)
    return data, data


def recv_with_flags(sock, n):
    data = sock.recv(n, socket.MSG_DONTWAIT)
    return data, data


def recvfrom(sock, n):
    result = sock.recvfrom(n)
    return result, result[0]


def recvmsg(sock, n):
    result = sock.recvmsg(n, 64)
    return result, result[0]


def recv_into(sock, n):
    buffer = bytearray(n)
    count = sock.recv_into(buffer)
    return count, bytes(buffer[:count])


def recv_into_by_keyword(sock, n):
    buffer = bytearray(n + 1)
    count = sock.recv_into(nbytes=n, buffer=memoryview(buffer)[:n], flags=0)
    return count, bytes(buffer[:count])


def recvfrom_into(sock, n):
    buffer = bytearray(n)
    result = sock.recvfrom_into(buffer)
    return result, bytes(buffer[: result[0]])


def recvmsg_into(sock, n):
    buffers = [bytearray(n // 2), bytearray(n - n // 2)]
    result = sock.recvmsg_into(buffers)
    return result, b"".join(buffers)[: result[0]]


READS = (
    recv,
    recv_with_flags,
    recvfrom,
    recvmsg,
    recv_into,
    recv_into_by_keyword,
    recvfrom_into,
    recvmsg_into,
)
Read = Callable[[socket.socket, int], tuple[object, bytes]]
every_read = pytest.mark.parametrize("read", READS, ids=lambda read: read.__name__)


def names(stack) -> list[str]:
    return [frame.function for frame in resolve(stack)]


def our_lines(error: BaseException) -> list[str]:
    """The frames that an exception shows, but for the sockguard ones that it must not have."""
    frames = traceback.extract_tb(error.__traceback__)
    if sys.version_info < (3, 11) and isinstance(error, BlockingIOError):
        # Too dear there for an exception that an event loop sees all the time.
        frames = [frame for frame in frames if not frame.filename.startswith(OURS)]
    assert [frame for frame in frames if frame.filename.startswith(OURS)] == []
    return [f"{os.path.basename(frame.filename)}:{frame.lineno}" for frame in frames]


def test_every_reading_method_is_covered():
    read_names = {read.__name__ for read in READS}
    assert read_names >= set(METHODS)
    assert {name for name in dir(socket.socket) if name.startswith("recv")} - {"recv_fds"} == set(
        METHODS
    )


@every_read
@pytest.mark.parametrize("family", ["inet", "unix"])
def test_a_read_that_meets_the_end_is_noted_once_with_its_stack(registry, read: Read, family):
    with a_connection(family) as (ours, theirs):
        theirs.sendall(b"0123456789")
        assert read(ours, 4)[1] == b"0123"
        assert read(ours, 64)[1] == b"456789"
        assert noted(registry, ours) is None
        fin(theirs, ours)
        assert noted(registry, ours) is None
        assert read(ours, 4)[1] == b""
        eof = noted(registry, ours)
        assert names(eof.stack)[:2] == [
            read.__name__,
            "test_a_read_that_meets_the_end_is_noted_once_with_its_stack",
        ]
        assert (eof.thread, eof.task) == ("MainThread", None)
        recv(ours, 1)
        assert noted(registry, ours) is eof


@every_read
def test_what_a_read_returns_is_what_it_returns_without_us(read: Read):
    results = []
    for guarded in (False, True):
        with unguarded_or(guarded), a_connection("unix") as pair:
            ours, theirs = pair
            theirs.sendall(b"0123456789")
            theirs.close()
            results.append([repr(read(ours, 6)), repr(read(ours, 6)), repr(read(ours, 6))])
    assert results[0] == results[1]


@every_read
def test_a_reset_is_noted_and_raised_with_no_frame_of_ours(read: Read):
    seen = []
    for guarded in (False, True):
        with unguarded_or(guarded) as registry, a_connection() as (ours, theirs):
            reset(theirs, ours)
            with pytest.raises(ConnectionResetError) as caught:
                read(ours, 4)
            seen.append((our_lines(caught.value), str(caught.value)))
            if guarded:
                assert names(noted(registry, ours).stack)[0] == read.__name__
    assert seen[0] == seen[1]


@every_read
@pytest.mark.parametrize("trouble", ["would block", "timed out", "closed", "too short"])
def test_other_exceptions_pass_unnoted_with_no_frame_of_ours(read: Read, trouble):
    seen = []
    for guarded in (False, True):
        with unguarded_or(guarded) as registry, a_connection("unix") as (ours, _theirs):
            record = registry.by_fd[ours.fileno()] if guarded else None
            ours.settimeout({"would block": 0, "timed out": 0.001}.get(trouble))
            if trouble == "closed":
                ours.close()
            wanted = -1 if trouble == "too short" else 4
            with pytest.raises((OSError, ValueError)) as caught:
                read(ours, wanted)
            seen.append((our_lines(caught.value), repr(caught.value)))
            assert record is None or record.eof is None
    assert seen[0] == seen[1]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("arguments", [(), ("x",), (None,), (1, 2, 3, 4, 5)])
def test_a_wrong_call_raises_the_same_type_with_no_frame_of_ours(name, arguments):
    seen = []
    for guarded in (False, True):
        with unguarded_or(guarded), a_connection("unix") as (ours, _):
            with pytest.raises(TypeError) as caught:
                getattr(ours, name)(*arguments)
            seen.append(our_lines(caught.value))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("name", METHODS)
def test_a_stand_in_looks_like_the_method(name):
    method = getattr(socket.socket, name)
    with hooks(full=True):
        stand_in = getattr(socket.socket, name)
        assert stand_in is not method
        assert (stand_in.__name__, stand_in.__doc__) == (name, method.__doc__)


@pytest.mark.parametrize("nothing", [None, bytearray(), 0, ""])
def test_what_somebody_elses_method_below_ours_returns_is_handed_on_as_it_is(nothing, monkeypatch):
    monkeypatch.setattr(socket.socket, "recv", lambda sock, *args: nothing, raising=False)
    with hooks(full=True), a_connection() as (ours, _):
        assert ours.recv(1) is nothing
        assert ours.recv(1, socket.MSG_DONTWAIT) is nothing


def test_a_request_for_no_byte_is_no_end(registry):
    with a_connection() as (ours, theirs):
        fin(theirs, ours)
        for read in READS:
            assert read(ours, 0)[1] == b""
        ours.recvmsg_into([])
        ours.recvmsg_into([bytearray(0), bytearray(0)])
        assert noted(registry, ours) is None
        ours.recv_into(bytearray(4), 0)  # no length: that of the buffer
        assert noted(registry, ours) is not None


@every_read
def test_an_empty_datagram_is_no_end(registry, read: Read):
    with socket.socket(type=socket.SOCK_DGRAM) as ours, socket.socket(type=socket.SOCK_DGRAM) as to:
        ours.bind(("127.0.0.1", 0))
        to.sendto(b"", ours.getsockname())
        wait_for(ours, select.POLLIN)
        assert read(ours, 10)[1] == b""
        assert noted(registry, ours) is None


def test_ancillary_data_without_a_byte_is_no_end(registry):
    so_zerocopy, msg_zerocopy = 60, 0x4000000  # the kernel's notice comes with no data
    with a_connection() as (ours, theirs):
        ours.setsockopt(socket.SOL_SOCKET, so_zerocopy, 1)
        ours.send(b"x" * 100, msg_zerocopy)
        wait_for(ours)
        data, ancillary, *_ = ours.recvmsg(10, 200, socket.MSG_ERRQUEUE)
        assert (data, len(ancillary)) == (b"", 1)
        assert noted(registry, ours) is None
        fin(theirs, ours)


def an_anonymous_map(data: bytes) -> mmap.mmap:
    made = mmap.mmap(-1, len(data))
    made[:] = data
    return made


BUFFERS = {
    "bytearray": bytearray,
    "memoryview": lambda data: memoryview(bytearray(data)),
    "slice": lambda data: memoryview(bytearray(data + b"rest"))[: len(data)],
    "cast": lambda data: memoryview(bytearray(data)).cast("I"),
    "array": lambda data: array.array("H", data),
    "ctypes": lambda data: (ctypes.c_char * len(data))(*data),
    "mmap": an_anonymous_map,
}


@pytest.mark.parametrize("method", ["recv_into", "recvfrom_into", "recvmsg_into"])
@pytest.mark.parametrize("kind", BUFFERS)
def test_buffers_of_all_kinds_are_filled_and_let_go(registry, kind, method):
    with a_connection("unix") as (ours, theirs):
        buffer = BUFFERS[kind](bytes(8))
        given = [buffer] if method == "recvmsg_into" else buffer
        theirs.sendall(b"01234567")
        getattr(ours, method)(given)
        assert bytes(memoryview(buffer).cast("B")) == b"01234567"
        assert noted(registry, ours) is None
        theirs.close()
        getattr(ours, method)(given)
        assert noted(registry, ours) is not None
        if kind == "bytearray":
            buffer += b"more"  # BufferError if anything still held a view of it
        if kind == "mmap":
            buffer.close()


def test_a_generator_of_buffers_is_used_up_once_and_nothing_is_concluded(registry):
    with a_connection("unix") as (ours, theirs):
        theirs.close()
        assert ours.recvmsg_into(bytearray(4) for _ in range(2))[0] == 0
        assert noted(registry, ours) is None


def test_the_end_met_by_a_makefile_reader_is_its_callers(registry):
    with a_connection() as (ours, theirs), ours.makefile("rb") as file:
        theirs.sendall(b"one\ntwo")
        fin(theirs, ours)
        assert file.readline() == b"one\n"
        assert noted(registry, ours) is None
        assert file.read() == b"two"
        here = "test_the_end_met_by_a_makefile_reader_is_its_callers"
        assert names(noted(registry, ours).stack)[0] == here


def test_the_end_met_in_another_thread_names_that_thread(registry):
    with a_connection() as (ours, theirs):
        fin(theirs, ours)
        reader = threading.Thread(target=ours.recv, args=(1,), name="reader")
        reader.start()
        reader.join()
        assert noted(registry, ours).thread == "reader"


def test_the_end_met_in_a_task_names_that_task(registry):
    async def read(sock: socket.socket) -> bytes:
        return await asyncio.get_running_loop().sock_recv(sock, 10)

    async def main(sock: socket.socket) -> None:
        assert await asyncio.create_task(read(sock), name="the reader") == b""

    with a_connection() as (ours, theirs):
        ours.setblocking(False)
        fin(theirs, ours)
        asyncio.run(main(ours))
        assert noted(registry, ours).task == "the reader"


def test_level_light_notes_no_end():
    with hooks(full=False) as registry, a_connection("unix") as (ours, theirs):
        theirs.close()
        assert ours.recv(1) == b""
        assert noted(registry, ours) is None


# -- TLS -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def contexts():
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    server.num_tickets = 0  # a ticket nobody reads would turn the peer's close into a reset
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    return server, client


@contextlib.contextmanager
def a_tls_connection(contexts, **options) -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    server, client = contexts
    with a_connection() as (ours, theirs):
        accepted: list[ssl.SSLSocket] = []

        def accept() -> None:
            accepted.append(server.wrap_socket(theirs, server_side=True))

        thread = threading.Thread(target=accept)
        thread.start()
        with client.wrap_socket(ours, server_hostname="localhost", **options) as tls:
            thread.join()
            with accepted[0]:
                yield tls, accepted[0]


def tls_recv(sock, n):
    return sock.recv(n)


def tls_read(sock, n):
    return sock.read(n)


def tls_read_into(sock, n):
    buffer = bytearray(n)
    return bytes(buffer[: sock.read(n, buffer)])


def tls_recv_into(sock, n):
    buffer = bytearray(n)
    return bytes(buffer[: sock.recv_into(buffer)])


def tls_makefile(sock, n):
    with sock.makefile("rb", buffering=0) as file:
        return file.read(n)


TLS_READS = (tls_recv, tls_read, tls_read_into, tls_recv_into, tls_makefile)
every_tls_read = pytest.mark.parametrize("read", TLS_READS, ids=lambda read: read.__name__)


@every_tls_read
@pytest.mark.parametrize("notified", [True, False])
def test_a_tls_read_that_meets_the_end_is_noted(registry, contexts, read, notified):
    with a_tls_connection(contexts) as (ours, theirs):
        theirs.sendall(b"data")
        assert read(ours, 100) == b"data"
        assert noted(registry, ours) is None
        if notified:
            theirs.setblocking(False)
            with pytest.raises(ssl.SSLWantReadError):
                theirs.unwrap()  # sends close_notify, and would wait for ours
        fin(theirs, ours)
        assert read(ours, 100) == b""
        assert names(noted(registry, ours).stack)[0] == read.__name__


def test_a_tls_read_of_no_byte_is_no_end(registry, contexts):
    with a_tls_connection(contexts) as (ours, theirs):
        fin(theirs, ours)
        assert ours.read(0) == b""
        assert noted(registry, ours) is None


@pytest.mark.parametrize("how", ["ragged", "reset", "timed out"])
def test_a_tls_read_that_raises_shows_no_frame_of_ours(contexts, how):
    seen = []
    for guarded in (False, True):
        connection = a_tls_connection(contexts, suppress_ragged_eofs=False)
        with unguarded_or(guarded) as registry, connection as (ours, theirs):
            if how == "timed out":
                ours.settimeout(0.001)
            else:
                {"ragged": fin, "reset": reset}[how](theirs, ours)
            with pytest.raises(OSError) as caught:  # noqa: PT011  # the type is compared below
                ours.recv(10)
            seen.append((our_lines(caught.value), repr(caught.value)))
            if guarded:
                assert (noted(registry, ours) is None) is (how == "timed out")
    assert seen[0] == seen[1]
