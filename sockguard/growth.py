"""How fast does a number grow, and when is a limit reached? Pure: time comes in, in ns.

A rate is said only when somebody may act on it; else there is no trend, which is not the
same as a steady one:

* growing: in the longest remembered window that a straight line fits (R² of at least 0.9,
  which takes four separate rises: one burst reaches 0.75), with 8 samples or more over 35 s
  or more, 5 more than at its beginning, its last third as fast as the whole, never as high
  before it, and no silence that is out of proportion to the gaps between earlier rises;
* steady: no change for ten minutes, and for twice the longest of the last gaps between
  changes; for half an hour where no gap is known.

What is sampled is the lowest count of an interval: a saw-tooth has a flat floor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import sqrt
from typing import Final, NamedTuple

_SECOND: Final = 1_000_000_000
_HOUR: Final = 3600 * _SECOND

# Six windows of twelve samples: the last minute, 5 min, 25 min, 2 h, 10 h and 2 days.
_FINEST_NS: Final = 5 * _SECOND
_COARSER: Final = 5
_WINDOWS: Final = 6
_SAMPLES: Final = 12

MIN_SAMPLES: Final = 8
MIN_RISE: Final = 5
MIN_FIT: Final = 0.9
# A burst, and a tick that was missed, are no silence; a day without a change always is.
_MIN_SILENCE_NS: Final = 60 * _SECOND
_MAX_SILENCE_NS: Final = 24 * _HOUR
_STEADY_NS: Final = 600 * _SECOND
_STEADY_UNTRIED_NS: Final = 1800 * _SECOND
_GAPS: Final = 16

#: A rate of some hours says nothing about next month.
FORESEEABLE_NS: Final = 30 * 24 * _HOUR


class Trend(NamedTuple):
    """How a number changes of late, certain enough to act on it."""

    per_hour: float  # 0.0: steady


class _Sample(NamedTuple):
    at_ns: int
    low: int
    high: int


class _Window:
    """Samples of equal spacing. A closed one goes on to the next coarser window."""

    def __init__(self, spacing_ns: int) -> None:
        self.spacing_ns = spacing_ns
        self.samples: deque[_Sample] = deque(maxlen=_SAMPLES)
        self._open: _Sample | None = None

    def add(self, new: _Sample) -> _Sample | None:
        """Return the sample that ``new`` closes, if it does."""
        now = self._open
        if now is None:
            self._open = new
            return None
        if new.at_ns - now.at_ns < self.spacing_ns:
            self._open = _Sample(now.at_ns, min(now.low, new.low), max(now.high, new.high))
            return None
        self.samples.append(now)
        self._open = new
        return now


class Growth:
    """The counts of one group over time: at most 72 samples. Not thread-safe."""

    def __init__(self) -> None:
        self._windows = [_Window(_FINEST_NS * _COARSER**level) for level in range(_WINDOWS)]
        self._count: int | None = None
        self._at_ns = 0
        self._quiet_since_ns = 0
        self._has_changed = False
        self._gaps: deque[int] = deque(maxlen=_GAPS)

    def note(self, at_ns: int, count: int) -> None:
        """Take the count at each look, also where it did not change: silence is evidence.

        Times that run backwards are left out. O(1).
        """
        if self._count is None:
            self._quiet_since_ns = at_ns
        elif at_ns < self._at_ns:
            return
        elif count != self._count:
            gap = at_ns - self._quiet_since_ns
            if self._has_changed and gap >= _FINEST_NS:  # a burst is one change
                self._gaps.append(gap)
            self._quiet_since_ns, self._has_changed = at_ns, True
        self._count, self._at_ns = count, at_ns
        sample: _Sample | None = _Sample(at_ns, count, count)
        for window in self._windows:
            if sample is None:
                return
            sample = window.add(sample)

    def trend(self) -> Trend | None:
        """Return the present rate; ``None`` when nothing may be said yet, or it is erratic.

        Under 0.1 ms, so for a report rather than for each tick.
        """
        silence = self._at_ns - self._quiet_since_ns
        usual = max(_MIN_SILENCE_NS, min(2 * max(self._gaps, default=0), _MAX_SILENCE_NS))
        if silence > usual:
            steady = _STEADY_NS if self._gaps else _STEADY_UNTRIED_NS
            return Trend(0.0) if silence >= steady else None
        for window in reversed(self._windows):
            rate = _rate(window.samples)
            if rate is not None and self._peak_before(window) < window.samples[-1].low:
                return Trend(rate * _HOUR)
        return None

    def _peak_before(self, window: _Window) -> int:
        start = window.samples[0].at_ns
        return max(
            (
                sample.high
                for other in self._windows
                for sample in other.samples
                if sample.at_ns + other.spacing_ns <= start
            ),
            default=-1,
        )


def _rate(samples: Sequence[_Sample]) -> float | None:
    """Return the slope of a line that fits, per ns; ``None`` if none does."""
    if len(samples) < MIN_SAMPLES or samples[-1].low - samples[0].low < MIN_RISE:
        return None
    times = [sample.at_ns - samples[0].at_ns for sample in samples]
    lows = [sample.low for sample in samples]
    mean_time, mean_low = sum(times) / len(times), sum(lows) / len(lows)
    across = sum((time - mean_time) ** 2 for time in times)
    up = sum((low - mean_low) ** 2 for low in lows)
    along = sum((t - mean_time) * (low - mean_low) for t, low in zip(times, lows, strict=True))
    if along <= 0 or along * along < MIN_FIT * across * up:
        return None
    rate = along / across
    third = -(len(samples) // 3) - 1
    expected = rate * (times[-1] - times[third])
    seen = lows[-1] - lows[third]
    # Twice the scatter of independent events, or half where they come in batches.
    return rate if abs(seen - expected) <= max(expected / 2, 2 * sqrt(expected)) else None


def in_words(trend: Trend) -> str:
    """Return ``steady``, ``12 a minute``, ``3 an hour``."""
    if trend.per_hour <= 0:
        return "steady"
    for unit, per_hour in (("a second", 3600), ("a minute", 60), ("an hour", 1)):
        if trend.per_hour >= 2 * per_hour:
            return f"{_rounded(trend.per_hour / per_hour)} {unit}"
    return f"{max(1, _rounded(trend.per_hour * 24))} a day"


def _rounded(number: float) -> int:
    """Round to two digits: a rate knows no more."""
    step = 1
    while number / step >= 100:
        step *= 10
    return round(number / step) * step


def time_to_limit_ns(trend: Trend | None, now: int, limit: int) -> int | None:
    """Return when ``limit`` is reached from a count of ``now``.

    ``None``: not growing, not known, or not foreseeable.
    """
    if trend is None or trend.per_hour <= 0:
        return None
    if now >= limit:
        return 0
    after = (limit - now) / trend.per_hour * _HOUR
    return int(after) if after <= FORESEEABLE_NS else None
