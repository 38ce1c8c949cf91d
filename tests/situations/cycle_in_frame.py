"""Looks like `cycle`: an object refers to itself, but a waiting thread has it."""

import gc
import threading

import peer

gc.disable()
GO = threading.Event()


class Node:
    def __init__(self):
        self._sock = peer.abandoned()
        self.other = self


def work():
    node = Node()
    GO.wait()
    node._sock.close()


thread = threading.Thread(target=work, name="worker")
thread.start()
peer.stay()
GO.set()
thread.join()
