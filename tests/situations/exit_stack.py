"""A contextlib.ExitStack would close the connection, if anybody ended it."""

import contextlib

import peer

STACK = contextlib.ExitStack()


def connect():
    STACK.enter_context(peer.abandoned())


connect()
peer.stay()
STACK.close()
