"""A numpy array of objects has the connection, and does not tell the collector."""

import numpy
import peer

ARRAYS = [numpy.empty(3, dtype=object)]


def connect():
    ARRAYS[0][1] = peer.abandoned()


connect()
peer.stay()
ARRAYS.pop()[1].close()
