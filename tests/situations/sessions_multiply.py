"""A session per request, all kept: each pool is within its bound, and there are too many."""

import peer
import requests

COUNT = 6
SESSIONS = []

server = peer.Server(peer.http_answer(), connections=COUNT)
for _ in range(COUNT):
    SESSIONS.append(requests.Session())
    SESSIONS[-1].trust_env = False
    SESSIONS[-1].get(server.url)
peer.stay(COUNT)
while SESSIONS:
    SESSIONS.pop().close()
