"""A datetime has the connection by its time zone, and is no object of the collector's."""

import datetime

import peer

STAMPS = []


class Clock(datetime.tzinfo):
    def __init__(self):
        self._sock = peer.abandoned()


STAMPS.append(datetime.datetime(2030, 1, 1, tzinfo=Clock()))
peer.stay()
STAMPS.pop().tzinfo._sock.close()
