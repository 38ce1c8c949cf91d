"""Pairs of runs, unguarded and guarded in turn, and the rows that come of them.

The machine's speed drifts by more than what is measured here. So a plain run and a guarded
one follow each other closely, many times; each pair gives one difference or one ratio, and
the median of the undisturbed ones is what counts. The spread is their quartiles.
"""

from __future__ import annotations

import math
import statistics
import threading
from _thread import allocate_lock, start_new_thread
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from time import thread_time_ns
from typing import Any, Final, NamedTuple, TypeVar

import sockguard

LEVELS: Final = ("light", "full")
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table. Without a bound it is information, and can't miss."""

    what: str
    unit: str
    median: float
    low: float
    high: float
    at_most: float | None = None
    at_least: float | None = None
    #: Where the median lies with 95 % confidence, for a ratio that noise might decide.
    sure: tuple[float, float] | None = None
    note: str = ""

    @property
    def bound(self) -> str:
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        return "" if self.at_least is None else f">= {self.at_least:.2f}"

    @property
    def holds(self) -> bool | None:
        """Whether the median is within the bound; ``None`` where there is none."""
        if self.at_most is not None:
            return self.median <= self.at_most
        return None if self.at_least is None else self.median >= self.at_least

    @property
    def verdict(self) -> str:
        """In a word: of the median. ``narrowly`` where noise might have decided."""
        if self.holds is None:
            return ""
        word = "holds" if self.holds else "MISSES"
        if self.sure is not None and self.at_least is not None:
            low, high = self.sure
            if low < self.at_least <= high:
                word += " narrowly"
        return word

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict}


class Pair(NamedTuple):
    """What the same work took: unguarded, then guarded."""

    plain: float
    guarded: float


def row(what: str, unit: str, values: Sequence[float], **bound: Any) -> Row:
    """Return the row of ``values``: their median, and their quartiles as the spread."""
    low, median, high = values[0], values[0], values[0]
    if len(values) > 1:
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Row(what=what, unit=unit, median=median, low=low, high=high, **bound)


def undisturbed(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the quarter of the pairs that took the least in all.

    A neighbour on the host, or on the other half of the core, makes everything half as dear
    again for a second, Python more than the kernel: neither differences nor ratios survive
    that. Which pairs are left out depends on both sides alike.
    """
    return sorted(pairs, key=sum)[: max(len(pairs) // 4, min(len(pairs), 5))]


def more(what: str, unit: str, pairs: Sequence[Pair], **bound: Any) -> Row:
    """Return how much more the guarded run takes: differences of undisturbed pairs."""
    return row(what, unit, [p.guarded - p.plain for p in undisturbed(pairs)], **bound)


def rate(what: str, pairs: Sequence[Pair], **bound: Any) -> Row:
    """Return what remains of the unguarded rate, as the median of the ratios."""
    return row(what, "of the rate", [p.plain / p.guarded for p in pairs], **bound)


def sure_rate(what: str, pairs: Sequence[Pair], **bound: Any) -> Row:
    """Return the same, with the interval in which the true median lies 19 times of 20.

    The ratios that stand at the ranks n/2 -+ sqrt(n): the sign test's interval, which
    supposes nothing of how they are distributed.
    """
    ratios = sorted(p.plain / p.guarded for p in pairs)
    middle, reach = len(ratios) / 2, 0.98 * math.sqrt(len(ratios))
    low = ratios[max(math.floor(middle - reach), 0)]
    high = ratios[min(math.ceil(middle + reach), len(ratios) - 1)]
    note = f"the median, 19 times of 20: {low:.3f} to {high:.3f}"
    return rate(what, pairs, sure=(low, high), note=note, **bound)


def in_turn(
    plain: Callable[[], float], guarded: Callable[[], float], count: int, warm_up: int = 2
) -> list[Pair]:
    """Run A B A B …; the first ``warm_up`` pairs are thrown away."""
    return [Pair(plain(), guarded()) for _ in range(warm_up + count)][warm_up:]


def timed(
    batch: Callable[[int], object], count: int, guard: AbstractContextManager[object]
) -> float:
    """Return the processor time that one of ``count`` operations takes under ``guard``, in ns.

    Some go before, uncounted: placing a hook makes the interpreter specialize anew.
    """
    with guard:
        batch(max(count // 4, 100))
        began = thread_time_ns()
        batch(count)
        return (thread_time_ns() - began) / count


def compare(batch: Callable[[int], object], count: int, level: str, pairs: int) -> list[Pair]:
    """Time ``batch`` unguarded and under the hooks of ``level``, in turn.

    The guard is ``sockguard.watch``: the hooks without a watcher's thread, which has rows
    of its own.
    """
    return in_turn(
        lambda: timed(batch, count, nullcontext()),
        lambda: timed(batch, count, sockguard.watch(level=level)),
        pairs,
    )


def in_a_thread(work: Callable[[], _T]) -> _T:
    """Return what ``work`` returns in a named thread, on a stack that is nearly empty.

    So there is a second thread on both sides: with one alone, the kernel passes on the
    locking of the descriptor table, and what is measured would be the thread, not the hook.
    """
    result: list[_T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="benchmark")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


@contextmanager
def an_idle_thread() -> Iterator[None]:
    """Have a raw thread in the process that does nothing but wait for the end."""
    stop, done = allocate_lock(), allocate_lock()
    stop.acquire()
    done.acquire()

    def wait() -> None:
        stop.acquire()
        done.release()

    start_new_thread(wait, ())
    try:
        yield
    finally:
        stop.release()
        done.acquire()
