"""A TLS client that keeps its connections. Arguments: port, authority's certificate, how many."""

import socket
import ssl
import sys

kept = []


def connect(port, context):
    plain = socket.create_connection(("127.0.0.1", port))
    secure = context.wrap_socket(plain, server_hostname="localhost")
    kept.append(secure)


if __name__ == "__main__":
    context = ssl.create_default_context(cafile=sys.argv[2])
    for _ in range(int(sys.argv[3])):
        connect(int(sys.argv[1]), context)
    print("ready", flush=True)
    sys.stdin.read()
