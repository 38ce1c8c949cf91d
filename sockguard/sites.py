"""Whose line is it? Application, library or standard library; and the name of a group.

The fingerprint of a bug must be the same on every host, Python version and worker, and
after unrelated edits: module and plain function names only, no path, line or address.
"""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from sockguard.stacks import Frame

_PACKAGE: Final = os.path.dirname(os.path.abspath(__file__)) + os.sep
_STDLIB: Final = tuple(
    {
        os.path.realpath(path) + os.sep
        for path in (
            sysconfig.get_path("stdlib"),
            sysconfig.get_path("platstdlib"),
            os.path.dirname(os.__file__),
        )
        if path
    }
)
_SITE: Final = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
# Functions of their own up to 3.11, part of their caller since (PEP 709).
_INLINED: Final = {"<listcomp>", "<setcomp>", "<dictcomp>"}


def is_ours(frame: Frame) -> bool:
    """Tell a frame of sockguard itself."""
    return frame.file.startswith(_PACKAGE)


@lru_cache(maxsize=2048)
def _is_stdlib(file: str) -> bool:
    if file.startswith("<frozen "):
        return True
    return not is_site(file) and os.path.realpath(file).startswith(_STDLIB)


def is_site(file: str) -> bool:
    """Tell a file that was installed as a package."""
    return any(part in file for part in _SITE)


def is_stdlib(frame: Frame) -> bool:
    """Tell a frame of the standard library."""
    return _is_stdlib(frame.file)


def is_application(frame: Frame) -> bool:
    """Tell a frame of the program itself: neither standard library nor installed package."""
    return not (is_site(frame.file) or is_stdlib(frame) or is_ours(frame))


@lru_cache(maxsize=2048)
def module_name(file: str) -> str:
    """Return the dotted module name of ``file``: its path below the nearest ``sys.path`` entry."""
    if file.startswith("<"):
        return file
    stem = os.path.splitext(file)[0]
    roots = [os.path.abspath(entry or os.curdir) + os.sep for entry in sys.path]
    below = [stem[len(root) :] for root in roots if stem.startswith(root)]
    name = min(below, key=len) if below else os.path.basename(stem)
    return name.replace(os.sep, ".").removesuffix(".__init__")


def _name(frame: Frame) -> str:
    return f"{module_name(frame.file)}:{frame.function}"


def _names(frames: Sequence[Frame]) -> list[str]:
    names: list[str] = []
    for frame in frames:
        name = _name(frame)
        # Recursion: the depth of a call is not part of the bug.
        if frame.function not in _INLINED and (not names or names[-1] != name):
            names.append(name)
    return names


def signature(stack: Sequence[Frame]) -> list[str]:
    """Return what identifies a creation stack: application frames, and the library call below."""
    application = [index for index, frame in enumerate(stack) if is_application(frame)]
    if application:
        first = application[0]
        below = stack[first - 1 : first] if first else ()
        return _names([*below, *(stack[index] for index in application)])
    return _names([frame for frame in stack if not is_stdlib(frame)] or stack)


def fingerprint(stack: Sequence[Frame], listener: Sequence[Frame] = ()) -> str:
    """Return the name of the bug: twelve hexadecimal digits, equal for equal causes.

    ``listener`` is the creation stack of the socket that accepted this one; it speaks
    where the accept loop is library code.
    """
    names = signature(stack)
    if not any(map(is_application, stack)):
        names += ["listener", *signature(listener)] if listener else []
    return hashlib.sha256("\n".join(names).encode("utf-8", "replace")).hexdigest()[:12]


def culprit(stack: Sequence[Frame]) -> Frame | None:
    """Return the program's own line: the innermost application frame, else the innermost."""
    for frame in stack:
        if is_application(frame):
            return frame
    return stack[0] if stack else None
