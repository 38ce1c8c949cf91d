"""A socket in trouble, followed from the first sign to its end."""

from __future__ import annotations

from sockguard import endpoints
from sockguard.descriptors import Identity, identity
from sockguard.detector import Trouble
from sockguard.findings import Finding
from sockguard.records import SocketRecord
from sockguard.registry import alive


class Case:
    """A socket in trouble, from the first sign to its end."""

    __slots__ = (
        "finding",
        "identity",
        "is_asked",
        "pooled",
        "pooled_ns",
        "record",
        "spared",
        "trouble",
        "twins",
    )

    def __init__(self, record: SocketRecord, trouble: Trouble) -> None:
        self.record = record
        self.trouble = trouble
        #: Set when it has become a leak.
        self.finding: Finding | None = None
        self.identity: Identity | None = None
        #: As long as it is idle in a bounded pool; and when that was seen last.
        self.pooled: Finding | None = None
        self.pooled_ns = 0
        #: Its other end has been looked for.
        self.is_asked = False
        #: The user asked to ignore this one.
        self.spared = False
        #: Other objects with a descriptor of their own for the same kernel socket (dup).
        self.twins: list[SocketRecord] = []

    def is_open(self) -> bool:
        """Tell whether any descriptor of the kernel socket that we know of is open."""
        if alive(self.record) is not None:
            return True
        for twin in self.twins:
            if alive(twin) is not None:
                self.record = twin
                return True
        # The object has let go of the number (detach, TLS): the kernel has not.
        if self.finding is None or self.identity is None:
            return False
        return identity(self.record.fd) == self.identity


def note_peer(record: SocketRecord, sock: object) -> None:
    """Keep the peer's address with the record."""
    # While it is connected: after a reset the kernel does not know the peer any more.
    if record.peer is None:
        record.peer = endpoints.render(endpoints.raw_peer(sock))
