"""A TLS server that keeps every connection. Argument: its certificate with the key."""

import socket
import ssl
import sys
import threading

kept = []


def serve(listener, context):
    while True:
        plain, _ = listener.accept()
        secure = context.wrap_socket(plain, server_side=True)
        kept.append(secure)
        secure.sendall(b"hello")


if __name__ == "__main__":
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1])
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, args=(listener, context), daemon=True).start()
    print("ready", listener.getsockname()[1], flush=True)
    sys.stdin.read()
