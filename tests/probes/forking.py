import os
import socket
import sys


def child(number):
    left, right = socket.socketpair()
    with left, right:
        left.sendall(b"x")
        assert right.recv(1) == b"x"
    print("child", number, flush=True)
    if number == 2:
        raise LookupError("in a child")
    sys.exit(number)


left, right = socket.socketpair()
for number in range(4):
    pid = os.fork()
    if pid == 0:
        # Unclosed, they are warned of at the interpreter's end or not, also without us.
        left.close()
        right.close()
        child(number)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
pid, terminal = os.forkpty()
if pid == 0:
    os._exit(left.fileno())
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), left.fileno(), flush=True)
os.close(terminal)
left.close()
print(right.recv(1))
right.close()
