"""Two objects refer to each other and to a connection; nobody else does. The collector is off."""

import gc

import peer

gc.disable()


class Node:
    def __init__(self):
        self._sock = peer.abandoned()
        self.other = None


def make():
    one, two = Node.__new__(Node), Node()
    one.other, two.other = two, one


make()
peer.stay()
gc.collect()
