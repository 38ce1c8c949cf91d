"""Accepts when it is told to, and keeps the connection."""

import socket
import sys

kept = []

if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0))
    print("ready", listener.getsockname()[1], flush=True)
    for _ in sys.stdin:
        kept.append(listener.accept()[0])
        print("accepted", flush=True)
