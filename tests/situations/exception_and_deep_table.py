"""Looks like `exception`: one is kept, but by a longer way an application has the connection."""

import peer

ERRORS = []


class Part:
    def __init__(self, name, part):
        self.parts = {name: part}


def connect():
    global APP
    sock = peer.abandoned()
    APP = Part("link", sock)
    for name in ("shard", "pool", "region", "database"):
        APP = Part(name, APP)
    return sock


def handle():
    sock = connect()
    raise ValueError(sock.fileno())


try:
    handle()
except ValueError as error:
    ERRORS.append(error)
peer.stay()
ERRORS.clear()
APP = None
