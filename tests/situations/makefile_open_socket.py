"""Looks like `makefile`: a file object is open, but the socket has not been closed either."""

import peer

LINK = {}


def connect():
    LINK["socket"] = peer.abandoned(b"a line\n")
    LINK["reader"] = LINK["socket"].makefile("rb")


connect()
peer.stay()
LINK["reader"].close()
LINK["socket"].close()
