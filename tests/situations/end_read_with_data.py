"""The last data was read, and the FIN behind it with it: no read has said b"" to the program."""

import peer

CONNECTIONS = []


def receive():
    CONNECTIONS.append(peer.abandoned(b"hello"))
    peer.wait_for_close_wait()
    CONNECTIONS[0].recv(5)


receive()
peer.stay()
CONNECTIONS.pop().close()
