"""Reading JSON Lines that guarded processes write, also while they write."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

LEAK = "sockguard.socket.leak"
SUMMARY = "sockguard.summary"
PATIENCE_S = 20.0

Line = dict[str, Any]
T = TypeVar("T")


def lines(path: Path, event: str | None = None) -> list[Line]:
    """Return the lines of ``path``, those of one event only if it is named."""
    text = path.read_text("utf-8") if path.exists() else ""
    text = text[: text.rfind("\n") + 1]  # a line that is being written is not there yet
    found = [json.loads(line) for line in text.splitlines()]
    return [line for line in found if event is None or line["event"] == event]


def leaks(path: Path) -> list[Line]:
    """Return the leak lines."""
    return lines(path, LEAK)


def summaries(path: Path) -> dict[int, Line]:
    """Return the closing lines by process; none closes twice."""
    found = lines(path, SUMMARY)
    by_pid = {line["pid"]: line for line in found}
    assert len(by_pid) == len(found), "a process wrote two summaries"
    return by_pid


def wait_for(what: str, ask: Callable[[], T], patience_s: float = PATIENCE_S) -> T:
    """Ask until the answer is true, and return it; fail by name if it never is."""
    deadline = time.monotonic() + patience_s
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"waited {patience_s:g} s in vain for {what}"
        time.sleep(0.02)
    return answer


def wait_for_leaks(path: Path, count: int) -> list[Line]:
    """Wait until ``count`` leak lines are there. A group's first five are all written."""
    return wait_for(f"{count} leaks", lambda: len(leaks(path)) >= count and leaks(path))


def lines_in(stack: list[Line], file: Path) -> list[int]:
    """Return the lines of ``file`` that a stack names, innermost first."""
    return [frame["line"] for frame in stack if frame["file"] == str(file)]


def line_of(file: Path, call: str) -> int:
    """Return the number of the only line of ``file`` that has ``call`` in it."""
    numbers = [
        number
        for number, text in enumerate(file.read_text("utf-8").splitlines(), start=1)
        if call in text
    ]
    assert len(numbers) == 1, f"{call!r} is on {len(numbers)} lines of {file}"
    return numbers[0]
