"""A response of urllib.request is kept unread: http.client has closed the socket, not the file."""

import urllib.request

import peer

RESPONSES = []

server = peer.Server(peer.http_answer(peer.LARGE))
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
RESPONSES.append(direct.open(server.url))
peer.stay()
RESPONSES.pop().close()
