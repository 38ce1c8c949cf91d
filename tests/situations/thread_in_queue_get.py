"""A thread holds a connection and waits in queue.get() for something that never comes."""

import queue
import threading

import peer

JOBS = queue.Queue()


def work():
    conn = peer.abandoned()
    JOBS.get()
    conn.close()


thread = threading.Thread(target=work, name="worker")
thread.start()
peer.stay()
JOBS.put(None)
thread.join()
