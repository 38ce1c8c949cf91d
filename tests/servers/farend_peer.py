"""A guarded program that connects, half-closes and answers others; it does as it is told.

Arguments: port. Each line of input is a command, answered by one line.
"""

import os
import select
import socket
import sys

from support.hooked import hooks

from sockguard.exchange import Exchange
from sockguard.farend import FarEnds

PORT = int(sys.argv[1])
kept = []


def connect():
    sock = socket.create_connection(("127.0.0.1", PORT))
    kept.append(sock)
    sock.shutdown(socket.SHUT_WR)


def say(*words):
    print(*words, flush=True)


def commands(lookup, exchange):
    """Yield what comes in, and answer others meanwhile."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    while True:
        exchange.answer_all(lookup)
        if poll.poll(10):
            # Raw: what a buffer keeps, poll does not see; and a fork would share it.
            line = os.read(0, 100).decode().split()
            if not line:
                return
            yield line


def main(registry):
    exchange, far_ends = Exchange(), FarEnds(registry, 32)
    exchange.answer_all(far_ends.origin_of)
    say("ready")
    child = 0
    for command, *words in commands(far_ends.origin_of, exchange):
        if command == "connect":
            connect()
            say(os.getpid(), kept[-1].fileno(), os.fstat(kept[-1].fileno()).st_ino)
        elif command == "close":
            kept.pop().close()
            say("closed")
        elif command == "closerange":
            os.closerange(3, 4096)
            kept.clear()
            say("closed")
        elif command == "fork":
            inherited, reader_writer = exchange._sock.fileno(), os.pipe()
            child = os.fork()
            if child == 0:
                registry.begin_child()
                exchange.answer_all(far_ends.origin_of)
                say(os.getpid(), int(closed(inherited)), len(exchange._asked))
                os.close(reader_writer[1])
                serve_until_end(reader_writer[0], exchange, far_ends)
                os._exit(0)
            os.close(reader_writer[0])
        elif command == "become":
            os.setuid(int(words[0]))
            exchange.answer_all(far_ends.origin_of)
            say("done")
        elif command == "question":  # under the name of a process of root's
            ask_in_the_name_of(0, *map(int, words))
            say("asked")
        elif command == "look":
            far = far_ends.find(registry.by_fd[kept[-1].fileno()], budget_ns=10_000_000_000)
            say(far.pid, far.held)
        elif command == "ask":
            say(int(exchange.ask(*map(int, words))))
        elif command == "stop":
            say("stopping")
            os.kill(os.getpid(), 19)
    if child:
        os.close(reader_writer[1])
        os.waitpid(child, 0)


def closed(fd):
    """Tell whether the number is free, or another socket's than the parent's."""
    try:
        return os.fstat(fd).st_ino != os.stat(f"/proc/{os.getppid()}/fd/{fd}").st_ino
    except OSError:
        return True


def serve_until_end(end, exchange, far_ends):
    poll = select.poll()
    poll.register(end, 0)  # a hang-up needs no asking
    while not poll.poll(10):
        exchange.answer_all(far_ends.origin_of)


def ask_in_the_name_of(uid, pid, inode, fd):
    namespace = os.stat("/proc/self/ns/pid").st_ino
    name = "\0sockguard.1/%d/%d/%d"
    stranger = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    stranger.bind(name % (uid, namespace, os.getpid()))
    stranger.sendto(b'{"inode": %d, "fd": %d}' % (inode, fd), name % (uid, namespace, pid))
    kept.append(stranger)


if __name__ == "__main__":
    with hooks() as registry:
        main(registry)
