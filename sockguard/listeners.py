"""Which listening socket accepted a connection? The one bound to its local address."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from sockguard import endpoints
from sockguard.records import SocketRecord
from sockguard.registry import Registry, alive

# Bound of the table: programs listen on few addresses; one that does not gets no answer.
MAX_LISTENERS = 4096


class Listeners:
    """Finds listeners late, when a finding needs one. Under the watcher's lock.

    A lookup that misses scans all tracked sockets (1 µs each), once a tick.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._by_address: dict[str, SocketRecord] = {}
        self._scanned_ns: int | None = None

    def find(self, local: str | None, now_ns: int) -> SocketRecord | None:
        """Return the record of the socket that accepts at ``local``, also if closed since."""
        if local is None:
            return None
        found = self._lookup(local)
        if found is None and self._scanned_ns != now_ns:
            self._scanned_ns = now_ns
            self._scan()
            found = self._lookup(local)
        return found

    def _lookup(self, local: str) -> SocketRecord | None:
        port = local.rpartition(":")[2]
        for address in (local, f"0.0.0.0:{port}", f"[::]:{port}"):
            if address in self._by_address:
                return self._by_address[address]
        return None

    def _scan(self) -> None:
        if len(self._by_address) >= MAX_LISTENERS:
            self._by_address.clear()
        records: Iterable[SocketRecord] = chain(
            self._registry.inherited.values(), self._registry.records()
        )
        for record in records:
            sock = alive(record)
            if sock is not None and endpoints.is_listening(sock):
                address = endpoints.render(endpoints.raw_local(sock))
                if address is not None:
                    self._by_address[address] = record
