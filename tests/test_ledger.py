"""Which sockets were made for whom: noted at any instruction, never lost, never too many."""

from __future__ import annotations

import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.builders import a_record

from sockguard.ledger import Entry, Ledger
from sockguard.owners import Owner
from sockguard.records import SocketRecord

OWNER = Owner("test a")
MANY = 10_000


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket() as made:
        yield made


def a_ledger() -> Ledger:
    return Ledger(lambda: OWNER)


def an_open(sock: socket.socket) -> SocketRecord:
    return a_record(sock, fd=sock.fileno())


def records(entries: list[Entry]) -> list[SocketRecord]:
    return [entry.record for entry in entries]


class Interrupting:
    """A socket that takes its time to say whether it is open: just then something happens."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.happens: Callable[[], object] | None = None

    def fileno(self) -> int:
        happens, self.happens = self.happens, None
        if happens is not None:
            happens()
        return self._sock.fileno()


def an_interrupting(sock: socket.socket) -> tuple[Interrupting, SocketRecord]:
    slow = Interrupting(sock)
    return slow, a_record(slow, fd=sock.fileno())


def in_a_thread(work: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    return run


def test_a_socket_is_noted_for_who_is_worked_for_at_that_moment(sock):
    owners = [Owner("a"), Owner("b")]
    waiting = iter(owners)
    ledger = Ledger(lambda: next(waiting))
    noted = [an_open(sock), an_open(sock)]
    assert not ledger
    for record in noted:
        ledger.note(record)
    assert ledger
    assert [(entry.record, entry.owner) for entry in ledger.open()] == [
        *zip(noted, owners, strict=True)
    ]


def test_only_the_open_ones_are_told_and_the_others_let_go_of(sock):
    ledger = a_ledger()
    with socket.socket() as closed, socket.socket() as detached:
        noted = [an_open(one) for one in (closed, sock, detached)]
        for record in (*noted, a_record()):
            ledger.note(record)
        number = detached.detach()
    socket.close(number)
    assert records(ledger.open()) == [noted[1]]
    sock.close()
    assert ledger.open() == []
    assert not ledger


def test_what_was_told_is_forgotten_and_nothing_else(sock):
    ledger = a_ledger()
    noted = [an_open(sock) for _ in range(4)]
    for record in noted:
        ledger.note(record)
    told = ledger.open()
    ledger.forget([told[0], told[2]])
    assert records(ledger.open()) == [noted[1], noted[3]]
    ledger.forget([told[0]])
    ledger.forget([])
    assert records(ledger.open()) == [noted[1], noted[3]]


def test_it_keeps_no_socket_alive():
    ledger = a_ledger()
    made = socket.socket()
    record = an_open(made)
    ledger.note(record)
    made.close()
    del made
    assert record() is None


# -- bounded ---------------------------------------------------------------------------


def noted_by(ledger: Ledger) -> int:
    return len(ledger._open) + len(ledger._new)


def test_the_closed_ones_are_let_go_of_in_between(sock):
    ledger, kept = a_ledger(), an_open(sock)
    ledger.note(kept)
    for _ in range(5):
        for _ in range(MANY):
            ledger.note(a_record())
        assert noted_by(ledger) <= MANY + 1
    assert records(ledger.open()) == [kept]


def test_the_open_ones_are_all_kept_however_many(sock):
    ledger = a_ledger()
    noted = [an_open(sock) for _ in range(2 * MANY + 5)]
    for record in noted:
        ledger.note(record)
        ledger.note(a_record())
    assert noted_by(ledger) <= len(noted) + MANY + 1
    assert records(ledger.open()) == noted


# -- at any instruction ----------------------------------------------------------------


@pytest.mark.parametrize("other", [lambda work: work, in_a_thread], ids=["a handler", "a thread"])
@pytest.mark.parametrize("crowded", [False, True], ids=["a few", "too many"])
def test_a_note_in_the_midst_of_a_look_is_not_lost(crowded, other, sock):
    ledger = a_ledger()
    slow, first = an_interrupting(sock)
    late = [an_open(sock) for _ in range(3)]
    ledger.note(first)
    for _ in range(MANY - 1 if crowded else 3):
        ledger.note(a_record())

    def note_all() -> None:
        for record in late:
            ledger.note(record)

    slow.happens = other(note_all)
    ledger.open()
    assert slow.happens is None
    assert [record for record in records(ledger.open()) if record is not first] == late
    assert _noted_once(ledger)


@pytest.mark.parametrize("other", [lambda work: work, in_a_thread], ids=["a handler", "a thread"])
def test_a_note_in_the_midst_of_a_crowded_note_is_not_lost(other, sock):
    ledger = a_ledger()
    slow, first = an_interrupting(sock)
    late = [an_open(sock) for _ in range(3)]
    ledger.note(first)
    for _ in range(MANY - 1):
        ledger.note(a_record())

    def note_the_rest() -> None:
        for record in late[1:]:
            ledger.note(record)

    slow.happens = other(note_the_rest)
    ledger.note(late[0])  # one too many: the closed are let go of, and meanwhile …
    assert slow.happens is None
    assert [record for record in records(ledger.open()) if record is not first] == late
    assert _noted_once(ledger)


def _noted_once(ledger: Ledger) -> bool:
    noted = [*records(ledger._open), *(record for record, _ in ledger._new)]
    return len(noted) == len(set(map(id, noted)))


def test_threads_note_while_another_looks_and_forgets(sock):
    ledger, per_thread = a_ledger(), 4000
    noted: list[list[SocketRecord]] = [[] for _ in range(3)]

    def work(mine: list[SocketRecord]) -> None:
        for number in range(per_thread):
            if number % 4 == 0:
                mine.append(an_open(sock))
                ledger.note(mine[-1])
            else:
                ledger.note(a_record())

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=work, args=(mine,)) for mine in noted]
    try:
        for thread in threads:
            thread.start()
        told: list[SocketRecord] = []
        while any(thread.is_alive() for thread in threads):
            some = ledger.open()[:50]
            ledger.forget(some)
            told += records(some)
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    told += records(ledger.open())
    expected = {id(record) for mine in noted for record in mine}
    assert len(told) == len(expected)
    assert set(map(id, told)) == expected


def test_signal_handlers_note_while_the_program_looks_and_forgets(sock):
    ledger = a_ledger()
    noted: list[SocketRecord] = []

    def handler(*_: Any) -> None:
        noted.append(an_open(sock))
        ledger.note(noted[-1])

    told: list[SocketRecord] = []
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        while len(noted) < 200:
            for _ in range(50):
                ledger.note(a_record())
            some = ledger.open()[:3]
            ledger.forget(some)
            told += records(some)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    told += records(ledger.open())
    assert len(told) == len(noted)
    assert set(map(id, told)) == set(map(id, noted))
