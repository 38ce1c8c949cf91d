"""Looks like `pooled`: a connection taken from a Redis pool by hand and never given back."""

import peer
import redis

server = peer.Redis()
POOL = redis.ConnectionPool(port=server.port)
TAKEN = []

TAKEN.append(POOL.get_connection())
server.leave()
peer.stay()
POOL.release(TAKEN.pop())
POOL.disconnect()
