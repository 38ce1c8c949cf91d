"""Explains cases: who holds the socket, which pool or queue it is in, where the holder waits.

A search of the heap is dear, so one of a group is enough, and another when the group has
doubled. Sockets of a pool that was met before are found from the pool, for nothing.
"""

from __future__ import annotations

import os
import time
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, NamedTuple

from sockguard import handlers, inside, paths, pools
from sockguard.findings import MAX_POOLS, HeldBy, Holding, Origin, PoolUse
from sockguard.holders import RESUMABLE, Heap, Path, RootKind, Search, Spot, frame_of
from sockguard.holders import stacks as running_stacks
from sockguard.poolkinds import KINDS, Census, PoolKind
from sockguard.records import SocketRecord
from sockguard.registry import alive
from sockguard.sites import is_library_module, is_ours
from sockguard.stacks import capture, resolve

#: Paths that a finding tells.
MAX_TOLD: Final = 3
#: Pools known at a time; sites whose pools are counted.
MAX_KNOWN_POOLS: Final = 1000
#: Searches may take so much of the time in the long run, after a first allowance.
SHARE: Final = 0.02
ALLOWANCE_NS: Final = 1_000_000_000

_QUEUES: Final = frozenset(
    {
        "queue.Queue",
        "_queue.SimpleQueue",
        "asyncio.queues.Queue",
        "concurrent.futures.thread._WorkItem",
    }
)
# Packages that keep pools: the first word of their classes' paths.
_POOLING: Final = {path.partition(".")[0] for kind in KINDS for path in kind.classes}
_LIVE: Final = frozenset({RootKind.FRAME, RootKind.TASK, RootKind.THREAD})


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
        self._met: Counter[str] = Counter()
        self._pooled: set[str] = set()
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
        met = self._met[fingerprint] = self._met[fingerprint] + 1
        if (use := self._in_known_pool(record, fingerprint)) is not None:
            return Holding(held_by=HeldBy.NAME, pool=use, paths=(use.title,))
        is_due = anew or met & (met - 1) == 0 or self._may_be_pooled(fingerprint, record.peer)
        if not is_due or not self._most_ns:
            return None
        began = self._clock()
        self._credit_ns = min(ALLOWANCE_NS, self._credit_ns + int((began - self._paid_ns) * SHARE))
        self._paid_ns = began
        if self._credit_ns <= 0 and not asked:
            if not _may_be_of_a_pool(record):
                return None
            self._met[fingerprint] -= 1
            raise NotNowError
        try:
            return self._search(record, fingerprint)
        finally:
            self._credit_ns -= 0 if asked else self._clock() - began

    def _may_be_pooled(self, fingerprint: str, peer: str | None) -> bool:
        """Tell whether others of the group are, and their pools are not too many to be normal."""
        return fingerprint in self._pooled and len(self._sites[fingerprint, peer]) <= MAX_POOLS

    def _search(self, record: SocketRecord, fingerprint: str) -> Holding:
        search = Search(
            lambda: alive(record), self._heap, most_ns=self._most_ns, gives_up=self._gives_up
        )
        try:
            search.run()
            return self._conclude(search, fingerprint, record.peer)
        finally:
            search.close()

    def _conclude(self, search: Search, fingerprint: str, peer: str | None) -> Holding:
        found = sorted(search.paths, key=_rank)
        words = list(dict.fromkeys(paths.in_words(path) for path in found))[:MAX_TOLD]
        if search.is_cycle:
            words = [paths.cycle_in_words(search.farthest())]
        elif search.unseen is not None:
            way = [node.thing for node in search.unseen.chain()]
            words = [paths.unseen_in_words(way)]
        words += self._weak_words(search)
        things = search.things
        self._learn(things)
        live = next((path for path in found if _is_live(path)), None)
        return Holding(
            paths=tuple(words),
            held_by=_held_by(search, found),
            waits_at=None if live is None else _present(live, self._depth),
            pool=self._pool_of(things, search.target, fingerprint, peer),
            queue=_queue(found),
            is_paused=any(_is_paused(thing) for thing in things),
            handler=handlers.handler(_chain(found)),
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

    def _in_known_pool(self, record: SocketRecord, fingerprint: str) -> PoolUse | None:
        sock = alive(record) if self._known else None
        for key, known in list(self._known.items()):
            pool = known.reference()
            if pool is None:
                del self._known[key]
                continue
            census = known.kind.look(pool)
            if census is not None and any(item is sock for item in census.idle):
                return self._use(pool, census, fingerprint, record.peer, is_idle=True)
        return None

    def _pool_of(
        self, things: list[Any], sock: Any, fingerprint: str, peer: str | None
    ) -> PoolUse | None:
        for thing in things:
            census = pools.census(thing) if pools.kind_of(thing) is not None else None
            if census is None:
                continue
            if any(item is sock for item in census.idle):
                self._pooled.add(fingerprint)
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


def _may_be_of_a_pool(record: SocketRecord) -> bool:
    files = [code.co_filename for code in record.stack[::2]]
    return any(f"{os.sep}{name}{os.sep}" in file for file in files for name in _POOLING)


class NotNowError(Exception):
    """The share of time for searches is used up: ask again at the next look."""


# -- what a path says ------------------------------------------------------------------


def _is_asking(path: Path) -> bool:
    return path.spot is not None and path.spot.is_asking


def _is_live(path: Path) -> bool:
    """Tell whether what runs has the socket itself, or what wraps it: not in a collection."""
    if path.kind not in _LIVE or _is_asking(path):
        return False
    things = path.things
    begin = 0
    if path.kind is RootKind.TASK:
        inner = [index for index, thing in enumerate(things) if type(thing) in RESUMABLE]
        begin = inner[-1] + 1 if inner else 1
        begin += type(things[begin]) is FrameType  # Python 3.10
    elif path.kind is RootKind.THREAD:  # its attributes, and the arguments of its target
        begin = next((i + 1 for i, thing in enumerate(things) if type(thing) is tuple), 1)
    return not paths.is_container(things[begin])


def _rank(path: Path) -> tuple[int, ...]:
    module = path.module if path.spot is None else path.spot.module
    library = path.kind is RootKind.THREAD or (module is not None and is_library_module(module))
    return (
        path.kind is RootKind.LOOP,
        _is_asking(path),
        path.by_exception,
        library,
        len(path.things),
    )


def _held_by(search: Search, found: list[Path]) -> HeldBy:
    if search.is_cycle:
        return HeldBy.CYCLE
    strong = [path for path in found if path.kind is not RootKind.LOOP]
    if not strong:
        return HeldBy.NAME if found else HeldBy.UNKNOWN
    if all(path.by_exception for path in strong):
        return HeldBy.EXCEPTION
    if all(map(_is_live, strong)):
        return HeldBy.LIVE
    return HeldBy.NAME


def _queue(found: list[Path]) -> str | None:
    for path in found:
        for thing in path.things[:-1]:
            if any(inside.class_path(kind) in _QUEUES for kind in inside.mro(thing)):
                return paths.in_words(path)
    return None


def _is_paused(thing: Any) -> bool:
    names = {inside.class_path(kind) for kind in inside.mro(thing)}
    return "asyncio.transports.ReadTransport" in names and inside.read(thing, "_paused") is True


def _chain(found: list[Path]) -> list[Any]:
    """Return what is on the way from the socket outward, running frames included."""
    chain: list[Any] = []
    for path in found:
        chain += reversed(path.things)
        if path.spot is not None:
            chain += _frames_of(path.spot)
    return chain


def _frames_of(spot: Spot) -> list[FrameType]:
    for ident, green, top in running_stacks():
        if ident == spot.thread and green == spot.greenlet:
            frame: FrameType | None = top
            frames = []
            while frame is not None:
                frames.append(frame)
                frame = frame.f_back
            return frames
    return []


def _present(path: Path, depth: int) -> Origin | None:
    """Return where the thread, task or greenlet that holds the socket is now."""
    if path.kind is RootKind.TASK:
        return _task_now(path.top.thing, depth)
    ident = path.spot.thread if path.spot is not None else inside.read(path.top.thing, "_ident")
    green = path.spot is not None and path.spot.greenlet
    for running, is_green, top in running_stacks():
        if running == ident and is_green == green:
            stack = resolve(capture(top, depth))
            name = None if green else paths.thread_name(ident)
            return Origin(stack=tuple(f for f in stack if not is_ours(f)), thread=name)
    return None


def _task_now(task: Any, depth: int) -> Origin | None:
    coroutine = paths.coroutine_of(task)
    stack: list[Any] = []
    while inside.is_one_of(type(coroutine), RESUMABLE) and len(stack) < depth:
        frame = frame_of(coroutine)
        if frame is None:
            break
        stack += resolve(capture(frame, 1))[:1]
        coroutine = paths.awaited_by(coroutine)
    return Origin(stack=tuple(reversed(stack)), task=paths.task_name(task)) if stack else None
