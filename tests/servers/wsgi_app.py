"""A WSGI app: each worker's first request opens a connection to UPSTREAM and keeps it."""

import os
import socket
import threading

kept = []
lock = threading.Lock()


def app(environ, start_response):
    with lock:
        if not kept:
            kept.append(socket.create_connection(("127.0.0.1", int(os.environ["UPSTREAM"]))))
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(body))), ("Connection", "close")])
    return [body]
