"""A threading.local has the connection."""

import threading

import peer

LOCAL = threading.local()


def connect():
    LOCAL.sock = peer.abandoned()


connect()
peer.stay()
LOCAL.sock.close()
