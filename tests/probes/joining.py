import socket
import sys
import threading


def work():
    with socket.socket() as sock:
        print("worker", sock.fileno() > 2)


def leave():
    sys.exit("not shown")


def fail():
    raise LookupError("in a thread")


for target in (work, leave, fail):
    thread = threading.Thread(target=target, name=target.__name__)
    thread.start()
    thread.join()
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threading.enumerate():
    if thread is not threading.main_thread():
        thread.join()
print([thread.name for thread in threading.enumerate()], threading.active_count())
print(threading._active.keys() == {threading.get_ident()})
