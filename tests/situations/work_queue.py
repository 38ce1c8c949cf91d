"""An accepted connection waits in a queue.Queue that nobody works off."""

import queue
import socket

import peer

WORK = queue.Queue()


def accept(listener):
    connection, _ = listener.accept()
    WORK.put(connection)


with socket.create_server(("127.0.0.1", 0)) as listener:
    peer.visit(listener.getsockname(), b"hello")
    accept(listener)
peer.stay()
WORK.get().close()
