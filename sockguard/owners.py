"""Who a socket is made for: the test, or the fixture, that started what makes it.

Told by the context of the running code (tasks and nurseries inherit it), by the job of an
executor, by who started the thread, and at last by what runs now.
"""

from __future__ import annotations

import threading
import weakref
from _thread import get_ident
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any


class Owner:
    """A test or a fixture, for as long as it runs.

    ``name`` is for people, ``key`` for files: the same in every run. ``scope`` is how wide:
    0 for a test, more for a class, a module, a package, the session.
    """

    __slots__ = ("_key", "_who", "root", "scope", "spared")

    def __init__(self, who: Any, key: str | None = None, scope: int = 0) -> None:
        """``who``: a name, or a test with its ``nodeid``, which costs 20 µs to ask for."""
        self._who = who
        self._key = key
        self.scope = scope
        #: Its sockets are nobody's business (``enabled=False``).
        self.spared = False
        #: Returns what the owner keeps, for a search.
        self.root: Callable[[], object] | None = None

    @property
    def name(self) -> str:
        return str(getattr(self._who, "nodeid", self._who))

    @property
    def key(self) -> str:
        return self._key or self.name


class Lineage:
    """Says for whom the running code works. ``current`` may be asked in any thread.

    Costs a look into a context variable; where that is unset, two dictionaries, which
    ``starters`` fills.
    """

    def __init__(self, nobody: Owner) -> None:
        self.phase = nobody
        self.context: ContextVar[Owner | None] = ContextVar("sockguard_owner", default=None)
        #: By identity, for a thread may be anything but hashable.
        self.threads: dict[int, tuple[weakref.ref[threading.Thread], Owner]] = {}
        #: By thread.
        self.jobs: dict[int, Owner] = {}

    def current(self) -> Owner:
        return self.context.get() or self._current_elsewhere()

    def _current_elsewhere(self) -> Owner:
        ident = get_ident()
        owner = self.jobs.get(ident)
        if owner is None:
            thread = threading._active.get(ident)  # type: ignore[attr-defined]  # noqa: SLF001
            known = self.threads.get(id(thread))
            owner = self.phase if known is None or known[0]() is not thread else known[1]
        return owner

    def begin(self, owner: Owner) -> None:
        """From here on, until the next call, this context works for ``owner``."""
        self.phase = owner
        self.context.set(owner)

    @contextmanager
    def working_for(self, owner: Owner) -> Iterator[None]:
        before = self.phase
        self.phase = owner
        token = self.context.set(owner)
        try:
            yield
        finally:
            self.phase = before
            self.context.reset(token)

    def forget_ended_threads(self) -> None:
        # Other threads start some meanwhile, perhaps on the place of one that is gone.
        for key, known in self.threads.copy().items():
            if _is_gone(known[0]()) and self.threads.get(key) is known:
                self.threads.pop(key, None)


def _is_gone(thread: threading.Thread | None) -> bool:
    return thread is None or (thread.ident is not None and not threading.Thread.is_alive(thread))
