"""gevent's servers, their handlers at work: which handler has the connection? One JSON a line."""

# ruff: noqa: E402  # gevent patches before the rest is imported
from gevent import monkey

monkey.patch_all()

import json
import os
import socket
import sys

import gevent
from gevent.pywsgi import WSGIServer
from gevent.server import StreamServer

sys.path.insert(0, os.path.dirname(__file__))
from handler_probe import accepted, way_out

from sockguard import handlers


def handle(conn, address):
    conn.sendall(b"hello")
    conn.recv(1)


def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "10")])
    yield b"hello"
    gevent.sleep(60)


def main():
    servers = [
        (StreamServer(("127.0.0.1", 0), handle), b""),
        (WSGIServer(("127.0.0.1", 0), app, log=None), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    ]
    for server, request in servers:
        server.start()
        with socket.create_connection(("127.0.0.1", server.server_port)) as client:
            client.sendall(request)
            assert client.recv(5)
            (conn,) = accepted(server.server_port)
            print(json.dumps(handlers.handler(way_out(conn))), flush=True)
            del conn
        server.stop(0)


if __name__ == "__main__":
    main()
