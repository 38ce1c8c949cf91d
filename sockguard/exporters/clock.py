"""Monotonic times as wall-clock times: what is told outside of the process."""

from __future__ import annotations

import time


def unix_ns(at_ns: int) -> int:
    """Return the nanoseconds since 1970 of a monotonic time, by the wall clock of now."""
    return time.time_ns() - (time.monotonic_ns() - at_ns)
