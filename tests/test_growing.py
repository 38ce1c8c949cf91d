"""How fast real leaks grow, and when no descriptor is left: told with the time passed in."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack

import pytest
from support.builders import SECOND
from support.connections import abandoned
from support.hooked import hooks

from sockguard import descriptors
from sockguard.config import Config
from sockguard.exporters import wording
from sockguard.findings import Event
from sockguard.observers import build, tcp_info
from sockguard.watcher import Watcher

EVERY_S = 5


def grow(count: int, still: int = 0) -> tuple[list[Event], Watcher]:
    """Leak one socket every five seconds, then none for ``still`` seconds; return the events."""
    published: list[Event] = []

    def publish(events: Sequence[Event]) -> None:
        published.extend(events)

    with hooks() as registry, ExitStack() as kept:
        observer = build("portable")
        kept.callback(observer.close)
        config = Config(threshold=1.0, explain=0.0)
        watcher = Watcher(config, registry, observer, tcp_info.decode, publish)
        kept.callback(watcher.close)
        now = time.monotonic_ns()
        for _ in range(count):
            kept.enter_context(abandoned())
            now += EVERY_S * SECOND
            watcher.tick(now_ns=now)
        for _ in range(still // EVERY_S):
            now += EVERY_S * SECOND
            watcher.tick(now_ns=now)
        return published, watcher


def test_an_event_says_how_fast_its_group_grows_and_when_no_descriptor_is_left():
    events, watcher = grow(20)
    first, last = events[0], events[-1]
    assert (first.trend, first.limit_in_ns) == (None, None)  # too early to say
    assert last.group_count == 16
    assert last.trend is not None
    assert last.trend.per_hour == pytest.approx(3600 / EVERY_S, rel=0.1)
    limit, used = descriptors.limit(), descriptors.count()
    if limit is not None and used is not None:
        assert last.limit_in_ns is not None
        left_s = (limit - used) * EVERY_S
        assert last.limit_in_ns / SECOND == pytest.approx(left_s, rel=0.15)
        assert "no descriptor is left in" in "\n".join(wording.leak(last, 1, None))
    (group,) = watcher.summarize().groups
    assert group.trend == watcher.leaks.trend(group.fingerprint)


def test_a_group_that_has_stopped_growing_is_called_steady_in_the_end():
    _, watcher = grow(12, still=1800)
    (group,) = watcher.summarize().groups
    assert group.trend is not None
    assert group.trend.per_hour == 0
    assert "steady" in "\n".join(wording.summary(watcher.summarize()))
