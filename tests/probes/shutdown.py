import socket


class Last:
    """Opens sockets when the interpreter is half gone."""

    def __init__(self, make):
        self.make = make

    def __del__(self):
        sock = self.make()
        print("opened", sock.fileno() > 2, flush=True)
        sock.close()


held = socket.socket()
left, right = socket.socketpair()
last = Last(socket.socket)
cycle = [Last(socket.socket)]
cycle.append(cycle)
print("end")
