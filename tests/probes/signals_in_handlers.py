import os
import signal
import socket
import threading

woken_left, woken_right = socket.socketpair()
woken_left.setblocking(False)
signal.set_wakeup_fd(woken_left.fileno())
seen = []


def handler(number, frame):
    left, right = socket.socketpair()
    left.close()
    seen.append((number, right.recv(1), threading.current_thread() is threading.main_thread()))
    right.close()


signal.signal(signal.SIGUSR1, handler)
for _ in range(3):
    os.kill(os.getpid(), signal.SIGUSR1)
print(seen, woken_right.recv(10))
print(signal.sigtimedwait([signal.SIGUSR2], 0), signal.sigpending())
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
os.kill(os.getpid(), signal.SIGUSR2)
print(signal.sigwait([signal.SIGUSR2]))
signal.set_wakeup_fd(-1)
woken_left.close()
woken_right.close()
