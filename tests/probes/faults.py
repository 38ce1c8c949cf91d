import faulthandler
import os
import signal
import socket
import sys

faulthandler.enable(all_threads=False)


def crash(sock):
    faulthandler.dump_traceback(all_threads=False)
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGSEGV)


with socket.socket() as sock:
    crash(sock)
