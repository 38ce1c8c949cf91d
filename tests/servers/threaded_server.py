"""A blocking server that keeps every connection. Arguments: inet, inet6, or unix and a path."""

import socket
import sys
import threading

kept = []


def handle(connection):
    kept.append(connection)
    connection.sendall(b"hello")


def serve(listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=handle, args=(connection,), daemon=True).start()


def listen(family, path=None):
    if family == "unix":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        return listener
    if family == "inet6":
        return socket.create_server(("::1", 0), family=socket.AF_INET6)
    return socket.create_server(("127.0.0.1", 0))


if __name__ == "__main__":
    listener = listen(*sys.argv[1:])
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    name = listener.getsockname()
    print("ready", name if isinstance(name, str) else name[1], flush=True)
    sys.stdin.read()
