"""When may a thread start again in the parent of a fork, so that CPython does not warn of it?

From 3.12 on it counts the process's threads behind the last ``after_in_parent`` hook, still
inside ``os.fork``; there is no hook after that. A program that forks and then waits in the
kernel opens no socket and allocates nothing, so neither can be waited for.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, NamedTuple

_FOLDER: Final = __file__.rpartition("afterfork")[0]


def may_start_at_once() -> bool:
    """Tell whether a thread in an ``after_in_parent`` hook changes no warning.

    Up to 3.11 there is none; with another thread of the program's it comes anyway.
    """
    if sys.version_info < (3, 12):
        return True
    try:
        return len(os.listdir("/proc/self/task")) > 1
    except OSError:
        return False


class _Errand(NamedTuple):
    pid: int
    frame: FrameType
    lasti: int
    act: Callable[[], None]


_errand: _Errand | None = None
# Built once, kept for good: the interpreter may hold a call to it at any time.
_call: Any = None


def call_when_back(act: Callable[[], None]) -> None:
    """Call ``act`` in this thread once the ``os.fork`` that runs our hook has returned.

    From a ``before`` hook. By ``Py_AddPendingCall``, which runs in the main thread, and only
    if there is ctypes; ``act`` must raise nothing, and bear being called too late.
    """
    global _errand, _call
    if sys.version_info < (3, 12):
        return
    if _call is None:
        try:
            import ctypes

            _call = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(_on_pending)
            add = functools.partial(ctypes.pythonapi.Py_AddPendingCall, _call, None)
        except (ImportError, AttributeError, OSError, MemoryError):
            return
        # C all through, and behind the hooks of others: with a Python frame of ours, or
        # theirs, the call would come before `os.fork` is back.
        os.register_at_fork(after_in_parent=add)
    forking: FrameType = sys._getframe(1)  # noqa: SLF001  # whoever called os.fork
    while forking.f_back is not None and forking.f_code.co_filename.startswith(_FOLDER):
        forking = forking.f_back
    _errand = _Errand(os.getpid(), forking, forking.f_lasti, act)


def forget() -> None:
    """In the child: there is nothing to wake, and the parent's frame is not to be kept."""
    global _errand
    _errand = None


def _on_pending(_: Any) -> int:
    global _errand
    errand = _errand
    if errand is None or errand.pid != os.getpid():  # the child has inherited the call
        _errand = None
    elif _is_back(errand, sys._getframe(1)):  # noqa: SLF001
        _errand = None
        errand.act()
    else:
        import ctypes

        ctypes.pythonapi.Py_AddPendingCall(_call, None)
    return 0


def _is_back(errand: _Errand, frame: FrameType | None) -> bool:
    """Tell whether the frame that forked has gone on since, or has ended."""
    if frame is errand.frame:
        return True  # interrupted between two instructions: the call is over
    while frame is not None and frame is not errand.frame:
        frame = frame.f_back
    return frame is None or frame.f_lasti != errand.lasti
