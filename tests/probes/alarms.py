import os
import signal
import socket


class AlarmError(Exception):
    pass


def ring(number, frame):
    socket.socket().close()
    raise AlarmError


def churn():
    signal.setitimer(signal.ITIMER_REAL, 0.0005)
    for _ in range(50_000):
        sock = socket.socket()
        sock.close()


signal.signal(signal.SIGALRM, ring)
caught = lost = 0
before = len(os.listdir("/proc/self/fd"))
while caught + lost < 100:
    try:
        churn()
        lost += 1
    except AlarmError:
        caught += 1
print(caught, lost, len(os.listdir("/proc/self/fd")) - before)
with socket.socket() as sock:
    print(sock.fileno())
