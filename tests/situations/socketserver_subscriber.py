"""A socketserver keeps its connections for later; the one line was read, the FIN along with it."""

import socketserver

import peer

SUBSCRIBERS = []


class Subscribe(socketserver.StreamRequestHandler):
    def handle(self):
        peer.wait_for_close_wait()
        self.rfile.readline()
        SUBSCRIBERS.append(self.request)


class Server(socketserver.TCPServer):
    def shutdown_request(self, request):
        pass


with Server(("127.0.0.1", 0), Subscribe) as server:
    peer.visit(server.server_address, b"subscribe\n")
    server.handle_request()
peer.stay()
SUBSCRIBERS.pop().close()
