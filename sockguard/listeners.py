"""Which listening socket accepted a connection? The one bound to its local address."""

from __future__ import annotations

import re
from typing import Final

from sockguard import endpoints
from sockguard.records import SocketRecord
from sockguard.registry import Registry, alive, reachable

# Bound of the table: programs listen on few addresses; one that does not gets no answer.
MAX_LISTENERS: Final = 4096

_IPV4: Final = re.compile(r"[\d.]+:(\d+)")
_IPV6: Final = re.compile(r"\[.*\]:(\d+)")


def candidates(local: str) -> list[str]:
    """Return the addresses that a listener of a connection at ``local`` may be bound to."""
    if match := _IPV4.fullmatch(local):
        return [local, f"0.0.0.0:{match[1]}", f"[::]:{match[1]}"]
    if match := _IPV6.fullmatch(local):
        return [local, f"[::]:{match[1]}"]
    return [local]


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
        if (found is None or alive(found) is None) and self._scanned_ns != now_ns:
            self._scanned_ns = now_ns
            self._scan()
            found = self._lookup(local)
        return found

    def _lookup(self, local: str) -> SocketRecord | None:
        for address in candidates(local):
            if address in self._by_address:
                return self._by_address[address]
        return None

    def _scan(self) -> None:
        if len(self._by_address) >= MAX_LISTENERS:
            self._by_address.clear()
        for filed in (*self._registry.inherited.values(), *self._registry.records()):
            record = reachable(filed)
            sock = None if record is None else alive(record)
            if record is not None and sock is not None and endpoints.is_stream(sock):
                address = endpoints.render(endpoints.raw_local(sock))
                if len(self._by_address) >= MAX_LISTENERS:
                    return
                if address is not None and endpoints.is_listening(sock):
                    self._by_address[address] = record
