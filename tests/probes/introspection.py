import inspect
import socket
import ssl

for name in ("__init__", "close", "accept", "recv", "recv_into", "recvmsg", "__del__", "makefile"):
    method = getattr(socket.socket, name)
    print(name, callable(method), method.__name__, method.__qualname__, method.__doc__)
    try:
        print(inspect.signature(method))
    except ValueError as error:
        print(error)
print(inspect.signature(socket.socket), inspect.getdoc(socket.socket))
print(inspect.signature(socket.create_connection), inspect.signature(ssl.SSLSocket.read))
print(dir(socket.socket))
print(socket.socket.__mro__, socket.socket.__module__, socket.SocketType, socket.socket.__slots__)
print(inspect.getsource(socket.socket.__init__))
print(socket.socket.__init__.__defaults__ or inspect.getfullargspec(socket.socket.__init__))
with socket.socket() as sock:
    print(sock.recv.__name__, sock.recv.__self__ is sock, hasattr(sock, "__dict__"))
    print(inspect.ismethod(sock.close), inspect.isroutine(sock.recv))
