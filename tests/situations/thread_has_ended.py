"""Looks like `stuck`: the thread that made the connection has ended and left it in its object."""

import threading

import peer


class Worker(threading.Thread):
    def run(self):
        self.conn = peer.abandoned()


WORKERS = [Worker(name="worker")]
WORKERS[0].start()
WORKERS[0].join()
peer.stay()
WORKERS.pop().conn.close()
