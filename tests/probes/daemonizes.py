"""The classic double fork, with every descriptor closed and their numbers used again."""

import os
import shutil
import socket
import sys
import tempfile
import traceback


def serve(path, done):
    os.closerange(3, done)
    os.closerange(done + 1, 4096)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    log = os.open(path, os.O_WRONLY | os.O_CREAT)
    numbers = [null, log]
    own = [os.dup2(log, number) for number in (800, 801, 802, 803)]
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        numbers += [server.fileno(), client.fileno(), accepted.fileno()]
        client.close()
        numbers.append(accepted.recv(1))
        accepted.close()
    os.write(log, f"daemon {numbers} {own}\n".encode())


folder = tempfile.mkdtemp()
path = os.path.join(folder, "log")
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    try:
        serve(path, writer)
    except BaseException:
        os.write(writer, traceback.format_exc().encode())
    sys.exit()  # so that all runs that runs at exit, with the numbers as they are now
os.close(writer)
print("child", os.waitpid(child, 0)[1], "wrote", os.fdopen(reader).read())
with open(path) as file:
    print(file.read())
shutil.rmtree(folder)
