"""An exception is kept; a frame of its traceback had the connection."""

import peer

ERRORS = []


def handle():
    sock = peer.abandoned()
    raise ValueError(sock.fileno())


try:
    handle()
except ValueError as error:
    ERRORS.append(error)
peer.stay()
ERRORS.clear()
