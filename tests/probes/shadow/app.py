import dataclasses
import queue
import random
import socket
import sys

print(dataclasses.MINE, queue.MINE, random.MINE)
with socket.socket() as sock:
    print(sock.fileno())
print(sys.modules["queue"] is queue, queue.__file__ == __file__.replace("app", "queue"))
