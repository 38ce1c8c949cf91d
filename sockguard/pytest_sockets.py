"""Every socket of a pytest run, and for whom it was made: what is there from the first on.

To look at them, once one is left open, is the judge's. Most runs need none, and his modules
take as long to load as a hundred tests.
"""

from __future__ import annotations

from sockguard import guard
from sockguard.config import configured_for_tests
from sockguard.ledger import Ledger
from sockguard.owners import Lineage
from sockguard.pytest_underway import is_host
from sockguard.starters import Starters


class Sockets:
    """The hooks, and what they noted. Made when the first socket or thread is."""

    def __init__(self, lineage: Lineage) -> None:
        """Raises ``ConfigError`` for an environment or a file that can't be used."""
        self.lineage = lineage
        self.ledger = Ledger(lineage.current)
        self.guard, self._give_back = guard.borrow(
            configured_for_tests(), self.ledger.note, is_host
        )
        try:
            self.starters = Starters(lineage)
        except BaseException:
            self._give_back()
            raise

    def close(self) -> None:
        self.starters.remove()
        self._give_back()
