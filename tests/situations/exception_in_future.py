"""A job of an executor failed, and its future is kept: nobody asks for its result."""

import concurrent.futures

import peer

FUTURES = []


def fetch():
    conn = peer.abandoned()
    raise LookupError(conn.fileno())


with concurrent.futures.ThreadPoolExecutor(1) as executor:
    FUTURES.append(executor.submit(fetch))
peer.stay()
FUTURES.clear()
