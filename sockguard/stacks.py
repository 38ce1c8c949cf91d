"""Call stacks: taken in the application's thread, put into words much later.

A stack is a flat tuple ``(code, lasti, code, lasti, …)``, innermost first: taking it
resolves no line, reads no source and keeps no frame alive.
"""

from __future__ import annotations

import os
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

Stack = tuple[Any, ...]

# Bounds of what is kept to share: distinct stacks, and lines already looked up.
MAX_INTERNED: Final = 4096
MAX_RESOLVED: Final = 8192


def _start_folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it has been removed: names relative to it mean nothing any more
        return None


_START_FOLDER: Final = _start_folder()


class Frame(NamedTuple):
    """One line of a stack in words."""

    file: str
    line: int | None
    function: str


def capture(frame: FrameType | None, depth: int) -> Stack:
    """Take the stack from ``frame`` outwards, ``depth`` frames rounded up to eight.

    The hot path: eight frames to a turn, because an ``append`` a value costs a third more,
    and an unpacking ``(*stack, …)`` as much (docs/design.md has the loops that lost). Any
    thread; no lock.
    """
    stack: Stack = ()
    f = frame
    # fmt: off
    while f is not None and depth > 0:
        if (g := f.f_back) is None:
            return stack + (f.f_code, f.f_lasti)
        if (h := g.f_back) is None:
            return stack + (f.f_code, f.f_lasti, g.f_code, g.f_lasti)
        if (i := h.f_back) is None:
            return stack + (f.f_code, f.f_lasti, g.f_code, g.f_lasti, h.f_code, h.f_lasti)
        if (j := i.f_back) is None:
            return stack + (f.f_code, f.f_lasti, g.f_code, g.f_lasti, h.f_code, h.f_lasti,
                           i.f_code, i.f_lasti)
        if (k := j.f_back) is None:
            return stack + (f.f_code, f.f_lasti, g.f_code, g.f_lasti, h.f_code, h.f_lasti,
                           i.f_code, i.f_lasti, j.f_code, j.f_lasti)
        if (n := k.f_back) is None:
            return stack + (f.f_code, f.f_lasti, g.f_code, g.f_lasti, h.f_code, h.f_lasti,
                           i.f_code, i.f_lasti, j.f_code, j.f_lasti, k.f_code, k.f_lasti)
        if (m := n.f_back) is None:
            return stack + (f.f_code, f.f_lasti, g.f_code, g.f_lasti, h.f_code, h.f_lasti,
                           i.f_code, i.f_lasti, j.f_code, j.f_lasti, k.f_code, k.f_lasti,
                           n.f_code, n.f_lasti)
        stack += (f.f_code, f.f_lasti, g.f_code, g.f_lasti, h.f_code, h.f_lasti,
                 i.f_code, i.f_lasti, j.f_code, j.f_lasti, k.f_code, k.f_lasti,
                 n.f_code, n.f_lasti, m.f_code, m.f_lasti)
        f = m.f_back
        depth -= 8
    # fmt: on
    return stack


class StackTable:
    """Equal stacks stored once. Watcher thread only.

    The key is made of code identities: hashing a code object hashes its contents, and the
    stored stack keeps the objects alive, so that no identity is reused. Full, it starts
    over: at most ``MAX_INTERNED`` stacks are held by it, whatever happens.
    """

    def __init__(self) -> None:
        self._stacks: dict[tuple[int, ...], Stack] = {}

    def intern(self, stack: Stack) -> Stack:
        key = (*map(id, stack[::2]), *stack[1::2])
        if len(self._stacks) >= MAX_INTERNED:
            self._stacks.clear()
        return self._stacks.setdefault(key, stack)


_frames: dict[tuple[int, int], tuple[CodeType, Frame]] = {}


def _line(code: CodeType, lasti: int) -> int | None:
    for start, end, line in code.co_lines():
        if start <= lasti < end:
            return line
    return None


def _path(name: str) -> str:
    # "<string>", "<frozen os>": no file. A relative script name is from where it began.
    if name.startswith("<") or _START_FOLDER is None:
        return name
    return os.path.normpath(os.path.join(_START_FOLDER, name))


def resolve(stack: Stack, depth: int | None = None) -> tuple[Frame, ...]:
    """Put ``stack`` into words: file, line and function of each frame. Watcher thread."""
    resolved = []
    for code, lasti in zip(stack[::2], stack[1::2], strict=True):
        key = (id(code), lasti)
        known = _frames.get(key)
        if known is None or known[0] is not code:
            if len(_frames) >= MAX_RESOLVED:
                _frames.clear()
            frame = Frame(_path(code.co_filename), _line(code, lasti), code.co_name)
            known = _frames[key] = (code, frame)
        resolved.append(known[1])
    return tuple(resolved[:depth])
