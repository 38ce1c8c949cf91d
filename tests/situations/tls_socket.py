"""A TLS connection in a table; the server has sent and closed."""

import ssl

import peer
import trustme

CONNECTIONS = {}

authority = trustme.CA()
server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
authority.issue_cert("127.0.0.1").configure_cert(server_side)
client_side = ssl.create_default_context()
authority.configure_trust(client_side)


def connect():
    server = peer.Server(
        b"hello", until=b"", wrap=lambda plain: server_side.wrap_socket(plain, server_side=True)
    )
    plain = peer.socket.create_connection(server.address)
    CONNECTIONS["tls"] = client_side.wrap_socket(plain, server_hostname="127.0.0.1")


connect()
peer.stay()
CONNECTIONS.pop("tls").close()
