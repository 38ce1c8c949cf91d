"""An http.client connection kept by hand, its response read; the server has closed it."""

import http.client

import peer

server = peer.Server(peer.http_answer(), stays=True)
LINK = http.client.HTTPConnection("127.0.0.1", server.port)

LINK.request("GET", "/")
LINK.getresponse().read()
server.leave()
peer.stay()
LINK.close()
