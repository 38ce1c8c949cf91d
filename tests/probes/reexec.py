import os
import socket
import sys

with socket.socket() as sock:
    print("run", sys.argv[1:], sock.fileno(), flush=True)
if len(sys.argv) < 3:
    os.execv(sys.executable, [sys.executable, *sys.argv, "again"])
sys.exit(len(sys.argv))
