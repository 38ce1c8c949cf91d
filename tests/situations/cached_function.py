"""functools.lru_cache keeps a connection as the result of a function."""

import functools

import peer


@functools.lru_cache(maxsize=8)
def connect(name):
    return peer.abandoned()


connect("billing")
peer.stay()
connect("billing").close()
