"""A client with a leak that its tests pass over; under sockguard they do not.

    python -m pytest examples/test_inventory.py        (pytest.ini beside it switches sockguard on)

The second test fails, with the line that opened the socket. The third shows a leak that
waits for the peer to close: in production the server drops idle connections some day.
"""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest

Address = tuple[str, int]


class Inventory:
    """Asks a server how many there are of an item."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.failures: list[Exception] = []

    def count(self, item: str) -> int:
        sock = socket.create_connection(self.address)
        try:
            sock.sendall(f"{item}\n".encode())
            answer = int(sock.makefile("rb").readline())
            sock.close()
        except ValueError as error:  # and the socket stays open
            self.failures.append(error)
            return 0
        return answer


class Handler(socketserver.StreamRequestHandler):
    """One answer a connection."""

    def handle(self) -> None:
        item = self.rfile.readline().strip()
        self.wfile.write({b"apples": b"7\n"}.get(item, b"no such item\n"))


@pytest.fixture(scope="module")
def inventory() -> Iterator[Inventory]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Inventory(server.server_address)
        server.shutdown()
        thread.join()


def test_apples(inventory: Inventory) -> None:
    assert inventory.count("apples") == 7


def test_pears(inventory: Inventory) -> None:
    assert inventory.count("pears") == 0


def test_idle_connection(sockguard) -> None:  # noqa: ANN001
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
        with accepted:
            assert sockguard.leaks() == []  # the peer is there
            assert sockguard.close_peers() == 1  # as the server will do some day
            (leak,) = sockguard.leaks()
            assert leak.kind.value == "peer_closed"
        sock.close()
