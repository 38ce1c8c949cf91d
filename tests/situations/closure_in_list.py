"""A function kept in a list has the connection in a variable of the function around it."""

import peer

CALLBACKS = []


def make():
    sock = peer.abandoned()

    def callback():
        sock.close()

    CALLBACKS.append(callback)


make()
peer.stay()
CALLBACKS.pop()()
