"""Findings grouped by cause, counted exactly, published sparingly. Pure: no clock, no I/O."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Final

from sockguard.findings import LEAK, RESOLVED, Event, Finding, Kind, Leak

#: Events a group may publish before they thin out to one at each doubling.
FIRST_EVENTS: Final = 5
#: Causes held apart; findings of further ones are counted together.
MAX_GROUPS: Final = 1000
OTHER: Final = "other"


def is_published(count: int) -> bool:
    """Tell whether the ``count``-th event of a group goes out: the first five, 8, 16, 32, …"""
    return count <= FIRST_EVENTS or count & (count - 1) == 0


class Leaks:
    """The groups of one process: ``MAX_GROUPS`` at most and ``other``, with one example each."""

    def __init__(self) -> None:
        self._groups: dict[str, Leak] = {}
        #: Findings so far, by group and kind: a group may have more than one.
        self.counts: Counter[tuple[str, Kind]] = Counter()

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
            name=LEAK,
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

    def up_to_date(self, event: Event) -> Event:
        """Return ``event`` with its group's numbers of now: others may have come behind it."""
        group = self._group(event.finding)
        return replace(event, group_count=group.count, group_open=group.open)

    def groups(self) -> list[Leak]:
        """Return the groups, the largest first."""
        return sorted(self._groups.values(), key=lambda leak: -leak.count)
