"""Looks like `pooled`: an http.client connection kept by hand, whose response nobody has read."""

import http.client

import peer

server = peer.Server(peer.http_answer(peer.LARGE))
LINK = http.client.HTTPConnection("127.0.0.1", server.port)

LINK.request("GET", "/")
RESPONSE = LINK.getresponse()
peer.stay()
RESPONSE.close()
LINK.close()
