"""Runs the programs of this folder under guard, several at a time, and says what was reported."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Container, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from support import kernel
from support.ldjson import LEAK, Line, lines, wait_for
from support.programs import guarded

SITUATIONS = Path(__file__).parent
POOLED = "sockguard.socket.pooled"
AT_ONCE = 3  # they wait for a threshold most of the time


@dataclass(frozen=True, kw_only=True)
class Situation:
    """A program and what is to be said of its socket. Patterns are matched in full.

    In a pattern, ``{app}`` is the program's module name. Every pattern of ``held`` matches a
    holder, the first one the first; ``never`` matches none. ``waits`` is searched in the present
    stack: ``thread worker: wait (threading.py) < get (queue.py) < work (app.py)``.
    """

    program: str
    verdict: str
    held: tuple[str, ...] = ()
    never: str | None = None
    waits: str | None = None
    #: Words of the evidence, where another rule gives the same verdict.
    why: str = ""
    #: The event that tells of it, and how many sockets there are.
    event: str = LEAK
    count: int = 1
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Report:
    """What came of a run."""

    fds: list[int]
    #: In CLOSE_WAIT, as the kernel showed when the report came.
    close_wait: int
    told: list[Line]
    code: int
    errors: str


def perform(situation: Situation, folder: Path) -> Report:
    """Run one program until it has been reported, then to its end."""
    folder.mkdir()
    output = folder / "leaks.jsonl"
    file = SITUATIONS / f"{situation.program}.py"
    # A search may take long where several programs share a processor: its bound is none of ours.
    with guarded(output, str(file), explain="5") as program:
        fds = json.loads(" ".join(program.line()))["fds"]
        # One too many pools makes leaks of them: the first may be told before that.
        awaited = {LEAK} if situation.count > 1 else {LEAK, POOLED}
        wait_for(f"a report on {situation.program}", lambda: told(output, awaited))
        close_wait = kernel.close_wait(program.pid)
        code = program.end()
        errors = program.errors()
    return Report(
        fds=fds,
        close_wait=close_wait,
        told=told(output, {LEAK, POOLED}),
        code=code,
        errors=errors,
    )


def told(output: Path, events: set[str]) -> list[Line]:
    """Return the lines of certain events."""
    return [line for line in lines(output) if line["event"] in events]


@contextmanager
def performances(
    situations: Iterable[Situation], folder: Path
) -> Iterator[dict[str, Future[Report]]]:
    """Run programs, ``AT_ONCE`` at a time; those whose libraries are missing are left out."""
    executor = ThreadPoolExecutor(AT_ONCE)
    try:
        yield {
            each.program: executor.submit(perform, each, folder / each.program)
            for each in situations
            if not missing(each)
        }
    finally:
        executor.shutdown(cancel_futures=True)  # a run that is cut short starts no more of them


def missing(situation: Situation) -> list[str]:
    """Return the libraries that a program needs and that are not installed."""
    return [name for name in situation.needs if importlib.util.find_spec(name) is None]


def selected(request: pytest.FixtureRequest) -> list[Situation]:
    """Return the situations of those tests of the module that are to be run."""
    chosen = [getattr(item, "callspec", None) for item in request.session.items]
    return [
        callspec.params["situation"]
        for item, callspec in zip(request.session.items, chosen, strict=True)
        if item.path == request.path and callspec is not None and "situation" in callspec.params
    ]


def check(situation: Situation, running: dict[str, Future[Report]]) -> None:
    """Compare what was said with what is true."""
    if absent := missing(situation):
        pytest.skip(f"not installed: {', '.join(absent)}")
    report = running[situation.program].result()
    assert (report.code, report.errors) == (0, "")
    assert report.close_wait == situation.count == len(report.fds)
    assert {line["fd"] for line in report.told} <= set(report.fds), "another socket was reported"
    own = [line for line in report.told if line["event"] == situation.event]
    assert own, f"told as {report.told[0]['event']}, {report.told[0]['verdict']}"
    if situation.count == 1:
        assert len(report.told) == 1
    line = own[0]
    assert line["verdict"] == situation.verdict, f"{line['why']}; held by {line['holders']}"
    assert re.search(situation.why, line["why"]), line["why"]
    _check_holders(situation, line["holders"])
    _check_stack(situation, line["waits_at"])


def _check_holders(situation: Situation, holders: list[str] | None) -> None:
    for index, pattern in enumerate(situation.held):
        assert holders, "no holder"
        wanted = re.compile(pattern.replace("{app}", situation.program))
        told_there = holders if index else holders[:1]
        assert any(map(wanted.fullmatch, told_there)), f"{wanted.pattern!r} is none of {holders}"
    if situation.never is not None:
        unwanted = re.compile(situation.never.replace("{app}", situation.program))
        assert not any(map(unwanted.fullmatch, holders or ())), holders


def _check_stack(situation: Situation, waits_at: Line | None) -> None:
    if situation.waits is None:
        if situation.verdict != "stuck":
            return
        raise AssertionError("a row of `stuck` says where it waits")
    assert waits_at is not None, "no present stack"
    text = stack_in_words(waits_at)
    assert re.search(situation.waits.replace("{app}", situation.program), text), text


def stack_in_words(origin: Line) -> str:
    """Return ``thread worker: wait (threading.py) < get (queue.py)``, innermost first."""
    frames = [f"{frame['function']} ({Path(frame['file']).name})" for frame in origin["stack"]]
    who = f"task {origin['task']}" if origin.get("task") else f"thread {origin.get('thread')}"
    return f"{who}: {' < '.join(frames)}"


def rows(situations: Iterable[Situation], quick: Container[str]) -> list[ParameterSet]:
    """Return each as a test's parameter. Those that are not ``quick`` are for ``.ci/run``.

    A program takes half a second of a processor: the interpreter, the guard, its library.
    """
    return [
        pytest.param(each, id=each.program, marks=() if each.program in quick else pytest.mark.long)
        for each in situations
    ]
