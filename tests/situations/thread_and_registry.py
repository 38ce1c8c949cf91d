"""Looks like `stuck`: a waiting thread has the connection, but so has a table."""

import queue
import threading

import peer

JOBS = queue.Queue()
REGISTRY = {}


def work():
    conn = REGISTRY["peer"] = peer.abandoned()
    JOBS.get()
    conn.close()


thread = threading.Thread(target=work, name="worker")
thread.start()
peer.stay()
JOBS.put(None)
thread.join()
