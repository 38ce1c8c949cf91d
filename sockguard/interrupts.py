"""Exceptions that the program sends into our code: they are its own, and must reach it.

A signal handler may raise at any instruction, ours included: a timeout, a shutdown.
"""

from __future__ import annotations

import _thread
import functools
import signal
from collections.abc import Callable
from types import CodeType
from typing import Any, Final

_FOLDER: Final = __file__.rpartition("interrupts")[0]


def _code(handler: Any) -> CodeType | None:
    """Return the code that a signal handler runs, as far as it is Python."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    handler = getattr(handler, "__func__", handler)
    if not hasattr(handler, "__code__"):
        handler = vars(type(handler)).get("__call__")
    return getattr(handler, "__code__", None)


def _frames(error: BaseException) -> list[CodeType]:
    codes = []
    step = error.__traceback__
    while step is not None:
        codes.append(step.tb_frame.f_code)
        step = step.tb_next
    return codes


def signal_behind(error: BaseException) -> int | None:
    """Return the signal whose handler raised ``error``: its frame is in the traceback."""
    codes = _frames(error)
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if handler is signal.default_int_handler and isinstance(error, KeyboardInterrupt):
            return number
        code = _code(handler)
        if code is not None and code in codes:
            return number
    return None


def is_programs(error: BaseException) -> bool:
    """Tell an exception that the program sent: by a signal handler, or from another thread.

    The second kind (``PyThreadState_SetAsyncExc``) begins in a frame of ours, and is none
    that the interpreter raises by itself.
    """
    if signal_behind(error) is not None:
        return True
    codes = _frames(error)
    foreign = type(error).__module__ != "builtins"
    return foreign and bool(codes) and codes[-1].co_filename.startswith(_FOLDER)


def deliver_later(error: BaseException) -> Callable[[], Any]:
    """Return what CPython is to call in a finalizer's place, so that ``error`` is not lost.

    An exception in a finalizer is only printed. What is returned raises the signal again,
    for a handler that raises this very exception, in the program's frame behind the
    finalizer. It is C all through: in Python the signal would strike right there.
    """
    number = signal_behind(error)
    if number is None:
        return functools.partial(_raise, error)
    handler = signal.getsignal(number)

    def again(number: int, frame: Any) -> None:
        signal.signal(number, handler)
        raise error.with_traceback(None)

    signal.signal(number, again)
    return functools.partial(_thread.interrupt_main, number)  # type: ignore[arg-type]


def _raise(error: BaseException) -> None:
    raise error
