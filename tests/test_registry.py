"""The table of tracked sockets: who is live, what a child inherits, how large it grows."""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator

import pytest
from support.builders import a_record, a_tracked

from sockguard.config import Config
from sockguard.guard import Guard
from sockguard.registry import MAX_COLLECTED, Registry, alive, fileno


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def guard() -> Iterator[Guard]:
    guard = Guard(Config(), watches=False)
    guard.start()
    yield guard
    guard.stop()


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket() as made:
        yield made


def live(registry: Registry) -> list[socket.socket]:
    return [sock for _, sock in registry.live()]


# -- one record -------------------------------------------------------------------------


def test_a_socket_is_alive_while_it_has_the_descriptor_it_was_filed_under(sock):
    record = a_record(sock, fd=sock.fileno())
    assert alive(record) is sock

    sock.close()
    assert alive(record) is None


def test_a_socket_that_let_go_of_its_descriptor_is_not_alive():
    sock = socket.socket()
    record = a_record(sock, fd=sock.fileno())
    with socket.socket(fileno=sock.detach()):
        assert alive(record) is None


def test_a_socket_that_was_freed_is_not_alive():
    assert alive(a_record()) is None


def test_the_descriptor_is_asked_of_the_c_class_past_an_override():
    class Liar(socket.socket):
        def fileno(self) -> int:
            raise AssertionError("the program's fileno() ran")

    with Liar() as sock:
        assert fileno(sock) == sock.detach() != -1
        assert fileno(sock) == -1


def test_an_object_of_another_class_is_asked_by_its_method(sock):
    class Green:  # as gevent's
        def fileno(self) -> int:
            return 12

    assert fileno(Green()) == 12


# -- who is live ------------------------------------------------------------------------


def test_live_is_every_open_socket_and_no_closed_one(registry):
    with socket.socket() as open_one, socket.socket() as closed:
        a_tracked(registry, open_one)
        a_tracked(registry, closed)
        closed.close()

        assert live(registry) == [open_one]
        assert len(registry.records()) == 2  # nothing is deleted


def test_a_socket_hidden_by_a_later_object_is_live_when_that_has_let_go(registry, sock):
    first = a_tracked(registry, sock)
    later = socket.socket(fileno=sock.fileno())
    a_tracked(registry, later, previous=first)

    assert live(registry) == [later]
    later.detach()
    assert live(registry) == [sock]


def test_a_socket_is_yielded_with_its_own_record(registry, sock):
    first = a_tracked(registry, sock)
    later = socket.socket(fileno=sock.fileno())
    a_tracked(registry, later, previous=first)
    later.detach()

    assert [(record, found) for record, found in registry.live()] == [(first, sock)]


def test_a_socket_is_still_live_after_any_number_of_objects_looked_at_its_descriptor(guard, sock):
    for _ in range(3):
        socket.socket(fileno=sock.fileno()).detach()

    assert live(guard._registry) == [sock]


def test_handing_one_descriptor_from_object_to_object_keeps_no_record_of_all(guard):
    watcher = guard._the_engine().watcher
    sock = socket.socket()
    for _ in range(50):
        older, sock = sock, socket.socket(fileno=sock.fileno())
        older.detach()
        watcher.tick()
        watcher.tick()
    record, kept = guard._registry.by_fd[sock.fileno()], 0
    while record is not None:
        record, kept = record.previous, kept + 1
    sock.close()

    assert kept <= 2


def test_a_socket_hidden_before_the_watcher_came_is_adopted_all_the_same(guard):
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    peer, _ = server.accept()
    socket.socket(fileno=client.fileno()).detach()
    watcher = guard._the_engine().watcher
    with server, client:
        watcher.tick()
        watcher.tick()
        peer.close()
        watcher.tick()
        watched = [case.record() for case in watcher._cases.values()]

    assert watched == [client]


# -- counts -----------------------------------------------------------------------------


def test_tracked_is_how_many_sockets_there_ever_were(registry, sock):
    assert registry.tracked() == 0
    for _ in range(3):
        a_tracked(registry, sock)
    assert registry.tracked() == 3


def test_the_freed_ones_that_wait_for_the_watcher_are_bounded(registry):
    record = a_record()
    for _ in range(MAX_COLLECTED + 10):
        registry.collected.append((record, None, 0))

    assert len(registry.collected) == MAX_COLLECTED


# -- fork -------------------------------------------------------------------------------


def test_a_child_begins_with_nothing_of_its_own_and_knows_what_it_inherited(registry, sock):
    record = a_tracked(registry, sock)
    registry.collected.append((record, None, 0))
    table = registry.by_fd

    registry.begin_child()

    assert live(registry) == []
    assert registry.inherited == {record.fd: record}
    assert registry.by_fd is table  # the hooks hold it
    assert (registry.newest, len(registry.collected)) == (None, 0)


def test_a_grandchild_knows_what_its_parent_and_its_grandparent_made(registry, sock):
    first = a_tracked(registry, sock)
    registry.begin_child()
    with socket.socket() as made_in_child:
        second = a_tracked(registry, made_in_child)
        registry.begin_child()

    assert registry.inherited == {first.fd: first, second.fd: second}


def test_a_child_counts_only_its_own_sockets(registry, sock):
    a_tracked(registry, sock)
    a_tracked(registry, sock)

    registry.begin_child()

    assert registry.tracked() == 0
    a_tracked(registry, sock)
    assert registry.tracked() == 1


def test_nothing_is_deleted_when_a_socket_dies(guard):
    sock = socket.socket()
    fd = sock.fileno()
    sock.close()
    del sock
    gc.collect()

    assert fd in guard._registry.by_fd
