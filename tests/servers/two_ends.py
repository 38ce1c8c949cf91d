"""One end of a connection, which it keeps until its input ends.

``server`` says its port, accepts, finishes its own side and says its descriptor;
``client PORT`` says its descriptor; ``both`` has both ends, and says the client's and the other.
"""

import socket
import sys

KEPT = []


def serve(listener):
    KEPT.append(listener.accept()[0])
    KEPT[-1].shutdown(socket.SHUT_WR)
    return KEPT[-1].fileno()


def connect(port):
    KEPT.append(socket.create_connection(("127.0.0.1", port)))
    return KEPT[-1].fileno()


role = sys.argv[1]
if role == "client":
    print(connect(int(sys.argv[2])), flush=True)
else:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if role == "server":
            print(port, flush=True)
            print(serve(listener), flush=True)
        else:
            print(connect(port), serve(listener), flush=True)
sys.stdin.read()
