"""The numbers of a watcher that metrics are made of."""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import Final

from sockguard import endpoints
from sockguard.cases import Case
from sockguard.findings import Kind, Reading
from sockguard.leaks import Leaks
from sockguard.observers import Observer
from sockguard.records import TELEMETRY
from sockguard.registry import Registry
from sockguard.tcp import TcpState

# Ends of CLOSE_WAIT that nobody has read yet: the newest, not more.
MAX_ENDS: Final = 10_000


class Readings:
    """Counts when it is asked. In the watcher's lock."""

    def __init__(self, registry: Registry, observer: Observer, leaks: Leaks) -> None:
        self._registry = registry
        self._observer = observer
        self._leaks = leaks
        self._ends: deque[tuple[int, bool]] = deque(maxlen=MAX_ENDS)

    def note_end(self, case: Case, now_ns: int) -> None:
        """The socket was closed, leak or not. The exporter's own are nobody's business."""
        if case.trouble.kind is Kind.PEER_CLOSED and case.record.span is not TELEMETRY:
            self._ends.append((now_ns - case.trouble.fin_ns, case.finding is not None))

    def take(self, *, with_states: bool, cpu_ns: int) -> Reading:
        """Return the numbers of now; each end once."""
        began = time.thread_time_ns()
        states = self._states() if with_states else None
        ends = list(self._ends)
        self._ends.clear()
        cost_ns = time.thread_time_ns() - began
        return Reading(dict(self._leaks.counts), ends, cpu_ns, states, cost_ns)

    def _states(self) -> Counter[TcpState | None]:
        return Counter(
            seen.state
            for record, sock in self._registry.live()
            if record.span is not TELEMETRY
            and endpoints.is_stream(sock)
            and (seen := self._observer.observe(sock, record)) is not None
        )
