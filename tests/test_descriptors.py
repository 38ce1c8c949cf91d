"""Our own descriptors: out of the program's way, and never mistaken for the program's."""

from __future__ import annotations

import fcntl
import os
import resource
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from sockguard import descriptors
from sockguard.config import Config
from sockguard.guard import Guard
from sockguard.observers.epoll import EpollSet


def lowest_free() -> int:
    """Return the number that the program's next open() gets."""
    fd = os.open(os.devnull, os.O_RDONLY)
    os.close(fd)
    return fd


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def test_a_moved_descriptor_is_the_same_open_file_at_a_high_number(tmp_path: Path) -> None:
    low = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    before = descriptors.identity(low)
    high = descriptors.move_high(low)
    try:
        assert high >= descriptors.HIGH
        assert descriptors.identity(high) == before
        assert descriptors.identity(low) is None
        assert fcntl.fcntl(high, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    finally:
        os.close(high)


def test_a_descriptor_stays_where_the_limit_leaves_no_room_above(file: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors.HIGH, hard))
    try:
        assert descriptors.move_high(file) == file
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert descriptors.identity(file) is not None


def test_an_identity_is_of_the_file_and_not_of_the_number(tmp_path: Path, file: int) -> None:
    twin = os.dup(file)
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    try:
        mine = descriptors.identity(file)
        assert descriptors.identity(twin) == mine
        os.dup2(other, twin)  # the number now belongs to another file
        assert descriptors.identity(twin) not in (mine, None)
    finally:
        os.close(twin)
        os.close(other)


def test_a_closed_descriptor_has_no_identity() -> None:
    assert descriptors.identity(lowest_free()) is None


@pytest.mark.parametrize("observer", ["epoll", "portable"])
def test_a_guard_leaves_the_low_numbers_to_the_program_and_gives_all_back(
    tmp_path: Path, observer: str
) -> None:
    before, low = open_descriptors(), lowest_free()
    config = Config(output=str(tmp_path / "leaks.jsonl"), observer=observer, quiet=True)
    guard = Guard(config, watches=True)
    guard.start()
    try:
        ours = {int(fd) for fd in open_descriptors() - before if os.path.exists(f"/dev/fd/{fd}")}
        assert ours
        assert min(ours) >= descriptors.HIGH
        assert lowest_free() == low
    finally:
        guard.stop()
    assert open_descriptors() == before


@pytest.fixture
def epoll_set() -> Iterator[EpollSet]:
    found = open_descriptors()
    watched = EpollSet()
    yield watched
    for fd in open_descriptors() - found:
        if os.path.exists(f"/dev/fd/{fd}"):
            os.close(int(fd))


def numbers(watched: EpollSet) -> tuple[int, int]:
    return watched._sentinel, watched._epoll.fileno()


def test_an_epoll_knows_when_one_of_its_numbers_was_closed_or_became_a_file(
    epoll_set: EpollSet, file: int
) -> None:
    assert epoll_set.is_ours()
    sentinel, epoll = numbers(epoll_set)
    kept = os.dup(epoll)
    os.dup2(file, epoll)
    assert not epoll_set.is_ours()
    os.close(epoll)
    assert not epoll_set.is_ours()
    os.dup2(kept, epoll)
    os.close(kept)
    assert epoll_set.is_ours()
    os.dup2(file, sentinel)
    assert not epoll_set.is_ours()


def test_an_epoll_that_lost_its_numbers_leaves_them_to_their_new_owner(file: int) -> None:
    watched = EpollSet()
    sentinel, epoll = numbers(watched)
    os.dup2(file, sentinel)
    os.dup2(file, epoll)
    try:
        watched.close()
        del watched  # freed, the epoll object would close its number
        mine = descriptors.identity(file)
        assert descriptors.identity(sentinel) == descriptors.identity(epoll) == mine
    finally:
        os.close(sentinel)
        os.close(epoll)


def test_an_epoll_of_the_programs_under_our_number_is_not_touched(epoll_set: EpollSet) -> None:
    sentinel, number = numbers(epoll_set)
    reader, writer = os.pipe()
    os.dup2(reader, sentinel)
    with select.epoll() as theirs:
        theirs.register(sentinel, select.EPOLLIN)
        os.dup2(theirs.fileno(), number)
        assert not epoll_set.is_ours()
        os.write(writer, b"!")
        assert theirs.poll(10) == [(sentinel, select.EPOLLIN)]  # watched as before
    os.close(reader)
    os.close(writer)
