"""Looks like `pooled`: a requests response with stream=True, never read. It is checked out."""

import peer
import requests

SESSION = requests.Session()
SESSION.trust_env = False
RESPONSES = []

server = peer.Server(peer.http_answer(peer.LARGE))
RESPONSES.append(SESSION.get(server.url, stream=True))
peer.stay()
RESPONSES.pop().close()
SESSION.close()
