"""Findings by the kernel's evidence alone, before anybody has looked for their holders."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from sockguard import detector, endpoints, narrate
from sockguard.cases import Case
from sockguard.config import Config
from sockguard.detector import Trouble
from sockguard.findings import Evidence, Finding
from sockguard.listeners import Listeners
from sockguard.observers import Observer
from sockguard.records import SocketRecord
from sockguard.registry import Collected, Registry, alive


class Draft(NamedTuple):
    """A finding that is yet to be explained, with what it is made of."""

    finding: Finding
    record: SocketRecord
    evidence: Evidence
    case: Case | None = None


class Drafter:
    """Makes drafts, unless the user asked to ignore them or telemetry made them. In the lock."""

    def __init__(self, config: Config, registry: Registry, observer: Observer) -> None:
        self._depth: Final = config.depth
        self._ignore: Final = [re.compile(pattern) for pattern in config.ignore]
        self._observer: Final = observer
        self._listeners: Final = Listeners(registry)

    def of_case(self, case: Case, now_ns: int) -> Draft | None:
        """Return what a case amounts to by its evidence; ``None`` if it is ignored or gone."""
        record = case.record
        sock = alive(record)
        if sock is None:
            # Its object has let go of the number, and the kernel has not: as it was found.
            return None if case.finding is None else Draft(case.finding, record, Evidence(), case)
        evidence = self._observer.evidence(sock, record)
        if alive(record) is None:  # closed while we looked: all that was another's number
            return None
        draft = self._narrate(record, case.trouble, evidence, now_ns)
        if draft is None:
            case.spared = True
            return None
        return draft._replace(case=case)

    def of_burial(self, freed: Collected, trouble: Trouble) -> Draft | None:
        """Return the finding that a socket freed unclosed is."""
        record = freed.record
        evidence = Evidence(local=endpoints.render(freed.local), peer=record.peer)
        return self._narrate(record, detector.collected(trouble), evidence, freed.at_ns)

    def _narrate(
        self, record: SocketRecord, trouble: Trouble, evidence: Evidence, now_ns: int
    ) -> Draft | None:
        listener = self._listeners.find(evidence.local, now_ns) if record.accepted else None
        finding = narrate.finding(
            record, trouble, evidence, listener, depth=self._depth, now_ns=now_ns
        )
        if narrate.is_ignored(finding, self._ignore) or narrate.is_telemetry(record, finding):
            return None
        return Draft(finding, record, evidence)
