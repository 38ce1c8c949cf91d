"""Which sockets were made for whom, while they are open."""

from __future__ import annotations

from _thread import allocate_lock
from collections.abc import Callable
from typing import Final

from sockguard.owners import Owner
from sockguard.records import SocketRecord
from sockguard.registry import alive

# A test may open a million sockets: the closed ones among them are let go of in between.
_MANY: Final = 10_000


class Entry:
    """A socket and whoever it was made for, or has been given to."""

    __slots__ = ("owner", "record")

    def __init__(self, record: SocketRecord, owner: Owner) -> None:
        self.record = record
        self.owner = owner


class Ledger:
    """``note`` runs in any thread, at any instruction, and waits for no lock. The rest in one."""

    def __init__(self, current: Callable[[], Owner]) -> None:
        self._current = current
        self._noted: list[Entry] = []
        self._limit = _MANY
        self._pruning = allocate_lock()

    def note(self, record: SocketRecord) -> None:
        noted = self._noted
        noted.append(Entry(record, self._current()))
        # Who comes in the midst of another's look goes on at once: a later one will have time.
        if len(noted) > self._limit and self._pruning.acquire(False):
            try:
                self._prune()
                self._limit = len(noted) + _MANY
            finally:
                self._pruning.release()

    def _prune(self) -> list[Entry]:
        # Other threads append meanwhile: what they add lies behind what is looked at here.
        looked_at = self._noted[:]
        still_open = [entry for entry in looked_at if alive(entry.record) is not None]
        self._noted[: len(looked_at)] = still_open
        return still_open

    def __bool__(self) -> bool:
        return bool(self._noted)

    def open(self) -> list[Entry]:
        """Return the entries whose socket is open; the others are let go of."""
        with self._pruning:
            return self._prune()

    def forget(self, told: list[Entry]) -> None:
        """Let go of entries: each socket is told of once."""
        gone = set(map(id, told))
        with self._pruning:
            looked_at = self._noted[:]
            self._noted[: len(looked_at)] = [e for e in looked_at if id(e) not in gone]
