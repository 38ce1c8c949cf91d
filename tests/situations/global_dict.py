"""A table of connections that nobody reads from any more."""

import peer

CONNECTIONS = {}


def connect(name):
    CONNECTIONS[name] = peer.abandoned(b"hello")


connect("billing")
peer.stay()
CONNECTIONS.pop("billing").close()
