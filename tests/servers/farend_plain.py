"""A program without a guard: connects to a port, half-closes, and waits. Argument: port."""

import os
import socket
import sys

sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
sock.shutdown(socket.SHUT_WR)
print(os.getpid(), sock.fileno(), os.fstat(sock.fileno()).st_ino, flush=True)
sys.stdin.read()
