"""Ground truth: what the kernel shows of a process, from /proc and by no code of ours."""

from __future__ import annotations

import os
from pathlib import Path

CLOSE_WAIT = "08"


def socket_inodes(pid: int) -> set[str]:
    """Return the inodes of the sockets that ``pid`` has open."""
    inodes = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
        except OSError:  # closed meanwhile
            continue
        if target.startswith("socket:["):
            inodes.add(target[len("socket:[") : -1])
    return inodes


def _rows(pid: int, table: str) -> list[list[str]]:
    path = Path(f"/proc/{pid}/net/{table}")
    if not path.exists():  # IPv6 is switched off
        return []
    # Columns shift past 9,999 rows: split, never slice.
    return [line.split() for line in path.read_text().splitlines()[1:]]


def close_wait(pid: int) -> int:
    """Return how many TCP sockets of ``pid`` are in CLOSE_WAIT."""
    rows = _rows(pid, "tcp") + _rows(pid, "tcp6")
    # A set: a row may come twice where the table changes while it is read.
    return len(socket_inodes(pid) & {row[9] for row in rows if row[3] == CLOSE_WAIT})


def unix_connections(pid: int, path: str) -> int:
    """Return how many accepted AF_UNIX sockets ``pid`` has open that are bound to ``path``."""
    ours = socket_inodes(pid)
    # Num RefCount Protocol Flags Type St Inode Path; flag 10000 is a listener. unix(7)
    rows = _rows(pid, "unix")
    return sum(row[7:] == [path] and row[6] in ours and row[3] == "00000000" for row in rows)
