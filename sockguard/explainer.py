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
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeVar

from sockguard import circumstances, handlers, paths, pools
from sockguard.findings import HeldBy, Holding, PoolUse
from sockguard.heap import Heap
from sockguard.holders import RootKind, Search
from sockguard.interrupts import is_programs
from sockguard.poolkinds import KINDS, Census, PoolKind
from sockguard.records import SocketRecord
from sockguard.registry import alive
from sockguard.sites import is_package_file
from sockguard.stderr import complain

#: Paths that a finding tells.
MAX_TOLD: Final = 3
#: Groups that are remembered, and lines and destinations whose pools are counted.
MAX_REMEMBERED: Final = 4096
#: Pools known at a time; sites whose pools are counted.
MAX_KNOWN_POOLS: Final = 1000
#: Searches may take so much of the time in the long run, after a first allowance.
SHARE: Final = 0.02
ALLOWANCE_NS: Final = 1_000_000_000

# A socket that was not seen idle in a pool is looked for again when the last look is so old.
_FRESH_NS: Final = 50_000_000

# Packages that keep pools: the first word of their classes' paths.
_POOLING: Final = {path.partition(".")[0] for kind in KINDS for path in kind.classes}


Answer = TypeVar("Answer")


class _Known(NamedTuple):
    """A pool that a search has met."""

    reference: weakref.ref[Any]
    kind: PoolKind


class _Keeper(NamedTuple):
    """A pool that keeps a socket in trouble."""

    pool: weakref.ref[Any]
    record: SocketRecord

    def still_keeps(self) -> bool:
        return self.pool() is not None and alive(self.record) is not None


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
        self._sites: defaultdict[tuple[str, str | None], dict[int, _Keeper]] = defaultdict(dict)
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
        try:
            return self._explain(record, fingerprint, anew=anew, asked=asked)
        except BaseException as error:
            _let_go(error)
            raise

    def _explain(
        self, record: SocketRecord, fingerprint: str, *, anew: bool, asked: bool
    ) -> Holding | None:
        if alive(record) is None:
            return None
        if len(self._met) >= MAX_REMEMBERED and fingerprint not in self._met:
            self._met.clear()
        met = self._met[fingerprint] = self._met[fingerprint] + 1
        credit_ns = ALLOWANCE_NS if asked else self._credit()
        # A new cause, or one whose pools become many, is not to wait for those that are known.
        is_urgent = met & (met - 1) == 0 or len(self._sites.get((fingerprint, record.peer), ())) > 1
        may_sweep = credit_ns > (-ALLOWANCE_NS if is_urgent else 0)
        use = _or_none(
            "known pools",
            lambda: self._idle_in_a_pool(record, fingerprint, may_sweep=may_sweep),
        )
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
        except NotNowError:
            self._met[fingerprint] -= 1
            raise
        except Exception as error:
            if is_programs(error):
                raise
            # The host must never pay for our bug; nor may we fail in silence.
            complain(f"who holds a socket could not be told: {error!r}")
            return Holding(cut="the search failed")
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
            if search.is_interrupted:
                raise NotNowError  # half a search accuses what is well
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
        _or_none("pools", lambda: self._learn(things))
        live = next((path for path in found if circumstances.is_live(path)), None)
        return Holding(
            paths=tuple(words),
            held_by=circumstances.held_by(search, found),
            waits_at=None if live is None else circumstances.present(live, self._depth),
            pool=_or_none(
                "a pool", lambda: self._pool_of(things, search.target, fingerprint, record)
            ),
            queue=circumstances.queue(found),
            is_paused=any(circumstances.is_paused(thing) for thing in things),
            handler=_or_none("a handler", lambda: handlers.handler(circumstances.chain(found)))
            if record.accepted
            else None,
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
        known = self._idle.get(id(alive(record)))
        if known is None and self._clock() - self._looked_ns > _FRESH_NS:
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
        return self._use(pool, census, fingerprint, record, is_idle=True)

    def _look(self) -> None:
        """Look which sockets are idle in the pools that are known."""
        self._idle.clear()
        self._looked_ns = self._clock()
        for key, known in list(self._known.items()):
            pool = known.reference()
            if pool is None:
                self._known.pop(key, None)
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
        self, things: list[Any], sock: Any, fingerprint: str, record: SocketRecord
    ) -> PoolUse | None:
        for thing in things:
            census = pools.census(thing) if pools.kind_of(thing) is not None else None
            if census is None:
                continue
            if any(item is sock for item in census.idle):
                return self._use(thing, census, fingerprint, record, is_idle=True)
            if any(item is sock for item in census.in_use or ()):
                return self._use(thing, census, fingerprint, record, is_idle=False)
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
        self, pool: Any, census: Census, fingerprint: str, record: SocketRecord, *, is_idle: bool
    ) -> PoolUse | None:
        kind = pools.kind_of(pool)
        if kind is None:
            return None
        alike = 1
        reference = self._know(pool, kind)
        if reference is not None and is_idle:
            key = (fingerprint, record.peer)
            if len(self._sites) >= MAX_REMEMBERED and key not in self._sites:
                self._sites.clear()  # they are met again
            site = self._sites[key]
            site[id(pool)] = _Keeper(reference, record)
            for one, keeper in list(site.items()):
                if not keeper.still_keeps():
                    site.pop(one, None)
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
    """The share of time for searches is used up, or a fork waits: ask again at the next look."""


def _or_none(what: str, look: Callable[[], Answer]) -> Answer | None:
    """Return what ``look`` does; a failure of ours costs that answer alone, and is said once."""
    try:
        return look()
    except Exception as error:
        if is_programs(error):
            raise
        complain(f"{what} could not be looked at: {error!r}")
        return None


def _let_go(error: BaseException) -> None:
    """Clear our frames behind ``error``, which may be the program's, and be kept by it."""
    step = error.__traceback__
    while step is not None:
        if is_package_file(step.tb_frame.f_code.co_filename):
            with suppress(RuntimeError):  # it runs still
                step.tb_frame.clear()
        step = step.tb_next
