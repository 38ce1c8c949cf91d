import socket
import warnings


def old():
    warnings.warn("old is deprecated", DeprecationWarning, stacklevel=2)
    warnings.warn("beware", UserWarning, stacklevel=1)


with socket.create_server(("127.0.0.1", 0)) as server:
    client = socket.create_connection(server.getsockname())
    client.close()
for act in (lambda: str(b"bytes"), lambda: b"bytes" == "text", old):
    try:
        print(act())
    except Warning as error:
        print(repr(error))
old()
