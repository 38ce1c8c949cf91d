"""The main thread holds a connection in an object, and waits for its input."""

import peer


class Client:
    def __init__(self):
        self._sock = peer.abandoned()


def main():
    client = Client()
    peer.stay()
    client._sock.close()


main()
