import os
import socket

first = os.open(os.devnull, os.O_RDONLY)
with socket.socket() as one, socket.socket() as two:
    print(first, one.fileno(), two.fileno())
    left, right = socket.socketpair()
    print(left.fileno(), right.fileno(), left.detach(), right.fileno())
    right.close()
print(sorted(int(fd) for fd in os.listdir("/proc/self/fd") if int(fd) < 256))
print([os.get_inheritable(fd) for fd in (0, 1, 2, first)])
