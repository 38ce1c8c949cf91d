"""A WeakValueDictionary knows the connection, and a list keeps it."""

import weakref

import peer

KNOWN = weakref.WeakValueDictionary()
KEPT = []


def connect():
    KEPT.append(peer.abandoned())
    KNOWN["peer"] = KEPT[0]


connect()
peer.stay()
KEPT.pop().close()
