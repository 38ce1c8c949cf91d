"""The program reads until b"" and keeps the connection in a table."""

import peer

CONNECTIONS = {}


def receive():
    CONNECTIONS["peer"] = peer.abandoned(b"goodbye")
    while CONNECTIONS["peer"].recv(4096):
        pass


receive()
peer.stay()
CONNECTIONS.pop("peer").close()
