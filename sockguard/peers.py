"""The far sides of connections, where they live in this process."""

from __future__ import annotations

import _socket
from collections.abc import Iterable
from contextlib import suppress

from sockguard import endpoints
from sockguard.farend import Ends, ends_of
from sockguard.records import SocketRecord
from sockguard.registry import alive


def far_sides(
    near: Iterable[SocketRecord], everybody: Iterable[SocketRecord]
) -> list[tuple[SocketRecord, SocketRecord]]:
    """Return ``near`` records with the record of the other end, where it is one of ``everybody``.

    Where both ends are near, the one that connected is taken for near; of a socket pair,
    the first. One netlink request an AF_UNIX socket. Any thread.
    """
    by_ends: dict[Ends, SocketRecord] = {}
    known: dict[int, Ends] = {}
    for record in everybody:
        sock = alive(record)
        if sock is not None and endpoints.is_stream(sock) and (ends := ends_of(sock)) is not None:
            by_ends[ends] = record
            known[record.serial] = ends
    # By ends: an object and its dup() are one connection.
    ours = {known[record.serial]: record for record in near if record.serial in known}
    turns = set(ours)
    pairs = []
    for (local, peer), record in sorted(
        ours.items(), key=lambda one: (bool(one[1].accepted), one[1].serial)
    ):
        far = by_ends.get((peer, local))
        if far is not None and (local, peer) in turns:
            turns.discard((peer, local))  # it is the far one: it has no turn of its own
            pairs.append((record, far))
    return pairs


def close(record: SocketRecord) -> None:
    """Have the kernel send a FIN, and wake whoever reads there. The object stays as it is."""
    sock = alive(record)
    if sock is not None:
        with suppress(OSError):
            _socket.socket.shutdown(sock, _socket.SHUT_RDWR)
