"""A generator that is never exhausted has the connection."""

import peer

ROWS = []


def rows():
    sock = peer.abandoned(b"row\n" * 10)
    with sock:
        while row := sock.recv(4):
            yield row


ROWS.append(rows())
next(ROWS[0])
peer.stay()
ROWS.pop().close()
