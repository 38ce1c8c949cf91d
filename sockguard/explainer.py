"""Explains cases: who holds the socket, which pool or queue it is in, where the holder waits.

A search of the heap is dear, so one of a group is enough, and another when the group has
doubled. Sockets of a pool that was met before are found from the pool, for nothing.
"""

from __future__ import annotations

import gc
import os
import time
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from sockguard import circumstances, handlers, paths, pools
from sockguard.findings import HeldBy, Holding, PoolUse
from sockguard.holders import Heap, RootKind, Search
from sockguard.poolkinds import KINDS, Census, PoolKind
from sockguard.records import SocketRecord
from sockguard.registry import alive

#: Paths that a finding tells.
MAX_TOLD: Final = 3
#: Pools known at a time; sites whose pools are counted.
MAX_KNOWN_POOLS: Final = 1000
#: Searches may take so much of the time in the long run, after a first allowance.
SHARE: Final = 0.02
ALLOWANCE_NS: Final = 1_000_000_000

# How long it is remembered which sockets were idle in which pool; it is looked at again then.
_FRESH_NS: Final = 50_000_000

# Packages that keep pools: the first word of their classes' paths.
_POOLING: Final = {path.partition(".")[0] for kind in KINDS for path in kind.classes}


class _Known(NamedTuple):
    """A pool that a search has met."""

    reference: weakref.ref[Any]
    kind: PoolKind


class Explainer:
    """One process's. Not two threads at a time. Keeps no object of the program alive."""

    def __init__(
        self,
        gives_up: Callable[[], bool] = lambda: False,
        clock: Callable[[], int] = time.monotonic_ns,
        *,
        most_ns: int,
        depth: int,
    ) -> None:
        """``most_ns``: of one search; 0 looks for no holder at all."""
        self._gives_up = gives_up
        self._clock = clock
        self._most_ns = most_ns
        self._depth = depth
        self._heap = Heap()
        self._known: dict[int, _Known] = {}
        #: By ``id`` of a socket that was idle in one, at ``_looked_ns``.
        self._idle: dict[int, _Known] = {}
        self._looked_ns = self._swept_ns = clock() - _FRESH_NS
        #: Sockets that were not idle in their pool at a look, though idle for long: by serial.
        self._doubted: dict[int, None] = {}
        self._met: Counter[str] = Counter()
        #: By line and destination: the pools that keep troubled sockets.
        self._sites: defaultdict[tuple[str, str | None], dict[int, weakref.ref[Any]]] = defaultdict(
            dict
        )
        self._credit_ns = ALLOWANCE_NS
        self._paid_ns = clock()

    def explain(
        self, record: SocketRecord, fingerprint: str, *, anew: bool = False, asked: bool = False
    ) -> Holding | None:
        """Return who holds a socket; ``None`` if that is not to be looked for.

        ``anew``: as the first of its group. ``asked``: somebody waits for the answer, whatever
        it takes; else raises ``NotNowError`` where searches have taken too much already. Up to
        ``most_ns``, the GIL let go between steps. The caller has no reference to the socket:
        they are counted.
        """
        if alive(record) is None:
            return None
        met = self._met[fingerprint] = self._met[fingerprint] + 1
        credit_ns = ALLOWANCE_NS if asked else self._credit()
        # A new cause, or one whose pools become many, is not to wait for those that are known.
        is_urgent = met & (met - 1) == 0 or len(self._sites[fingerprint, record.peer]) > 1
        may_sweep = credit_ns > (-ALLOWANCE_NS if is_urgent else 0)
        use = self._idle_in_a_pool(record, fingerprint, may_sweep=may_sweep)
        # Of what is normal one search tells where such pools are; of what is not, or is in no
        # pool, every doubling. Searches leave some of the allowance to sweeps.
        is_due = met == 1 if use is not None and use.is_normal else met & (met - 1) == 0
        if not self._most_ns or not (anew or is_due) or credit_ns < ALLOWANCE_NS // 4:
            if use is None and not asked and not self._is_in_no_pool(record):
                self._met[fingerprint] -= 1
                raise NotNowError
            return None if use is None else _of_pool(use)
        began = time.thread_time_ns()
        try:
            holding = self._search(record, fingerprint)
        finally:
            self._credit_ns -= 0 if asked else time.thread_time_ns() - began
        if holding.pool is None or not holding.pool.is_idle:
            # The program goes on meanwhile: what it has just taken or put back proves nothing.
            self._looked_ns -= _FRESH_NS
            use = self._idle_in_a_pool(record, fingerprint, may_sweep=False)
            return holding if use is None else _of_pool(use)
        return holding

    def _is_in_no_pool(self, record: SocketRecord) -> bool:
        """Tell whether a socket is of no pool, or was found not idle twice."""
        if not _may_be_of_a_pool(record) or record.serial in self._doubted:
            return True
        if record.created_ns < self._swept_ns:
            self._doubted[record.serial] = None
            if len(self._doubted) > MAX_KNOWN_POOLS:
                del self._doubted[next(iter(self._doubted))]
        return False

    def _credit(self) -> int:
        """Return how much processor time searches may take now."""
        now = self._clock()
        self._credit_ns = min(ALLOWANCE_NS, self._credit_ns + int((now - self._paid_ns) * SHARE))
        self._paid_ns = now
        return self._credit_ns

    def _search(self, record: SocketRecord, fingerprint: str) -> Holding:
        search = Search(
            lambda: alive(record), self._heap, most_ns=self._most_ns, gives_up=self._gives_up
        )
        try:
            search.run()
            return self._conclude(search, fingerprint, record)
        finally:
            search.close()

    def _conclude(self, search: Search, fingerprint: str, record: SocketRecord) -> Holding:
        found = sorted(search.paths, key=circumstances.rank)
        words = list(dict.fromkeys(paths.in_words(path) for path in found))[:MAX_TOLD]
        if search.is_cycle:
            words = [paths.cycle_in_words(search.farthest())]
        elif search.unseen is not None:
            way = [node.thing for node in search.unseen.chain()]
            words = [paths.unseen_in_words(way)]
        words += self._weak_words(search)
        things = search.things
        self._learn(things)
        live = next((path for path in found if circumstances.is_live(path)), None)
        return Holding(
            paths=tuple(words),
            held_by=circumstances.held_by(search, found),
            waits_at=None if live is None else circumstances.present(live, self._depth),
            pool=self._pool_of(things, search.target, fingerprint, record.peer),
            queue=circumstances.queue(found),
            is_paused=any(circumstances.is_paused(thing) for thing in things),
            handler=handlers.handler(circumstances.chain(found)) if record.accepted else None,
            cut=search.cut,
        )

    def _weak_words(self, search: Search) -> list[str]:
        """Name one weak reference of the program's: people look there first, in vain."""
        for reference in search.weakly()[:1]:
            other = Search(lambda: reference, self._heap, most_ns=self._most_ns // 4)  # noqa: B023
            try:
                other.run()
                named = [path for path in other.paths if path.kind is RootKind.MODULE]
                return [f"weakly by {paths.in_words(path)}: it holds nothing" for path in named[:1]]
            finally:
                other.close()
        return []

    # -- pools -------------------------------------------------------------------------

    def _idle_in_a_pool(
        self, record: SocketRecord, fingerprint: str, *, may_sweep: bool
    ) -> PoolUse | None:
        """Return the pool that keeps a socket idle. ``may_sweep``: by a pass, if need be."""
        if self._clock() - self._looked_ns > _FRESH_NS:
            self._look()
        known = self._idle.get(id(alive(record)))
        is_new = known is None and record.created_ns >= self._swept_ns
        if is_new and may_sweep and _may_be_of_a_pool(record):
            self._sweep()
            self._look()
            known = self._idle.get(id(alive(record)))
        pool = None if known is None else known.reference()
        if known is None or pool is None:
            return None
        census, sock = known.kind.look(pool), alive(record)
        if census is None or sock is None or all(item is not sock for item in census.idle):
            return None
        return self._use(pool, census, fingerprint, record.peer, is_idle=True)

    def _look(self) -> None:
        """Look which sockets are idle in the pools that are known."""
        self._idle.clear()
        self._looked_ns = self._clock()
        for key, known in list(self._known.items()):
            pool = known.reference()
            if pool is None:
                del self._known[key]
                continue
            census = known.kind.look(pool)
            self._idle |= {} if census is None else dict.fromkeys(map(id, census.idle), known)

    def _sweep(self) -> None:
        """Know every pool: an object refers to its class, so one pass finds those of all."""
        kinds = pools.classes()
        if not kinds or not self._heap.allows_a_pass():
            return
        began = time.thread_time_ns()
        self._swept_ns = self._clock()  # a pool made later has no older sockets
        for thing in gc.get_referrers(*kinds):
            kind = None if id(thing) in self._known else pools.kind_of(thing)
            if kind is not None and pools.census(thing) is not None:
                self._know(thing, kind)
        self._credit_ns -= time.thread_time_ns() - began

    def _pool_of(
        self, things: list[Any], sock: Any, fingerprint: str, peer: str | None
    ) -> PoolUse | None:
        for thing in things:
            census = pools.census(thing) if pools.kind_of(thing) is not None else None
            if census is None:
                continue
            if any(item is sock for item in census.idle):
                return self._use(thing, census, fingerprint, peer, is_idle=True)
            if any(item is sock for item in census.in_use or ()):
                return self._use(thing, census, fingerprint, peer, is_idle=False)
        return None

    def _learn(self, things: list[Any]) -> None:
        """Know all pools of the sessions, clients and engines among ``things``."""
        for thing in things:
            for pool in pools.pools_of(thing):
                kind = pools.kind_of(pool)
                if kind is not None and pools.census(pool) is not None:
                    self._know(pool, kind)

    def _know(self, pool: Any, kind: PoolKind) -> weakref.ref[Any] | None:
        try:
            reference = weakref.ref(pool)
        except TypeError:
            return None
        if len(self._known) < MAX_KNOWN_POOLS:
            self._known[id(pool)] = _Known(reference, kind)
        return reference

    def _use(
        self, pool: Any, census: Census, fingerprint: str, peer: str | None, *, is_idle: bool
    ) -> PoolUse | None:
        kind = pools.kind_of(pool)
        if kind is None:
            return None
        alike = 1
        reference = self._know(pool, kind)
        if reference is not None and is_idle:
            site = self._sites[fingerprint, peer]
            site[id(pool)] = reference
            for key, other in list(site.items()):
                if other() is None:
                    del site[key]
            alike = len(site)
        return PoolUse(
            key=id(pool),
            title=pools.describe(pool),
            is_idle=is_idle,
            bound=census.bound,
            option=kind.option,
            alike=alike,
            kept=len(census.idle),
        )


def _of_pool(use: PoolUse) -> Holding:
    return Holding(held_by=HeldBy.NAME, pool=use, paths=(use.title,))


def _may_be_of_a_pool(record: SocketRecord) -> bool:
    files = [code.co_filename for code in record.stack[::2]]
    return any(f"{os.sep}{name}{os.sep}" in file for file in files for name in _POOLING)


class NotNowError(Exception):
    """The share of time for searches is used up: ask again at the next look."""
