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
        self._new: list[tuple[SocketRecord, Owner]] = []
        self._open: list[Entry] = []
        self._pruning = allocate_lock()
        self.note: Final = self._notes(current)

    def _notes(self, current: Callable[[], Owner]) -> Callable[[SocketRecord], None]:
        # A closure: names at hand are half the price of attributes.
        new, pruning, prune = self._new, self._pruning, self._prune

        def note(record: SocketRecord) -> None:
            new.append((record, current()))
            # Who comes in the midst of another's look goes on at once: a later one has time.
            if len(new) > _MANY and pruning.acquire(False):
                try:
                    prune()
                finally:
                    pruning.release()

        return note

    def _prune(self) -> None:
        # Other threads append meanwhile: what they add lies behind what is looked at here.
        new = self._new[:]
        self._open = [entry for entry in self._open if alive(entry.record) is not None]
        self._open += [Entry(record, owner) for record, owner in new if alive(record) is not None]
        del self._new[: len(new)]

    def __bool__(self) -> bool:
        """Tell whether one is open."""
        return bool((self._new or self._open) and self.open())

    def open(self) -> list[Entry]:
        """Return the entries whose socket is open; the others are let go of."""
        with self._pruning:
            self._prune()
            return self._open

    def forget(self, told: list[Entry]) -> None:
        """Let go of entries: each socket is told of once."""
        gone = set(map(id, told))
        with self._pruning:
            self._prune()
            self._open = [entry for entry in self._open if id(entry) not in gone]
