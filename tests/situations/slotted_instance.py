"""An object with __slots__ has the connection."""

import peer

CLIENTS = []


class Slim:
    __slots__ = ("name", "sock")

    def __init__(self):
        self.sock = peer.abandoned()


CLIENTS.append(Slim())
peer.stay()
CLIENTS.pop().sock.close()
