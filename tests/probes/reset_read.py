import socket
import ssl
import struct
import traceback


def reset_pair():
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    return client


READS = {
    "recv": lambda sock: sock.recv(10),
    "recv_into": lambda sock: sock.recv_into(bytearray(10)),
    "recvfrom": lambda sock: sock.recvfrom(10),
    "recvfrom_into": lambda sock: sock.recvfrom_into(bytearray(10)),
    "recvmsg": lambda sock: sock.recvmsg(10),
    "recvmsg_into": lambda sock: sock.recvmsg_into([bytearray(10)]),
    "makefile": lambda sock: sock.makefile("rb").readline(),
}
for name, read in READS.items():
    client = reset_pair()
    try:
        read(client)
    except OSError:
        print(name, traceback.format_exc())
    client.close()
    try:
        read(client)
    except (OSError, ValueError):
        print("closed", name, traceback.format_exc())

ours, theirs = socket.socketpair()
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
with context.wrap_socket(ours, do_handshake_on_connect=False, server_hostname="host") as tls:
    theirs.close()
    try:
        tls.recv(10)
    except OSError as error:
        print(
            type(error).__name__,
            [frame.name for frame in traceback.extract_tb(error.__traceback__)],
        )

with reset_pair() as client:
    client.settimeout(5)
    client.recv(10)
