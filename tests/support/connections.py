"""Connections whose peer has closed."""

from __future__ import annotations

import socket

PATIENCE_S = 20.0


def abandoned() -> socket.socket:
    """Return a connection whose peer has closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    theirs.close()
    wait_for_the_end(connection)
    return connection


def wait_for_the_end(connection: socket.socket) -> None:
    connection.settimeout(PATIENCE_S)
    assert connection.recv(1, socket.MSG_PEEK) == b""
