import os
import signal
import socket
import sys
import time


def handled(number, frame):
    print("handled", signal.Signals(number).name, frame.f_code.co_name, flush=True)
    sys.exit(4)


def main(way):
    with socket.socket():
        if way == "raise":
            raise KeyboardInterrupt
        if way == "sigint":
            os.kill(os.getpid(), signal.SIGINT)
        if way == "sigterm-handled":
            signal.signal(signal.SIGTERM, handled)
        if way.startswith("sigterm"):
            os.kill(os.getpid(), signal.SIGTERM)
        if way == "sigkill":
            os.kill(os.getpid(), signal.SIGKILL)
        if way == "abort":
            os.abort()
        if way == "sigpipe":
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            reader, writer = os.pipe()
            os.close(reader)
            os.write(writer, b"x")
        time.sleep(20)  # the signal ends it


print("ready", flush=True)
main(sys.argv[1])
