"""From a draft, which the kernel's evidence made, to a finding with its holders and verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from sockguard.drafts import Draft
from sockguard.explainer import Explainer, NotNowError
from sockguard.exporters.wording import place
from sockguard.findings import FarEnd, Finding, Kind, PoolUse, Verdict
from sockguard.records import SocketRecord
from sockguard.sites import culprit
from sockguard.verdicts import Signs, judge

FarEndOf = Callable[[SocketRecord], FarEnd | None]


class Conclusion(NamedTuple):
    """A draft with its holders and its verdict, as far as they are known."""

    draft: Draft
    finding: Finding
    pool: PoolUse | None = None

    @property
    def is_normal(self) -> bool:
        """Idle in a bounded pool: no leak."""
        is_pooled = self.finding.verdict is Verdict.POOLED
        return is_pooled and self.pool is not None and self.pool.is_normal


def _conclude(
    draft: Draft, explainer: Explainer, far_end: FarEndOf, *, anew: bool, asked: bool
) -> Conclusion:
    finding, record = draft.finding, draft.record
    if draft.case is not None and draft.case.finding is finding:
        return Conclusion(draft, finding)  # its object is gone, the descriptor is not
    frame = culprit(finding.created.stack)
    line = "an unknown place" if frame is None else place(frame)
    signs = Signs(record=record, evidence=draft.evidence)
    if finding.kind is not Kind.COLLECTED:
        holding = explainer.explain(record, finding.fingerprint, anew=anew, asked=asked)
        if holding is not None:
            signs = Signs(record=record, evidence=draft.evidence, holding=holding)
            finding = replace(
                finding,
                holders=holding.paths or None,
                waits_at=holding.waits_at,
                handler=holding.handler,
                # Not at each look at an idle connection: 1 ms.
                far_end=None if draft.case and draft.case.pooled else far_end(record),
            )
    opinion = judge(signs, line)
    finding = replace(
        finding,
        verdict=opinion.verdict,
        confidence=opinion.confidence,
        why=opinion.why,
        advice=opinion.advice,
    )
    return Conclusion(draft, finding, signs.pool)


def conclude(
    drafts: Iterable[Draft],
    explainer: Explainer,
    far_end: FarEndOf,
    *,
    asked: bool = False,
) -> list[Conclusion]:
    """Look for the holders and far ends of the drafts' sockets, and judge.

    In the watcher's thread, or a check's. What has to wait is left out. ``asked``: nothing
    has to, and of each group the first is explained, whatever was before.
    """
    concluded: list[Conclusion] = []
    met: set[str] = set()
    for draft in drafts:
        anew = asked and draft.finding.fingerprint not in met
        met.add(draft.finding.fingerprint)
        with suppress(NotNowError):
            concluded.append(_conclude(draft, explainer, far_end, anew=anew, asked=asked))
    return concluded
