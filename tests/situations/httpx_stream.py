"""Looks like `pooled`: an httpx stream that is never closed. It is checked out."""

import httpx
import peer

CLIENT = httpx.Client(trust_env=False)
RESPONSES = []

server = peer.Server(peer.http_answer(peer.LARGE))
RESPONSES.append(CLIENT.send(CLIENT.build_request("GET", server.url), stream=True))
peer.stay()
RESPONSES.pop().close()
CLIENT.close()
