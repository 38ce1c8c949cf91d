"""Looks like `eof_ignored`: the program has read, but the EOF waits behind data that it left."""

import peer

CONNECTIONS = {}


def receive():
    CONNECTIONS["peer"] = peer.abandoned(b"hello and goodbye")
    CONNECTIONS["peer"].recv(5)


receive()
peer.stay()
CONNECTIONS.pop("peer").close()
