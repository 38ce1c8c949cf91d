"""A list of callbacks has a bound method, whose object has the connection."""

import peer

CALLBACKS = []


class Client:
    def __init__(self):
        self._sock = peer.abandoned()

    def close(self):
        self._sock.close()


CALLBACKS.append(Client().close)
peer.stay()
CALLBACKS.pop()()
