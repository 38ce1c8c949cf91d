"""Why a socket stays open: the rules, each by the evidence that it asks for."""

from __future__ import annotations

from typing import Any

import pytest
from support.builders import a_record, an_eof, an_origin, some_evidence

from sockguard.findings import Confidence, HeldBy, Holding, PoolUse, Verdict
from sockguard.verdicts import RULES, Signs, judge


def a_pool(**known: Any) -> PoolUse:
    return PoolUse(
        **{
            "key": 1,
            "title": "a.Pool, 3 idle",
            "is_idle": True,
            "bound": 10,
            "option": "pool_pre_ping",
            **known,
        }
    )


def signs(
    noted: dict[str, Any] | None = None,
    evidence: dict[str, Any] | None = None,
    **holding: Any,
) -> Signs:
    return Signs(
        record=a_record(**(noted or {})),
        evidence=some_evidence(**(evidence or {})),
        holding=Holding(**holding),
    )


TOLD = {"eof": an_eof()}
LIVE = {"held_by": HeldBy.LIVE, "waits_at": an_origin()}
CLOSED = {"closed_by_program": True}
WAITS = {"end_unread": True}


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (signs(), Verdict.UNKNOWN),
        (signs({}, {"unread_bytes": 0, "end_unread": False}), Verdict.UNKNOWN),
        (signs({}, {"unread_bytes": 1}), Verdict.UNREAD),
        (signs({}, WAITS), Verdict.UNREAD),
        (signs(TOLD), Verdict.EOF_IGNORED),
        (signs({}, CLOSED), Verdict.MAKEFILE),
        (signs(held_by=HeldBy.CYCLE), Verdict.CYCLE),
        (signs(held_by=HeldBy.EXCEPTION), Verdict.EXCEPTION),
        (signs(**LIVE), Verdict.STUCK),
        (signs(held_by=HeldBy.LIVE), Verdict.UNKNOWN),
        (signs(held_by=HeldBy.NAME), Verdict.UNKNOWN),
        (signs(queue="app.JOBS"), Verdict.UNREAD),
        (signs(is_paused=True), Verdict.UNREAD),
        (signs(pool=a_pool()), Verdict.POOLED),
        (signs(pool=a_pool(alike=5)), Verdict.POOLED),
        (signs(pool=a_pool(is_idle=False), held_by=HeldBy.NAME), Verdict.UNREAD),
        # More than one: the nearer to the missing close speaks.
        (signs(TOLD, WAITS), Verdict.EOF_IGNORED),
        (signs(TOLD, CLOSED), Verdict.MAKEFILE),
        (signs({}, CLOSED | {"unread_bytes": 9}), Verdict.MAKEFILE),
        (signs({}, CLOSED, **LIVE), Verdict.MAKEFILE),
        (signs({}, WAITS, pool=a_pool()), Verdict.POOLED),
        (signs({}, WAITS, pool=a_pool(kept=11), held_by=HeldBy.CYCLE), Verdict.CYCLE),
        (signs(TOLD, held_by=HeldBy.CYCLE), Verdict.CYCLE),
        (signs(TOLD, held_by=HeldBy.EXCEPTION), Verdict.EXCEPTION),
        (signs(TOLD, **LIVE), Verdict.STUCK),
        (signs({}, WAITS, **LIVE), Verdict.STUCK),
        (signs({}, WAITS, **LIVE, queue="app.JOBS"), Verdict.UNREAD),
        (signs({}, {}, **LIVE, is_paused=True), Verdict.STUCK),
        (signs({}, {}, **LIVE, pool=a_pool(is_idle=False)), Verdict.STUCK),
        (signs(TOLD, {}, pool=a_pool(is_idle=False)), Verdict.EOF_IGNORED),
    ],
)
def test_the_first_rule_whose_evidence_is_there_gives_the_verdict(given, verdict):
    assert judge(given).verdict is verdict


@pytest.mark.parametrize(
    ("pool", "is_normal"),
    [
        (a_pool(), True),
        (a_pool(kept=10), True),
        (a_pool(kept=11), False),
        (a_pool(bound=None, kept=1000), True),
        (a_pool(alike=4), True),
        (a_pool(alike=5), False),
        (a_pool(is_idle=False), False),
    ],
)
def test_a_pool_is_normal_while_it_is_bounded_and_one_of_few(pool, is_normal):
    assert pool.is_normal is is_normal


def test_every_verdict_that_can_be_given_has_a_rule():
    assert {rule.verdict for rule in RULES} == set(Verdict)


def test_every_rule_says_why_and_what_to_do_and_names_the_line():
    for rule in RULES:
        assert rule.why
        assert "{line}" in rule.advice or rule.verdict is Verdict.POOLED or "queue" in rule.why


def test_advice_names_the_program_s_line_and_the_library_s_option():
    assert "app.py:7 in fetch" in judge(signs(TOLD), "app.py:7 in fetch").advice
    assert "pool_pre_ping" in judge(signs(pool=a_pool())).advice


def test_an_exception_alone_is_certain_if_the_search_came_to_its_end():
    whole = signs(held_by=HeldBy.EXCEPTION)
    assert judge(whole).confidence is Confidence.CERTAIN
    cut = signs(held_by=HeldBy.EXCEPTION, cut="the search ran out of time")
    assert judge(cut).confidence is Confidence.LIKELY


def test_unknown_says_what_was_looked_at():
    assert "its holders: found" in judge(signs(paths=("app.KEPT",))).why
    assert "its holders: none found" in judge(signs()).why
    assert "out of time" in judge(signs(cut="the search ran out of time")).why
    assert judge(signs()).confidence is Confidence.UNKNOWN
    assert "not looked for" in judge(Signs(record=a_record(), evidence=some_evidence())).why
