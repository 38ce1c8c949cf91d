"""A Redis client keeps a connection for the next command; the server has closed it."""

import peer
import redis

server = peer.Redis()
CLIENT = redis.Redis(port=server.port)

CLIENT.ping()
server.leave()
peer.stay()
CLIENT.close()
