import os
import socket
import subprocess
import sys

CHILD = (
    "import os, sys; print(os.getcwd() == '/', sys.argv, flush=True); os.listdir(sys.stdin.read())"
)
left, right = socket.socketpair()
done = subprocess.run(
    [sys.executable, "-c", CHILD, "a"],
    input="/missing",
    preexec_fn=lambda: os.chdir("/"),
    capture_output=True,
    text=True,
)
print(done.returncode, done.stdout, done.stderr)
done = subprocess.run(["cat", "/proc/self/status"], stdout=subprocess.PIPE, text=True)
print([line for line in done.stdout.splitlines() if line.startswith(("SigI", "SigB", "Threads"))])
done = subprocess.run(["ls", "/proc/self/fd"], stdout=subprocess.PIPE, text=True)
print(done.stdout.split())
print(os.system("exit 3"))
passed = subprocess.run(
    [sys.executable, "-c", "import socket; print(socket.socket(fileno=7).send(b'x'))"],
    pass_fds=[os.dup2(left.fileno(), 7)],
)
print(passed.returncode, right.recv(1))
left.close()
right.close()
os.close(7)
