import gc
import logging
import os
import signal
import socket
import sys
import threading
import warnings

print(sys.excepthook is sys.__excepthook__, threading.excepthook is threading.__excepthook__)
print(sys.unraisablehook is sys.__unraisablehook__, sys.displayhook is sys.__displayhook__)
print(sys.gettrace(), sys.getprofile(), sys.getrecursionlimit(), sys.getswitchinterval())
print(logging.root.handlers, logging.root.level, warnings.filters)
print(gc.callbacks, gc.isenabled(), gc.get_threshold(), gc.get_debug())
print({int(n): signal.getsignal(n) for n in signal.valid_signals() if signal.getsignal(n)})
print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
print([thread.name for thread in threading.enumerate()], threading.active_count())
print(threading.main_thread() is threading.current_thread(), socket.getdefaulttimeout())
print(sorted(name for name in os.environ if not name.startswith("SOCKGUARD")))
print(sys.path)
