"""A threading.local has the connection, for a thread that waits for work."""

import queue
import threading

import peer

LOCAL = threading.local()
JOBS = queue.Queue()


def work():
    LOCAL.sock = peer.abandoned()
    JOBS.get()
    LOCAL.sock.close()


thread = threading.Thread(target=work, name="worker")
thread.start()
peer.stay()
JOBS.put(None)
thread.join()
