"""Looks like `cycle`: two objects refer to each other, but a list has one of them."""

import gc

import peer

gc.disable()
NODES = []


class Node:
    def __init__(self):
        self._sock = peer.abandoned()
        self.other = None


def make():
    one, two = Node.__new__(Node), Node()
    one.other, two.other = two, one
    NODES.append(two)


make()
peer.stay()
NODES.pop()._sock.close()
