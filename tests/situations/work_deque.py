"""Accepted connections wait in a deque, with their addresses."""

import socket
from collections import deque

import peer

BACKLOG = deque()


def accept(listener):
    BACKLOG.append(listener.accept())


with socket.create_server(("127.0.0.1", 0)) as listener:
    peer.visit(listener.getsockname(), b"hello")
    accept(listener)
peer.stay()
BACKLOG.pop()[0].close()
