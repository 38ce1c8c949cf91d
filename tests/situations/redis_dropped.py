"""A connection was taken from a Redis pool and dropped: the pool counts it as in use for ever."""

import peer
import redis

server = peer.Redis()
POOL = redis.ConnectionPool(port=server.port)

POOL.get_connection()
server.leave()
peer.stay()
POOL.disconnect()
