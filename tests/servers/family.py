"""A parent with children of one kind, each keeping a connection. Arguments: kind, port."""

import concurrent.futures
import multiprocessing
import os
import socket
import subprocess
import sys

kept = []


def connect(port):
    kept.append(socket.create_connection(("127.0.0.1", port)))
    return os.getpid()


def stay(port, pids, done):
    pids.put(connect(port))
    done.wait()


def by_multiprocessing(method, port):
    context = multiprocessing.get_context(method)
    pids, done = context.SimpleQueue(), context.Event()
    children = [context.Process(target=stay, args=(port, pids, done)) for _ in range(2)]
    for child in children:
        child.start()
    announce(pids.get(), pids.get())
    done.set()
    for child in children:
        child.join()


def by_executor(method, port):
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        announce(executor.submit(connect, port).result())


def by_subprocess(port):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, __file__, "child", str(port)], **pipes) as child:
        announce(child.stdout.readline().split()[1])
        child.stdin.close()


def by_fork(port):
    ready, tell = os.pipe()
    done, finish = os.pipe()
    child = os.fork()
    if not child:
        os.close(finish)
        os.write(tell, b"%d" % connect(port))
        os.read(done, 1)
        os._exit(0)
    announce(os.read(ready, 20).decode())
    os.close(finish)
    os.waitpid(child, 0)


def announce(*pids):
    print("ready", *pids, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    kind, port = sys.argv[1], int(sys.argv[2])
    pid = connect(port)
    if kind == "child":
        announce(pid)
    elif kind == "subprocess":
        by_subprocess(port)
    elif kind == "os.fork":
        by_fork(port)
    elif kind.startswith("executor-"):
        by_executor(kind.partition("-")[2], port)
    else:
        by_multiprocessing(kind, port)
