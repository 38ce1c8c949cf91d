"""Forks while another thread is in the midst of importing; the child opens a socket and says so."""

import importlib._bootstrap as bootstrap
import os
import socket
import threading


def import_slowly(begun, done):
    with bootstrap._ModuleLockManager("_thread"):
        begun.set()
        done.wait()


if __name__ == "__main__":
    begun, done = threading.Event(), threading.Event()
    importer = threading.Thread(target=import_slowly, args=(begun, done))
    importer.start()
    begun.wait()
    child = os.fork()
    if not child:
        socket.socket().close()
        print("opened", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    done.set()
    importer.join()
