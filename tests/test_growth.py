"""How fast does it grow, and is it certain enough to say so? Time is passed in."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sockguard.growth import (
    FORESEEABLE_NS,
    MIN_SAMPLES,
    Growth,
    Trend,
    in_words,
    time_to_limit_ns,
)

SECOND = 1_000_000_000
MINUTE, HOUR = 60, 3600
Count = Callable[[int], int]


def trends(count: Count, seconds: int, *, look: int = 1) -> Iterator[tuple[int, Trend | None]]:
    """Note ``count(second)`` at each look, and yield what is said every half minute or rarer."""
    growth = Growth()
    every = 30 * max(1, seconds // (2 * HOUR))
    for second in range(0, seconds, look):
        growth.note(second * SECOND, count(second))
        if second % every == 0:
            yield second, growth.trend()


def words(count: Count, seconds: int, **more: int) -> list[str]:
    """What is said, each once, in order; nothing where nothing may be said."""
    said = [in_words(trend) for _, trend in trends(count, seconds, **more) if trend]
    return list(dict.fromkeys(said))


def grows(trend: Trend | None) -> bool:
    return trend is not None and trend.per_hour > 0


def test_a_leak_of_twelve_a_minute_is_known_after_a_minute_and_stays_so() -> None:
    said = list(trends(lambda second: second // 5, 2 * HOUR))
    assert [(at, trend) for at, trend in said if at < 30 and trend] == []
    assert {in_words(trend) if trend else None for at, trend in said if at >= MINUTE} == {
        "12 a minute"
    }


def test_a_leak_of_three_an_hour_is_known_in_hours_and_never_called_another_rate() -> None:
    said = words(lambda second: 1 + (second + 600) // 1200, 24 * HOUR)
    assert said == ["3 an hour"]


def test_what_leaked_long_ago_and_not_since_is_steady() -> None:
    assert words(lambda second: 7, 2 * HOUR) == ["steady"]


def test_steady_takes_half_an_hour_of_silence_or_ten_minutes_after_shorter_gaps() -> None:
    said = {at: trend for at, trend in trends(lambda second: 7, HOUR) if trend}
    assert min(said) == 30 * MINUTE
    said = {at: trend for at, trend in trends(lambda second: second >= 6, HOUR) if trend}
    assert min(said) == 30 * MINUTE + 30
    said = {
        at: trend
        for at, trend in trends(lambda second: (second >= 6) + (second >= 60), HOUR)
        if trend
    }
    assert min(said) == 11 * MINUTE


@given(
    size=st.integers(1, 5000),
    lasts=st.integers(0, 20),
    before=st.integers(0, HOUR // 2),
    already=st.integers(0, 100),
)
@settings(max_examples=15)
def test_a_burst_is_never_growth(size: int, lasts: int, before: int, already: int) -> None:
    def count(second: int) -> int:
        done = min(max(second - before, 0) / lasts, 1) if lasts else second >= before
        return already + int(size * done)

    for at, trend in trends(count, before + HOUR):
        assert not grows(trend), at
        if at > before + 31 * MINUTE:
            assert trend == Trend(0.0)


def test_a_leak_that_stopped_is_soon_no_growth_and_later_steady() -> None:
    said = trends(lambda second: min(second, 30 * MINUTE) // 5, 2 * HOUR)
    after = [(at - 30 * MINUTE, trend) for at, trend in said if at > 30 * MINUTE]
    assert not any(grows(trend) for since, trend in after if since > 2 * MINUTE)
    assert all(trend == Trend(0.0) for since, trend in after if since > 11 * MINUTE)


def test_between_two_rises_of_a_slow_leak_nothing_is_called_steady() -> None:
    said = trends(lambda second: second // 1200, 6 * HOUR)
    assert Trend(0.0) not in [trend for _, trend in said]


def test_a_batch_an_hour_is_called_growth_when_five_have_come_and_steady_never_after_two() -> None:
    said = list(trends(lambda second: second // HOUR * 10, 48 * HOUR, look=5))
    assert not any(grows(trend) for at, trend in said if at < 5 * HOUR)
    assert Trend(0.0) not in [trend for at, trend in said if at > 2 * HOUR]
    last = said[-1][1]
    assert last is not None
    assert in_words(last) == "10 an hour"


@given(period=st.integers(3, HOUR), rise_s=st.integers(1, 60))
@example(period=300, rise_s=5)
@settings(max_examples=15)
def test_a_saw_tooth_is_not_growth(period: int, rise_s: int) -> None:
    said = trends(lambda second: second % period // rise_s, 4 * period + 20 * MINUTE)
    assert [at for at, trend in said if at > 2.5 * period and grows(trend)] == []


@given(tenths=st.integers(31, 120))
@settings(max_examples=10)
def test_a_saw_tooth_that_nearly_keeps_step_with_the_samples_is_not_growth(tenths: int) -> None:
    # Every fifth second alone shows a slow ramp of a tooth of 5.1 s.
    said = trends(lambda second: second * 10 % tenths, 20 * MINUTE)
    assert not any(grows(trend) for _, trend in said)


@given(seed=st.integers(0, 2**32), most=st.integers(1, 100))
@settings(max_examples=8)
def test_a_pool_that_breathes_is_neither_growing_nor_steady(seed: int, most: int) -> None:
    choose = random.Random(seed)
    said = trends(lambda second: choose.randint(0, most), HOUR)
    assert {trend for _, trend in said} == {None}


def test_a_leak_below_a_pool_that_breathes_is_found() -> None:
    choose = random.Random(5)
    *_, (_, last) = trends(lambda second: choose.randint(0, 10) + second // 60, 3 * HOUR)
    assert last is not None
    assert 54 <= last.per_hour <= 66


@given(per_hour=st.integers(60, 20_000), start=st.integers(0, 1000), seed=st.integers(0, 2**32))
@settings(max_examples=15)
def test_an_irregular_leak_is_said_within_a_factor_of_two(
    per_hour: int, start: int, seed: int
) -> None:
    # Independent events: the worst case of a real program's leak.
    choose, count, needed = random.Random(seed), [start], max(0.2, 200 / per_hour)

    def leaking(second: int) -> int:
        whole, part = divmod(per_hour / HOUR, 1)
        count[0] += int(whole) + (choose.random() < part)
        return count[0]

    said = [trend for at, trend in trends(leaking, int(needed * HOUR)) if at > needed * HOUR / 2]
    rates = [trend.per_hour for trend in said if trend]
    assert 0.0 not in rates
    assert all(per_hour / 2.5 <= rate <= per_hour * 2.5 for rate in rates)
    assert len(rates) > len(said) / 2


def test_a_rate_that_falls_is_said_as_it_is_now() -> None:
    *_, (_, last) = trends(lambda s: s // 5 if s < HOUR else 720 + (s - HOUR) // 60, 2 * HOUR)
    assert last is not None
    assert in_words(last) == "60 an hour"


def test_a_rate_that_has_fallen_is_not_said_any_more_after_ten_minutes() -> None:
    # A straight line still fits the last 25 minutes well, but not their last third.
    said = trends(lambda s: s // 5 if s < HOUR else 720 + (s - HOUR) // 30, HOUR + 20 * MINUTE)
    after = [trend.per_hour for at, trend in said if at > HOUR + 10 * MINUTE and trend]
    assert after
    assert max(after) < 150


def test_what_is_given_back_is_no_trend() -> None:
    said = trends(lambda second: 1000 - second // 5, HOUR)
    assert {trend for _, trend in said} == {None}


def test_too_few_samples_say_nothing() -> None:
    growth = Growth()
    for turn in range(MIN_SAMPLES):  # the last of them is still open
        growth.note(turn * 5 * SECOND, turn)
        assert growth.trend() is None
    growth.note(MIN_SAMPLES * 5 * SECOND, MIN_SAMPLES)
    assert growth.trend() == Trend(pytest.approx(720))


def test_a_rise_of_four_is_too_little_to_say() -> None:
    assert words(lambda second: second // 15, MINUTE + 14) == []


def test_nothing_noted_says_nothing() -> None:
    assert Growth().trend() is None


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63), st.integers(0, 2**31)), max_size=200))
def test_any_times_and_counts_are_survived_in_bounded_memory(notes: list[tuple[int, int]]) -> None:
    growth = Growth()
    for at_ns, count in notes:
        growth.note(at_ns, count)
    growth.trend()
    assert sum(len(window.samples) for window in growth._windows) <= 72


def test_memory_stays_bounded_for_months() -> None:
    growth = Growth()
    for minute in range(0, 60 * 24 * 90, 5):
        growth.note(minute * MINUTE * SECOND, minute)
    assert sum(len(window.samples) for window in growth._windows) == 72
    assert len(growth._gaps) == 16
    trend = growth.trend()
    assert trend is not None
    assert in_words(trend) == "60 an hour"


def test_a_clock_that_runs_backwards_changes_nothing() -> None:
    growth, plain = Growth(), Growth()
    for second in range(600):
        plain.note(second * SECOND, second)
        growth.note(second * SECOND, second)
        growth.note((second - 30) * SECOND, 10**6)
    assert growth.trend() == plain.trend() is not None


@pytest.mark.parametrize(
    ("per_hour", "words"),
    [
        (0.0, "steady"),
        (0.001, "1 a day"),
        (1.5, "36 a day"),
        (3.2, "3 an hour"),
        (90.0, "90 an hour"),
        (118.4, "120 an hour"),
        (720.0, "12 a minute"),
        (7199.0, "120 a minute"),
        (7200.0, "2 a second"),
        (36_000_000.0, "10000 a second"),
    ],
)
def test_a_rate_in_words(per_hour: float, words: str) -> None:
    assert in_words(Trend(per_hour)) == words


def test_the_time_to_a_limit() -> None:
    assert time_to_limit_ns(Trend(240.0), 304, 1024) == 3 * HOUR * SECOND
    assert time_to_limit_ns(Trend(240.0), 1024, 1024) == 0
    assert time_to_limit_ns(Trend(0.0), 304, 1024) is None
    assert time_to_limit_ns(None, 304, 1024) is None


def test_a_limit_in_years_is_not_foreseen() -> None:
    days = FORESEEABLE_NS // SECOND // HOUR // 24
    assert time_to_limit_ns(Trend(3.0), 0, 3 * 24 * days) == FORESEEABLE_NS
    assert time_to_limit_ns(Trend(3.0), 0, 3 * 24 * days + 1) is None
