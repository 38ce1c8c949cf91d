"""Looks like `exception`: an exception is kept, but the connection is in a table as well."""

import peer

CONNECTIONS = {"eu": {"busy": []}}
ERRORS = []


def handle():
    sock = peer.abandoned()
    CONNECTIONS["eu"]["busy"].append(sock)
    raise ValueError(sock.fileno())


try:
    handle()
except ValueError as error:
    ERRORS.append(error)
peer.stay()
ERRORS.clear()
CONNECTIONS["eu"]["busy"].pop().close()
