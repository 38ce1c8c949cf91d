"""An exception is kept whose context is another; a frame of that one's traceback had it."""

import peer

ERRORS = []


def connect():
    sock = peer.abandoned()
    raise ConnectionError(sock.fileno())


def handle():
    try:
        connect()
    except ConnectionError:
        raise RuntimeError("no connection")  # noqa: B904  # the context is the point


try:
    handle()
except RuntimeError as error:
    ERRORS.append(error)
peer.stay()
ERRORS.clear()
