"""An accepted connection waits in an executor's queue: its only thread is stuck elsewhere."""

import concurrent.futures
import socket
import threading

import peer

GO = threading.Event()
EXECUTOR = concurrent.futures.ThreadPoolExecutor(1)


def handle(connection):
    connection.close()


def accept(listener):
    EXECUTOR.submit(handle, listener.accept()[0])


EXECUTOR.submit(GO.wait)
with socket.create_server(("127.0.0.1", 0)) as listener:
    peer.visit(listener.getsockname(), b"hello")
    accept(listener)
peer.stay()
GO.set()
EXECUTOR.shutdown()
