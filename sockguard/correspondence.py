"""The other ends of leaked connections: those of guarded processes are asked for, in time.

Where a socket was made only its own process knows. So it is asked as soon as there is
trouble, and has answered, at its next tick, before the threshold is over.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from sockguard.exchange import Exchange
from sockguard.farend import FarEnds
from sockguard.findings import FarEnd, Origin
from sockguard.records import SocketRecord
from sockguard.registry import Registry

#: Connections whose other end is looked for in one tick.
MAX_ASKED: Final = 4
#: Answers that are kept; the oldest goes.
MAX_ANSWERS: Final = 256


class Correspondence:
    """Finds far ends, asks and answers. One thread at a time; raises nothing."""

    def __init__(self, registry: Registry, depth: int) -> None:
        self._far_ends = FarEnds(registry, depth)
        self._exchange = Exchange()
        self._answers: dict[int, Origin] = {}

    def turn(self, troubled: Iterable[SocketRecord]) -> None:
        """Answer what others ask; ask for the far ends of ``troubled``. Once a tick: 5 µs."""
        self._exchange.answer_all(self._far_ends.origin_of)
        self._answers |= self._exchange.answers()
        while len(self._answers) > MAX_ANSWERS:
            del self._answers[next(iter(self._answers))]
        for record in troubled:
            far = self._far_ends.find(record)
            if far is not None and far.created is None and far.pid is not None:
                self._exchange.ask(far.pid, far.inode or 0, far.fd or 0)

    def far_end(self, record: SocketRecord) -> FarEnd | None:
        """Return the far end of a connection, with where it was made if that was answered."""
        far = self._far_ends.find(record)
        if far is not None and far.created is None and far.inode in self._answers:
            return replace(far, created=self._answers[far.inode])
        return far

    def close(self) -> None:
        """Give back the descriptor."""
        self._exchange.close()
