"""Putting a function in the place of a method, in place, and taking it out again.

In place: ``isinstance``, subclasses and names that were imported earlier go on working.
What was taken out leaves ``vars`` of the class as they were found.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

_ABSENT: Any = object()


class Placement:
    """What is placed where, by hand: under pytest, where wrapt would be most of the cost.

    ``place`` and ``remove`` may run in two threads; each thing is taken out once.
    """

    def __init__(self) -> None:
        self._placed: list[tuple[Any, str, Any, Any]] = []
        #: For good: what is imported later finds nothing to do.
        self.removed = False

    def place(self, target: Any, name: str, make: Callable[[Any], object]) -> None:
        """Put what ``make`` returns in the place of ``target.name``, if there is one."""
        if hasattr(target, name):
            before = vars(target).get(name, _ABSENT)
            self._placed.append((target, name, self._put(target, name, make), before))

    def remove(self) -> None:
        """Take everything out, the last first. What somebody has wrapped stays in."""
        self.removed = True
        while self._placed:
            with suppress(IndexError):  # another thread was first
                self._take(*self._placed.pop())

    def _put(self, target: Any, name: str, make: Callable[[Any], object]) -> object:
        original = next(vars(cls)[name] for cls in target.__mro__ if name in vars(cls))
        hook = make(original)
        setattr(target, name, hook)
        return hook

    def _take(self, target: Any, name: str, hook: object, before: object) -> None:
        if vars(target).get(name) is hook:
            if before is _ABSENT:  # it was inherited
                delattr(target, name)
            else:
                setattr(target, name, before)


class WraptPlacement(Placement):
    """By wrapt, in a service. Importing it costs 20 to 60 ms: not before it is wanted."""

    def _put(self, target: Any, name: str, make: Callable[[Any], object]) -> object:
        import wrapt

        # A plain function, not wrapt's proxy: its bound call costs three times as much.
        hook: object = wrapt.wrap_object(target, name, make)  # type: ignore[arg-type]
        return hook

    def _take(self, target: Any, name: str, hook: Any, _: object) -> None:
        import wrapt

        with suppress(wrapt.WrapperNotOutermostError):
            wrapt.unwrap_object(target, name, hook, missing_ok=True)
