"""Every socket of a pytest run, and for whom it was made: what is there from the first on.

To look at them, once one is left open, is the judge's: most runs need none, and with what it
looks with it takes 19 ms to load.
"""

from __future__ import annotations

from sockguard import guard
from sockguard.config import Config
from sockguard.ledger import Ledger
from sockguard.owners import Lineage
from sockguard.pytest_underway import capture_program
from sockguard.starters import Starters


class Sockets:
    """The hooks, and what they noted. Made when the first socket or thread is."""

    def __init__(self, config: Config, lineage: Lineage) -> None:
        self.ledger = Ledger(lineage.current)
        self.guard, self._give_back = guard.borrow(config, self.ledger.note, capture_program)
        try:
            self.starters = Starters(lineage)
        except BaseException:
            self._give_back()
            raise

    def close(self) -> None:
        self.starters.remove()
        self._give_back()
