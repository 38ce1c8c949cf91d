"""What a pytest run is doing at this moment, read from where it keeps it: a stack, its caches.

For who comes late, and so has been told of no test and no fixture by a hook.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final, NamedTuple

import pytest
from _pytest import runner
from _pytest.fixtures import FixtureDef

from sockguard.stacks import Stack, capture

_EXECUTE: Final = getattr(getattr(FixtureDef, "execute", None), "__code__", None)
_PHASES: Final = tuple(
    getattr(getattr(runner, name, None), "__code__", None)
    for name in (
        "runtestprotocol",
        "call_and_report",
        "pytest_runtest_setup",
        "pytest_runtest_call",
        "pytest_runtest_teardown",
    )
)
_PYTEST: Final = os.path.dirname(os.path.abspath(runner.__file__)) + os.sep


class Underway(NamedTuple):
    """A test, and the fixtures wider than it that are being set up, the innermost last."""

    item: pytest.Item | None
    fixtures: list[Any]
    #: The test has failed before this phase of it.
    has_failed: bool


def underway(session: pytest.Session, thread: int) -> Underway:
    """Return what runs in the thread with that number, for ``session`` and no other's tests."""
    item: pytest.Item | None = None
    fixtures: list[Any] = []
    reports: list[Any] = []
    frame = sys._current_frames().get(thread)  # noqa: SLF001
    while frame is not None:
        code = frame.f_code
        if code is _EXECUTE:
            names = frame.f_locals
            if names["request"].session is session and is_wide(names["self"]):
                fixtures.insert(0, names["self"])
        elif any(code is phase for phase in _PHASES):
            names = frame.f_locals
            if names["item"].session is session:
                item = names["item"]
                reports = names.get("reports", reports)
        frame = frame.f_back
    if item is None:  # its frames are a greenlet's
        nodes = list(session._setupstate.stack)  # noqa: SLF001
        item = nodes[-1] if nodes and isinstance(nodes[-1], pytest.Item) else None
    return Underway(item, fixtures, any(report.failed for report in reports))


def known_fixtures(session: pytest.Session) -> Iterator[Any]:
    """Yield the fixtures wider than a test."""
    # By name, and from 9.2 on then by node: each pytest has had tables of its own.
    tables: list[Any] = [vars(session._fixturemanager)]  # noqa: SLF001
    while tables:
        table = tables.pop()
        for entry in list(table.values() if isinstance(table, dict) else table):
            if isinstance(entry, (dict, list, tuple)):
                tables.append(entry)
            elif isinstance(entry, FixtureDef) and is_wide(entry):
                yield entry


def is_wide(fixturedef: Any) -> bool:
    """Tell a fixture that outlives its test."""
    return bool(fixturedef.scope != "function")


def is_alive(fixturedef: Any) -> bool:
    """Tell a fixture that has been set up, without an error, and not torn down."""
    return fixturedef.cached_result is not None and fixturedef.cached_result[2] is None


def sets_names(fixturedef: Any) -> bool:
    """Tell ``setup_module`` and the like: what they keep they set, by name."""
    return bool(fixturedef.argname.startswith(("_unittest_", "_xunit_")))


def capture_program(frame: FrameType | None, depth: int) -> Stack:
    """Take the stack from ``frame`` outwards, up to where pytest calls the program's code.

    In place of ``stacks.capture``: 20 of 24 frames are pytest's own, the same for each test.
    """
    stack: Stack = ()
    while frame is not None and depth > 0:
        code = frame.f_code
        if _is_pytests[code.co_filename]:
            break
        stack += (code, frame.f_lasti)
        frame = frame.f_back
        depth -= 1
    return stack or capture(frame, depth)


class _Files(dict[str, bool]):
    """Whether a file is pytest's, found out once: this is asked where sockets are made."""

    def __missing__(self, file: str) -> bool:
        found = self[file] = file.startswith(_PYTEST)
        return found


_is_pytests: Final = _Files()
