"""A streamed httpx response was dropped unclosed: the pool counts it as active for ever."""

import httpx
import peer

CLIENT = httpx.Client(trust_env=False)

server = peer.Server(peer.http_answer(peer.LARGE))
CLIENT.send(CLIENT.build_request("GET", server.url), stream=True)
peer.stay()
CLIENT.close()
