"""Why does a socket stay open? Rules, each with its evidence in words. Pure.

The first rule whose evidence is there gives the verdict. A new one is a row and a test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from sockguard.findings import Confidence, Evidence, HeldBy, Holding, PoolUse, Verdict
from sockguard.records import SocketRecord

_NOT_LOOKED: Final = Holding(cut="not looked for")


@dataclass(frozen=True, kw_only=True, slots=True)
class Signs:
    """All that a rule may look at."""

    record: SocketRecord
    evidence: Evidence
    #: Not looked for: a search is dear, and one of a group is enough.
    holding: Holding = _NOT_LOOKED

    @property
    def pool(self) -> PoolUse | None:
        return self.holding.pool

    @property
    def is_idle(self) -> bool:
        return self.pool is not None and self.pool.is_idle

    @property
    def is_unread(self) -> bool:
        return self.evidence.end_unread is True or bool(self.evidence.unread_bytes)


class Rule(NamedTuple):
    """A verdict with its test, its evidence in words, and what to do.

    In ``why`` and ``advice``, ``{line}`` is the program's own line that opened the socket,
    ``{holding}`` and ``{pool}`` what is known of the holder.
    """

    verdict: Verdict
    confidence: Confidence
    holds: Callable[[Signs], bool]
    why: str
    advice: str


RULES: Final = (
    Rule(
        Verdict.MAKEFILE,
        Confidence.CERTAIN,
        lambda signs: signs.evidence.closed_by_program,
        "close() was called, but an object from makefile() is open and keeps the descriptor",
        "close the file object too, or use both in a `with` statement: the socket is from {line}",
    ),
    Rule(
        Verdict.POOLED,
        Confidence.CERTAIN,
        lambda signs: (
            signs.pool is not None
            and signs.pool.is_normal
            and signs.holding.held_by is not HeldBy.CYCLE
        ),
        "it is idle in a pool, which will notice at its next use: {pool.title}",
        "nothing in a service, while the pool is bounded; in a test, close the session or client;"
        " against the delay at its next use: {pool.option}",
    ),
    Rule(
        Verdict.POOLED,
        Confidence.LIKELY,
        lambda signs: signs.is_idle and signs.holding.held_by is not HeldBy.CYCLE,
        "{pool.alike} pools made at one line keep dead idle connections to one peer; this one"
        " keeps {pool.kept}: {pool.title}",
        "make one pool (a session, a client) and share it, or close each one after use: {line}",
    ),
    Rule(
        Verdict.CYCLE,
        Confidence.CERTAIN,
        lambda signs: signs.holding.held_by is HeldBy.CYCLE,
        "no name reaches it: it is in a reference cycle, and waits for the cycle collector",
        "close it before the last name goes, in a `finally` or a `with` at {line}",
    ),
    Rule(
        Verdict.EXCEPTION,
        Confidence.CERTAIN,
        lambda signs: signs.holding.held_by is HeldBy.EXCEPTION,
        "only the traceback of a stored exception holds it",
        "close it in a `finally` or a `with` at {line}; keep the exception's text instead of"
        " the exception, or clear its traceback (`error.with_traceback(None)`)",
    ),
    Rule(
        Verdict.UNREAD,
        Confidence.CERTAIN,
        lambda signs: signs.holding.queue is not None,
        "it waits in a queue of work, and nobody has taken it: {holding.queue}",
        "have more workers, bound the queue, and look whether the peer is still there before"
        " the work; see why the workers do not get to it",
    ),
    Rule(
        Verdict.UNREAD,
        Confidence.LIKELY,
        lambda signs: (
            signs.pool is not None
            and not signs.is_idle
            and signs.holding.waits_at is None
            and signs.holding.cut is None
            and signs.record.eof is None
        ),
        "a pool counts it as in use, but no thread or task works with it: {pool.title}",
        "give it back: close the response, the stream or the connection in a `with` at {line}",
    ),
    Rule(
        Verdict.STUCK,
        Confidence.LIKELY,
        lambda signs: (
            signs.pool is not None and not signs.is_idle and signs.holding.waits_at is not None
        ),
        "it is in use, by its pool's count, and what runs with it waits elsewhere: {pool.title}",
        "give that wait a timeout, or give the connection back before it: opened at {line}",
    ),
    Rule(
        Verdict.STUCK,
        Confidence.LIKELY,
        lambda signs: signs.holding.held_by is HeldBy.LIVE and signs.holding.waits_at is not None,
        "only what runs holds it, and that waits elsewhere",
        "give that wait a timeout, or close the socket before it: opened at {line}",
    ),
    Rule(
        Verdict.UNREAD,
        Confidence.CERTAIN,
        lambda signs: signs.holding.is_paused,
        "its transport was told not to read (pause_reading), and will never see the peer's end",
        "resume reading, or close it when its work is done: opened at {line}",
    ),
    Rule(
        Verdict.EOF_IGNORED,
        Confidence.CERTAIN,
        lambda signs: signs.record.eof is not None,
        "the program was told that the peer is gone, and did not close",
        "close the socket where the read returned b'' or raised, in a `finally` or a `with`:"
        " opened at {line}",
    ),
    Rule(
        Verdict.UNREAD,
        Confidence.CERTAIN,
        lambda signs: signs.is_unread,
        "nobody has read what the peer sent last",
        "close the socket when its work is done or fails, or keep reading until the end: opened"
        " at {line}",
    ),
    Rule(
        Verdict.UNKNOWN,
        Confidence.UNKNOWN,
        lambda signs: True,
        "unknown: no makefile() holds it, no read is known to have met the end, none waits;"
        " its holders: {looked}",
        "find who holds the socket, and close it on every path, exceptions included: opened at"
        " {line}",
    ),
)


class Opinion(NamedTuple):
    """A verdict in words."""

    verdict: Verdict
    confidence: Confidence
    why: str
    advice: str


def judge(signs: Signs, line: str = "an unknown place") -> Opinion:
    """Return the verdict of the first rule that holds. ``line``: where the socket was opened."""
    rule = next(rule for rule in RULES if rule.holds(signs))
    holding = signs.holding
    words = {
        "line": line,
        "holding": holding,
        "pool": holding.pool,
        "looked": holding.cut or ("found" if holding.paths else "none found"),
    }
    confidence = rule.confidence
    if rule.verdict is Verdict.EXCEPTION and holding.cut is not None:
        confidence = Confidence.LIKELY  # a name may hold it too, out of the search's reach
    return Opinion(
        rule.verdict,
        confidence,
        rule.why.format_map(words),
        rule.advice.format_map(words),
    )
