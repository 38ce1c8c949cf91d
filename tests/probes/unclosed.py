import gc
import socket


def drop():
    socket.socket()


def drop_cycle():
    sock = socket.socket()
    cycle = [sock]
    cycle.append(cycle)


class Owner:
    def __init__(self):
        self.sock = socket.socket()

    def replace(self):
        self.sock = None


drop()
drop_cycle()
gc.collect()
Owner().replace()
left, right = socket.socketpair()
right.close()
del left
print("done")
kept = socket.socket()
