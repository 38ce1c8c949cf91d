"""atexit has a bound method of the connection, in memory that the collector does not see."""

import atexit

import peer


def connect():
    atexit.register(peer.abandoned().close)


connect()
peer.stay()
