"""The fixture ``sockguard``: asks about the sockets of the running test."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

    from sockguard.findings import Finding
    from sockguard.pytest_session import Session


class Handle:
    """Asks for one test. With ``--no-sockguard`` there is no session: nothing is found."""

    def __init__(self, session: Session | None, item: pytest.Item) -> None:
        self._session = session
        self._item = item

    def leaks(self) -> list[Finding]:
        """Return the test's open sockets whose peer has closed, as they are at this moment."""
        session = self._session
        if session is None or not session.looks:
            return []
        judge, now = session.the_judge(), session.phases
        return judge.not_ignored(judge.leaking_now([now.owner], now.live()), now.settings)

    def check(self) -> None:
        """Fail now, as at the end of the test: after a collection and the settle time."""
        session = self._session
        if session is None or not session.looks:
            return
        judge, now = session.the_judge(), session.phases
        found = judge.leaking([now.owner], now.live(), now.settings.settle)
        leak = judge.verdict(found, now.owner, now.settings, None)
        if leak is not None:
            session.tell(self._item, leak)
            raise leak

    def expect(self, count: int) -> None:
        """Have the test pass with just ``count`` leaks at its end, and fail with any other."""
        if type(count) is not int or count < 0:
            raise ValueError(f"expect({count!r}): give the number of leaks, 0 or more")
        if self._session is not None:
            self._session.phases.expected = count

    def close_peers(self) -> int:
        """Close the far side of the test's connections, where it lives in this process.

        In production the peer closes at its own time, in a test it often outlives the test.
        Each far side gets ``shutdown(SHUT_RDWR)``: the near one receives a FIN. Where both
        ends are the test's, the one that was accepted is the far one; of a socket pair, the
        second. Returns how many connections that were.
        """
        session = self._session
        if session is None or not session.looks:
            return 0
        return session.the_judge().close_peers(session.phases.owner)
