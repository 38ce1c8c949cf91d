"""The far side of a connection: found where it lives in this process, and closed."""

from __future__ import annotations

import select
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack

import pytest
import trustme
from support.hooked import hooks

from sockguard.peers import close, far_sides
from sockguard.records import SocketRecord
from sockguard.registry import Registry

PATIENCE_S = 10.0
Pair = tuple[socket.socket, socket.socket]


class Place:
    """Some sockets under the hooks, closed in the end."""

    def __init__(self, registry: Registry, stack: ExitStack) -> None:
        self._registry = registry
        self._stack = stack

    def keep(self, sock: socket.socket) -> socket.socket:
        sock.settimeout(PATIENCE_S)
        return self._stack.enter_context(sock)

    def connection(self, listener: socket.socket | None = None, **how: object) -> Pair:
        """Return the side that connects and the one that accepts."""
        listener = listener or self.keep(socket.create_server(("127.0.0.1", 0)))
        family = how.get("family", listener.family)
        near = self.keep(socket.socket(family))
        near.connect(how.get("address", listener.getsockname()))
        return near, self.keep(listener.accept()[0])

    def pair(self) -> Pair:
        near, far = socket.socketpair()
        return self.keep(near), self.keep(far)

    def records(self) -> list[SocketRecord]:
        return [record for record, _ in self._registry.live()]

    def of(self, socks: Iterable[socket.socket]) -> list[SocketRecord]:
        wanted = set(map(id, socks))
        return [record for record in self.records() if id(record()) in wanted]

    def found(self, *near: socket.socket) -> list[tuple[object, object]]:
        pairs = far_sides(self.of(near), self.records())
        return [(mine(), theirs()) for mine, theirs in pairs]


@pytest.fixture
def place() -> Iterator[Place]:
    with hooks() as registry, ExitStack() as stack:
        yield Place(registry, stack)


def test_the_far_side_of_a_tcp_connection_is_the_accepted_socket_or_the_connecting_one(place):
    near, far = place.connection()
    assert place.found(near) == [(near, far)]
    assert place.found(far) == [(far, near)]


def test_ipv6_has_far_sides_too(place):
    listener = place.keep(socket.create_server(("::1", 0), family=socket.AF_INET6))
    near, far = place.connection(listener)
    assert place.found(near) == [(near, far)]
    assert place.found(far) == [(far, near)]


def test_the_sides_may_differ_in_how_they_write_an_ipv4_address(place):
    listener = place.keep(socket.create_server(("127.0.0.1", 0)))
    mapped = (f"::ffff:{listener.getsockname()[0]}", listener.getsockname()[1])
    near, far = place.connection(listener, family=socket.AF_INET6, address=mapped)
    assert near.getpeername()[0] == "::ffff:127.0.0.1"
    assert far.getpeername()[0] == "127.0.0.1"
    assert place.found(near) == [(near, far)]
    assert place.found(far) == [(far, near)]


def test_a_socket_pair_is_a_connection(place):
    near, far = place.pair()
    assert place.found(near) == [(near, far)]
    assert place.found(far) == [(far, near)]


def test_clients_of_one_unix_path_are_told_apart(place, tmp_path):
    listener = place.keep(socket.socket(socket.AF_UNIX))
    listener.bind(str(tmp_path / "a"))
    listener.listen()
    pairs = [place.connection(listener) for _ in range(3)]
    for near, far in pairs:
        assert place.found(near) == [(near, far)]
        assert place.found(far) == [(far, near)]


def test_tls_has_far_sides_too(place):
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    near, far = place.connection()
    served: list[socket.socket] = []
    server = threading.Thread(
        target=lambda: served.append(context.wrap_socket(far, server_side=True))
    )
    server.start()
    near = place.keep(trusting.wrap_socket(near, server_hostname="localhost"))
    server.join()
    far = place.keep(served[0])
    assert place.found(near) == [(near, far)]
    close(place.of([far])[0])
    assert near.recv(10) == b""


def test_of_two_near_ends_the_one_that_connected_stays(place):
    near, far = place.connection()
    assert place.found(near, far) == [(near, far)]
    again = place.keep(socket.socket(fileno=near.detach()))  # as TLS does: the newest of all
    assert place.found(again, far) == [(again, far)]
    assert place.found(far, again) == [(again, far)]


def test_of_a_near_pair_the_first_stays(place):
    near, far = place.pair()
    assert place.found(far, near) == [(near, far)]


def test_connections_are_not_mixed_up(place):
    listeners = [place.keep(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
    first, second = (place.connection(listener) for listener in listeners)
    third, unix = place.connection(listeners[0]), place.pair()
    assert place.found(third[0], unix[1], first[0]) == [first, third, (unix[1], unix[0])]
    assert place.found(second[1], first[0]) == [first, (second[1], second[0])]


def test_who_has_no_far_side_is_left_out(place):
    near, far = place.connection()
    listener = place.keep(socket.create_server(("127.0.0.1", 0)))
    alone = [
        listener,
        place.keep(socket.socket()),
        place.keep(socket.socket(socket.AF_UNIX)),
        place.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)),
    ]
    waiting = place.keep(socket.create_connection(listener.getsockname()))  # never accepted
    assert place.found(*alone, waiting) == []
    assert place.found(*alone, waiting, near) == [(near, far)]


def test_datagrams_make_no_connection(place):
    ends = [place.keep(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(2)]
    for end in ends:
        end.bind(("127.0.0.1", 0))
    for end, other in zip(ends, reversed(ends), strict=True):
        end.connect(other.getsockname())
    assert place.found(*ends) == []


def test_a_closed_far_side_is_none(place):
    (near, far), (first, second) = place.connection(), place.pair()
    far.close()
    second.close()
    assert place.found(near, first) == []


def test_a_closed_near_side_has_none(place):
    near, _ = place.connection()
    mine = place.of([near])
    near.close()
    assert far_sides(mine, place.records()) == []


def test_the_far_side_in_another_process_is_none(place):
    listener = place.keep(socket.create_server(("127.0.0.1", 0)))
    code = "import socket, sys; s = socket.create_connection(sys.argv[1:]); sys.stdin.read()"
    command = [sys.executable, "-I", "-S", "-c", code, *map(str, listener.getsockname())]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        listener.settimeout(PATIENCE_S)
        near = place.keep(listener.accept()[0])
        assert place.found(near) == []
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("of", ["near", "far"])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_duplicate_of_an_end_does_not_hide_it(of, kind, place):
    near, far = place.connection() if kind == "tcp" else place.pair()
    other = place.keep((near if of == "near" else far).dup())
    ((mine, theirs),) = place.found(near)
    assert mine is near
    assert theirs in {"near": [far], "far": [far, other]}[of]


def test_an_end_and_its_duplicate_are_one_connection(place):
    near, far = place.connection()
    other = place.keep(near.dup())
    ((mine, theirs),) = place.found(near, other)
    assert mine in (near, other)
    assert theirs is far


# -- closing ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_closing_gives_the_near_side_an_end_and_leaves_the_far_object_open(kind, place):
    near, far = place.connection() if kind == "tcp" else place.pair()
    far.sendall(b"last words")
    fd = far.fileno()
    close(place.of([far])[0])
    assert (near.recv(100), near.recv(100)) == (b"last words", b"")
    assert far.fileno() == fd


def test_closing_wakes_who_reads_there(place):
    _, far = place.connection()
    far.setblocking(True)
    heard: list[bytes] = []
    reader = threading.Thread(target=lambda: heard.append(far.recv(10)), daemon=True)
    reader.start()
    close(place.of([far])[0])
    reader.join(PATIENCE_S)
    assert heard == [b""]


def test_closing_runs_no_method_of_the_program(place):
    class Own(socket.socket):
        def shutdown(self, how: int) -> None:
            raise AssertionError("shutdown of the program was called")

    near, far = place.connection()
    own = place.keep(Own(fileno=far.detach()))
    close(place.of([own])[0])
    assert near.recv(10) == b""


def test_closing_what_is_closed_reset_or_alone_is_nothing(place):
    near, far = place.connection()
    record = place.of([far])[0]
    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    near.close()
    poll = select.poll()
    poll.register(far, 0)  # a reset needs no asking
    assert poll.poll(PATIENCE_S * 1000)
    close(record)
    close(record)
    far.close()
    close(record)
    alone = place.keep(socket.socket())
    close(place.of([alone])[0])
    assert alone.fileno() != -1
