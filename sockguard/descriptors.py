"""File descriptors of our own: out of the program's way, and never mistaken for another's.

A daemonizing program runs ``closerange`` and then opens its own files: the numbers that
were ours are now its. Every use of a number starts with the question whose it is.
"""

from __future__ import annotations

import os
from typing import NamedTuple

try:
    import fcntl
except ImportError:  # not POSIX: descriptors stay where they were opened
    fcntl = None  # type: ignore[assignment]

# Programs (and their tests) know the small numbers; shells keep 255 for themselves.
HIGH: int = 800


class Identity(NamedTuple):
    """What a descriptor refers to: equal while it is the same open file."""

    device: int
    inode: int


def identity(fd: int) -> Identity | None:
    """Return what ``fd`` refers to now, ``None`` if it is closed. One ``fstat(2)``."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return Identity(status.st_dev, status.st_ino)


def move_high(fd: int) -> int:
    """Move ``fd`` out of the range that the program counts in; return its new number.

    The old number is closed. Where the limit on open files leaves no room, ``fd`` stays.
    """
    if fcntl is None:
        return fd
    try:
        moved: int = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH)
    except OSError:
        return fd
    os.close(fd)
    return moved


def count() -> int | None:
    """Return how many descriptors are open; ``None`` where the system has no list of them."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(os.listdir(folder)) - 1  # one is the listing's own
        except OSError:
            continue
    return None


def limit() -> int | None:
    """Return how many this process may have (RLIMIT_NOFILE, soft); ``None`` for any number."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
