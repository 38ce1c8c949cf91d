"""A program that closes every descriptor that it does not know, and goes on."""

import os
import socket
import sys

os.closerange(3, 4096)
files = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
with socket.create_server(("127.0.0.1", 0)) as server:
    client = socket.create_connection(server.getsockname())
    accepted, _ = server.accept()
    print(files, server.fileno(), client.fileno(), accepted.fileno(), flush=True)
    client.close()
    accepted.close()
for fd in files:
    os.close(fd)
if os.fork() == 0:
    with socket.socket() as sock:
        print("child", sock.fileno(), flush=True)
    sys.exit(6)
print(os.wait()[1])
