"""The one way to write to standard error: raw, bounded in time, never to a stranger's file.

Not by ``logging`` or ``print``: from the watcher's raw thread the first leaves a dummy
thread behind in ``threading.enumerate()``, and the second takes a lock of the program's.
"""

from __future__ import annotations

import os
import select
from typing import Final

from sockguard.descriptors import Identity, identity
from sockguard.native import original

FD: Final = 2
# A pipe that poll(2) calls writable takes PIPE_BUF bytes without blocking. pipe(7)
_CHUNK: Final = 4096
_PATIENCE_MS: Final = 250

_ours: Identity | None = None
_said: set[str] = set()


def remember() -> None:
    """Note which file standard error is, so that a later stranger under its number is spared."""
    global _ours
    _ours = identity(FD)


def is_ours() -> bool:
    """Tell whether descriptor 2 is still standard error.

    A program that closes it and opens a database gets the number 2. A log that it puts
    there instead is opened for appending, and welcome.
    """
    if _ours is None:
        return False
    now = identity(FD)
    return now == _ours or (now is not None and _appends())


def _appends() -> bool:
    try:
        import fcntl
        import stat

        regular = stat.S_ISREG(os.fstat(FD).st_mode)
        return regular and bool(fcntl.fcntl(FD, fcntl.F_GETFL) & os.O_APPEND)
    except (ImportError, OSError):
        return False


def _writable() -> bool:
    try:
        poll = original("select", "poll")()
    except AttributeError:  # Windows: select(2) takes sockets only; a console does not block
        return True
    poll.register(FD, select.POLLOUT)
    return any(mask & select.POLLOUT for _, mask in poll.poll(_PATIENCE_MS))


def write(text: str) -> bool:
    """Write ``text`` to standard error; tell whether all of it went out.

    Any thread. Waits at most a quarter of a second for a full pipe, then drops the rest:
    a stuck reader must not hold the program's exit. Raises nothing.
    """
    rest = text.encode("utf-8", "backslashreplace")
    try:
        while rest:
            if not is_ours() or not _writable():
                return False
            rest = rest[os.write(FD, rest[:_CHUNK]) :]
    except OSError:
        return False
    return True


def complain(message: str) -> None:
    """Say ``message`` once in the life of this process. Any thread; raises nothing."""
    if message not in _said and len(_said) < 64:
        _said.add(message)
        write(f"sockguard: {message}\n")
