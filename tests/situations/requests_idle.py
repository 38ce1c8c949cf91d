"""A requests session keeps a connection for the next request; the server has closed it."""

import peer
import requests

SESSION = requests.Session()
SESSION.trust_env = False

server = peer.Server(peer.http_answer(), stays=True)
SESSION.get(server.url)
server.leave()
peer.stay()
SESSION.close()
