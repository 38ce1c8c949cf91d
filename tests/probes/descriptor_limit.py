import errno
import os
import resource
import socket
import traceback

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
server = socket.create_server(("127.0.0.1", 0))
clients = [socket.create_connection(server.getsockname()) for _ in range(2)]
opened = []
errors = []


def exhaust():
    while True:
        opened.append(socket.socket())


for act in (exhaust, server.accept, socket.socketpair, clients[0].dup):
    try:
        act()
    except OSError as error:
        errors.append(error)
print(len(opened), opened[-1].fileno())
for sock in opened:
    sock.close()
accepted, _ = server.accept()
print("recovered", accepted.fileno(), os.open(os.devnull, os.O_RDONLY))
for sock in (server, accepted, *clients):
    sock.close()
for error in errors:
    print(errno.errorcode[error.errno])
    traceback.print_exception(type(error), error, error.__traceback__)
