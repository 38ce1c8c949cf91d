"""Findings grouped by cause: the counts are exact, the events are few."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.builders import SECOND, a_finding

from sockguard.findings import LEAK, RESOLVED, Kind, Verdict
from sockguard.leaks import MAX_GROUPS, OTHER, Leaks, is_published

FIRST_AND_DOUBLINGS = [1, 2, 3, 4, 5, 8, 16, 32, 64]


def totals(leaks: Leaks) -> dict[str, tuple[int, int, int]]:
    return {leak.fingerprint: (leak.count, leak.open, leak.resolved) for leak in leaks.groups()}


def test_the_first_five_and_then_each_doubling_are_published():
    assert [n for n in range(1, 101) if is_published(n)] == FIRST_AND_DOUBLINGS


def test_a_group_publishes_few_events_and_counts_every_finding():
    leaks = Leaks()
    events = [leaks.add(a_finding(serial=n)) for n in range(1, 101)]

    published = [event for event in events if event is not None]
    assert [event.group_count for event in published] == FIRST_AND_DOUBLINGS
    assert [event.finding.serial for event in published] == FIRST_AND_DOUBLINGS
    assert {event.name for event in published} == {LEAK}
    assert totals(leaks) == {"a1f39c000000": (100, 100, 0)}


def test_withdrawals_are_capped_by_their_own_count_and_counted_exactly():
    leaks = Leaks()
    findings = [a_finding(serial=n) for n in range(1, 101)]
    for finding in findings:
        leaks.add(finding)
    events = [leaks.resolve(finding, 200 * SECOND) for finding in findings[:70]]

    published = [event for event in events if event is not None]
    assert [event.finding.serial for event in published] == FIRST_AND_DOUBLINGS
    assert [event.group_open for event in published] == [100 - n for n in FIRST_AND_DOUBLINGS]
    assert {(event.name, event.group_count) for event in published} == {(RESOLVED, 100)}
    assert totals(leaks) == {"a1f39c000000": (100, 30, 70)}


def test_a_withdrawal_tells_how_long_after_the_fin_the_socket_stayed_open():
    leaks = Leaks()
    finding = a_finding(at_ns=100 * SECOND, since_fin_ns=60 * SECOND)
    leaks.add(finding)

    event = leaks.resolve(finding, 103 * SECOND)

    assert event is not None
    assert (event.open_ns, event.at_ns) == (63 * SECOND, 103 * SECOND)


def test_a_socket_freed_unclosed_is_counted_and_is_not_open():
    leaks = Leaks()
    leaks.add(a_finding(kind=Kind.COLLECTED))
    event = leaks.add(a_finding())

    assert event is not None
    assert (event.group_count, event.group_open) == (2, 1)
    assert totals(leaks) == {"a1f39c000000": (2, 1, 0)}


def test_a_group_is_described_by_its_first_finding_and_dated_by_first_and_last():
    leaks = Leaks()
    leaks.add(a_finding(serial=1, at_ns=5, verdict=Verdict.MAKEFILE))
    leaks.add(a_finding(serial=2, at_ns=9, kind=Kind.PEER_RESET))

    (leak,) = leaks.groups()

    assert leak.example.serial == 1
    assert (leak.kind, leak.verdict) == (Kind.PEER_CLOSED, Verdict.MAKEFILE)
    assert (leak.first_seen_ns, leak.last_seen_ns) == (5, 9)


def test_an_event_is_brought_up_to_date_with_what_came_behind_it():
    leaks = Leaks()
    event = leaks.add(a_finding(serial=1))
    for n in range(2, 8):
        leaks.add(a_finding(serial=n))
    leaks.resolve(a_finding(serial=7), 0)

    assert event is not None
    now = leaks.up_to_date(event)
    assert (now.finding.serial, now.group_count, now.group_open) == (1, 7, 6)


def test_the_largest_group_comes_first():
    leaks = Leaks()
    for name in ["a", "b", "b", "c", "c", "c"]:
        leaks.add(a_finding(fingerprint=name))

    assert [leak.fingerprint for leak in leaks.groups()] == ["c", "b", "a"]


@pytest.fixture
def full() -> Leaks:
    leaks = Leaks()
    for n in range(MAX_GROUPS):
        leaks.add(a_finding(fingerprint=f"cause {n}"))
    return leaks


def test_causes_beyond_the_bound_are_counted_together(full):
    for n in range(300):
        full.add(a_finding(fingerprint=f"late cause {n}"))
    full.add(a_finding(fingerprint="cause 7"))
    full.resolve(a_finding(fingerprint="late cause 299"), 0)
    full.resolve(a_finding(fingerprint="cause 8"), 0)

    counts = totals(full)
    assert len(counts) == MAX_GROUPS + 1
    assert counts[OTHER] == (300, 299, 1)
    assert counts["cause 7"] == (2, 2, 0)
    assert counts["cause 8"] == (1, 0, 1)
    assert sum(count for count, _, _ in counts.values()) == MAX_GROUPS + 301


NAMES = st.sampled_from(["a", "b", "c"])
KINDS = st.sampled_from(list(Kind))


@given(steps=st.lists(st.tuples(st.booleans(), NAMES, KINDS), max_size=60))
def test_counts_add_up_whatever_is_found_and_closed(steps):
    leaks = Leaks()
    found: Counter[str] = Counter()
    closed: Counter[str] = Counter()
    collected: Counter[str] = Counter()
    still_open = []
    said: Counter[tuple[str, str]] = Counter()
    for closes, name, kind in steps:
        if closes and still_open:
            finding = still_open.pop()
            closed[finding.fingerprint] += 1
            event = leaks.resolve(finding, 0)
        else:
            finding = a_finding(fingerprint=name, kind=kind)
            found[name] += 1
            if kind is Kind.COLLECTED:
                collected[name] += 1
            else:
                still_open.append(finding)
            event = leaks.add(finding)
        if event is not None:
            said[event.name, event.finding.fingerprint] += 1
    assert totals(leaks) == {
        name: (found[name], found[name] - collected[name] - closed[name], closed[name])
        for name in found
    }
    for (kind_of_event, name), times in said.items():
        happened = found[name] if kind_of_event == LEAK else closed[name]
        assert times == sum(is_published(n) for n in range(1, happened + 1))
