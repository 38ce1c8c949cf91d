"""A record of a socket: what it reads as, and what it must not touch or keep."""

from __future__ import annotations

import gc
import socket
import threading
import weakref

import pytest
from support.builders import a_record

from sockguard.config import Config
from sockguard.guard import Guard
from sockguard.records import SocketRecord


class Touchy(socket.socket):
    """A program's socket that can't be compared or hashed."""

    def __eq__(self, other: object) -> bool:
        raise AssertionError("the program's __eq__ ran")

    def __ne__(self, other: object) -> bool:
        raise AssertionError("the program's __ne__ ran")

    def __hash__(self) -> int:
        raise AssertionError("the program's __hash__ ran")


@pytest.fixture
def touchy():
    with Touchy() as sock:
        yield sock


def test_what_nobody_has_noted_reads_as_none():
    with socket.socket() as sock:
        record = SocketRecord(sock)

        assert {getattr(record, name) for name in SocketRecord.__slots__} == {None}


def test_what_was_noted_is_read_back():
    record = a_record(fd=9, peer="10.0.0.9:1", accepted=True)

    assert (record.fd, record.peer, record.accepted) == (9, "10.0.0.9:1", True)


def test_a_name_that_a_record_has_not_is_an_error():
    with pytest.raises(AttributeError, match="colour"):
        a_record().colour  # noqa: B018  # the look itself is what raises


def test_a_record_has_room_for_nothing_else():
    with pytest.raises(AttributeError):
        a_record().colour = "red"


def test_records_of_one_socket_are_two_and_never_ask_the_program(touchy):
    one, other = a_record(touchy), a_record(touchy)

    assert len({one, other}) == 2
    assert one == one
    assert not one == other  # noqa: SIM201  # `==` is meant


def test_records_are_unequal_without_asking_the_program(touchy):
    one, other = a_record(touchy), a_record(touchy)

    assert one != other
    assert not one != one  # noqa: SIM202  # `!=` is meant


def test_a_record_of_a_dead_socket_can_still_be_compared_and_kept_in_a_set():
    one, other = a_record(), a_record()

    assert one() is None
    assert len({one, other, one}) == 2


@pytest.fixture
def guard():
    guard = Guard(Config(level="full"), watches=False, finalizes=True)
    guard.start()
    yield guard
    guard.stop()


def test_a_record_keeps_neither_its_socket_nor_the_thread_and_frame_that_made_it(guard):
    class Local:
        pass

    noted: list[weakref.ref] = []

    def make() -> None:
        local = Local()
        sock = socket.socket()
        noted.extend([weakref.ref(sock), weakref.ref(local)])
        sock.close()

    thread = threading.Thread(target=make, name="maker")
    thread.start()
    thread.join()
    noted.append(weakref.ref(thread))
    record = guard._registry.newest
    assert record is not None
    assert record.thread == "maker"
    del thread
    gc.collect()

    assert [ref() for ref in noted] == [None, None, None]
    assert record() is None
