"""Several descriptors of one kernel socket are one finding, open until the last is closed."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator

import pytest

import sockguard
from sockguard.guard import Guard
from sockguard.watcher import Watcher

SECOND = 1_000_000_000


@pytest.fixture
def guard() -> Iterator[Guard]:
    with sockguard.watch(threshold=1.0) as watching:
        assert isinstance(watching, Guard)
        yield watching


@pytest.fixture
def watcher(guard: Guard) -> Watcher:
    return guard._the_engine().watcher


@pytest.fixture
def dead(guard: Guard) -> Iterator[socket.socket]:
    """A connection whose peer has closed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        with accepted:
            client.close()
            select.select([accepted], [], [], 10)
            yield accepted


def leaked(watcher: Watcher) -> list[tuple[int, int, int]]:
    return [(leak.count, leak.open, leak.resolved) for leak in watcher.leaks.groups()]


def tick_until_leaked(watcher: Watcher) -> int:
    now = time.monotonic_ns() + 10 * SECOND
    for _ in range(3):  # it outlives a tick, is adopted, is found
        watcher.tick(now)
        now += SECOND
    return now


def test_a_duplicate_made_after_the_leak_keeps_it_open(watcher, dead):
    now = tick_until_leaked(watcher)
    assert leaked(watcher) == [(1, 1, 0)]
    with dead.dup():
        dead.close()
        watcher.tick(now)
        watcher.tick(now + SECOND)
        assert leaked(watcher) == [(1, 1, 0)]
    watcher.tick(now + 2 * SECOND)
    assert leaked(watcher) == [(1, 0, 1)]


def test_a_leak_that_lives_on_in_a_duplicate_is_not_late_at_exit_as_well(watcher, dead):
    now = tick_until_leaked(watcher)
    with dead.dup():
        dead.close()
        for later in range(3):  # the duplicate is adopted, and in trouble by itself
            watcher.tick(now + later * SECOND)
        summary = watcher.summarize()
        assert [(group.count, group.open) for group in summary.groups] == [(1, 1)]
        assert summary.open_at_exit == ()


def test_a_guard_that_was_taken_out_says_so_and_opens_nothing():
    with sockguard.watch() as guard:
        assert guard.check() == []
    with pytest.raises(RuntimeError, match="taken out"):
        guard.check()


@pytest.mark.parametrize("threshold", [-1, float("nan"), "x"])
def test_a_threshold_that_cannot_be_used_is_told(guard, threshold):
    with pytest.raises(sockguard.ConfigError, match="threshold"):
        guard.check(threshold)


def test_the_age_of_an_end_is_the_kernels_word_only_where_it_has_one(guard, dead):
    left, right = socket.socketpair()
    with left:
        right.close()
        dated = {finding.fd: finding.dated for finding in guard.check(threshold=0)}
        assert dated == {dead.fileno(): True, left.fileno(): False}
