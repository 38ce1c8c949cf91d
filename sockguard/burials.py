"""Sockets that were freed without a close: had their peer gone before?"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from sockguard import detector
from sockguard.cases import Case
from sockguard.detector import Trouble
from sockguard.findings import Observation
from sockguard.records import SocketRecord
from sockguard.registry import Collected, Registry, alive

#: Such that ``check`` may still ask for: the newest, not more.
MAX_BURIED: Final = 1000

Burial = tuple[Collected, Trouble]


class Burials:
    """Takes in what the finalizer has noted (level `full`). In the watcher's lock."""

    def __init__(self, registry: Registry, decode: Callable[[bytes], Observation]) -> None:
        self._registry = registry
        self._decode = decode
        self._buried: deque[Burial] = deque(maxlen=MAX_BURIED)
        self._dying: dict[SocketRecord, Collected] = {}
        #: All that were freed unclosed, healthy ones included.
        self.count = 0

    def take_in(self, cases: dict[int, Case]) -> list[Burial]:
        """Return those freed since the last call whose peer had gone; their cases end."""
        collected = self._registry.collected
        dying, self._dying = self._dying, {}
        collected.extend(dying.values())
        fresh: list[Burial] = []
        while collected:
            freed = collected.popleft()
            record, info, _, at_ns = freed
            if alive(record) is not None:
                # Somebody looked at its __del__; or another thread is in the midst of
                # freeing it: then it is gone at the next look.
                if record not in dying:
                    self._dying[record] = freed
                continue
            self.count += 1
            if info is None or _was_found(record, cases):
                continue  # it ends by itself
            case = cases.get(record.serial)
            before = cases.pop(record.serial).trouble if case is not None else None
            trouble = detector.follow(record, before, self._decode(info), now_ns=at_ns)
            if trouble is not None:
                fresh.append((freed, trouble))
        self._buried.extend(fresh)
        return fresh

    def untold(self) -> Iterator[Burial]:
        """Yield, once each, those that nobody has asked for yet."""
        while self._buried:
            yield self._buried.popleft()


def _was_found(record: SocketRecord | None, cases: dict[int, Case]) -> bool:
    """Tell whether a socket is a leak already, perhaps by an earlier object of its."""
    while record is not None:
        case = cases.get(record.serial)
        if case is not None and case.finding is not None:
            return True
        record = record.previous
    return False
