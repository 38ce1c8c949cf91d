"""A server by `selectors` unregisters who is gone, and forgets to close."""

import selectors
import socket

import peer

SESSIONS = {}


def serve(listener):
    connection, address = listener.accept()
    SESSIONS[address[0]] = connection
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                if not key.fileobj.recv(4096):
                    selector.unregister(key.fileobj)


with socket.create_server(("127.0.0.1", 0)) as listener:
    peer.visit(listener.getsockname(), b"hello")
    serve(listener)
peer.stay()
SESSIONS.popitem()[1].close()
