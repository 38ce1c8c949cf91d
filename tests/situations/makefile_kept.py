"""A socket was closed while an object from its makefile() is kept."""

import peer

READERS = []


def connect():
    connection = peer.abandoned(b"a line\n")
    READERS.append(connection.makefile("rb"))
    connection.close()


connect()
peer.stay()
READERS.pop().close()
