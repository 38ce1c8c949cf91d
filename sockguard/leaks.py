"""Findings grouped by cause, counted exactly, published sparingly. Pure: no clock, no I/O."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Final

from sockguard.findings import LEAK, RESOLVED, Event, Finding, Kind, Leak
from sockguard.growth import Growth, Trend

#: Events a group may publish before they thin out to one at each doubling.
FIRST_EVENTS: Final = 5
#: Causes held apart; findings of further ones are counted together.
MAX_GROUPS: Final = 1000
OTHER: Final = "other"
#: So often the counts are noted, to see how they grow.
NOTE_EVERY_NS: Final = 5_000_000_000


def is_published(count: int) -> bool:
    """Tell whether the ``count``-th event of a group goes out: the first five, 8, 16, 32, …"""
    return count <= FIRST_EVENTS or count & (count - 1) == 0


class Leaks:
    """The groups of one process: ``MAX_GROUPS`` at most and ``other``, with one example each."""

    def __init__(self, name: str = LEAK) -> None:
        """``name`` of the events that ``add`` returns."""
        self._name = name
        self._groups: dict[str, Leak] = {}
        #: Findings so far, by group and kind: a group may have more than one.
        self.counts: Counter[tuple[str, Kind]] = Counter()
        #: How all that are open together grow.
        self.growth = Growth()
        self._growths: dict[str, Growth] = {}
        self._noted_ns: int | None = None

    def _group(self, finding: Finding) -> Leak:
        name = finding.fingerprint
        if name not in self._groups and len(self._groups) >= MAX_GROUPS:
            name = OTHER
        group = self._groups.get(name)
        if group is None:
            group = Leak(fingerprint=name, example=finding, first_seen_ns=finding.at_ns)
            self._groups[name] = group
        return group

    def add(self, finding: Finding) -> Event | None:
        """Count a new finding; return its event unless the group has said enough."""
        group = self._group(finding)
        group.count += 1
        self.counts[group.fingerprint, finding.kind] += 1
        group.open += finding.kind is not Kind.COLLECTED  # that one is gone already
        group.last_seen_ns = finding.at_ns
        if not is_published(group.count):
            return None
        return Event(
            name=self._name,
            finding=finding,
            at_ns=finding.at_ns,
            group_count=group.count,
            group_open=group.open,
            overflow=group.fingerprint == OTHER,
        )

    def resolve(self, finding: Finding, at_ns: int) -> Event | None:
        """Count a finding's socket as closed; return the event unless capped."""
        group = self._group(finding)
        group.open -= 1
        group.resolved += 1
        if not is_published(group.resolved):
            return None
        return Event(
            name=RESOLVED,
            finding=finding,
            at_ns=at_ns,
            group_count=group.count,
            group_open=group.open,
            open_ns=finding.since_fin_ns + at_ns - finding.at_ns,
            overflow=group.fingerprint == OTHER,
        )

    def note(self, now_ns: int) -> None:
        """Note how many are open, now and then: 1 µs a group."""
        if self._noted_ns is not None and now_ns - self._noted_ns < NOTE_EVERY_NS:
            return
        self._noted_ns = now_ns
        for name, group in self._groups.items():
            self._growths.setdefault(name, Growth()).note(now_ns, group.open)
        self.growth.note(now_ns, sum(group.open for group in self._groups.values()))

    def trend(self, name: str) -> Trend | None:
        """Return how a group grows; ``None`` while that can't be said."""
        growth = self._growths.get(name)
        return None if growth is None else growth.trend()

    def up_to_date(self, event: Event) -> Event:
        """Return ``event`` with its group's numbers of now: others may have come behind it."""
        group = self._group(event.finding)
        trend = self.trend(group.fingerprint)
        return replace(event, group_count=group.count, group_open=group.open, trend=trend)

    def groups(self) -> list[Leak]:
        """Return the groups, the largest first."""
        return sorted(self._groups.values(), key=lambda leak: -leak.count)
