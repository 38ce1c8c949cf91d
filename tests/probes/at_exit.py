import atexit
import socket
import threading


def last():
    print("last", flush=True)
    with socket.socket() as sock:
        print(sock.fileno(), threading.active_count(), flush=True)


def broken():
    raise OSError("broken at exit")


class Final:
    def __del__(self):
        print("deleted", flush=True)


atexit.register(last)
atexit.register(broken)
atexit.register(print, "first", flush=True)
threading._register_atexit(print, "threads joined", flush=True)
final = Final()
print("main ends", flush=True)
