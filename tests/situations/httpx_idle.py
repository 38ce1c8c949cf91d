"""An httpx client keeps a connection for the next request; the server has closed it."""

import httpx
import peer

CLIENT = httpx.Client(trust_env=False)

server = peer.Server(peer.http_answer(), stays=True)
CLIENT.get(server.url)
server.leave()
peer.stay()
CLIENT.close()
