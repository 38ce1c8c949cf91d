"""What the programs of this folder share: peers that go away, and staying in a situation.

A peer's own sockets are closed before a situation begins, so none of them becomes a finding.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path

PATIENCE_S = 15.0
CLOSE_WAIT = "08"
END_OF_REQUEST = b"\r\n\r\n"
#: More than a reader takes at once, less than a receive buffer has room for.
LARGE = b"x" * 65_536


def abandoned(sent=b""):
    """Return a connection whose peer has sent ``sent`` and closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    with theirs:
        theirs.sendall(sent)
    return connection


def visit(address, sent=b""):
    """Connect to a server of the program, send, and leave."""
    with socket.create_connection(address) as client:
        client.sendall(sent)


def http_answer(body=b"ok", length=None):
    """Return a response that allows its connection to be used again; ``length``: as announced."""
    announced = len(body) if length is None else length
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d" % announced + END_OF_REQUEST + body


class Server:
    """Answers each connection once and closes it, a number of them; a thread that then ends."""

    def __init__(self, answer=b"", *, until=END_OF_REQUEST, connections=1, wrap=None, stays=False):
        """``until``: how a request ends; empty: none is waited for. ``wrap``: adds TLS.

        ``stays``: a connection is not closed before ``leave`` is called.
        """
        self._may_close = threading.Event()
        if not stays:
            self._may_close.set()
        self._answer = answer
        self._until = until
        self._wrap = wrap
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = listener.getsockname()
        self.port = self.address[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        threading.Thread(target=self._serve, args=(listener, connections), daemon=True).start()

    def leave(self):
        """Close the connection that was to stay."""
        self._may_close.set()

    def _serve(self, listener, connections):
        with listener:
            for _ in range(connections):
                connection, _ = listener.accept()
                with connection if self._wrap is None else self._wrap(connection) as theirs:
                    self._serve_one(theirs)

    def _serve_one(self, connection):
        request = b""
        while not request.endswith(self._until):
            request += connection.recv(65_536)
        connection.sendall(self._answer)
        self._may_close.wait(PATIENCE_S)


class Redis:
    """Answers Redis commands, one connection; closes it when told to."""

    ANSWERS = {b"PING": b"+PONG\r\n", b"HELLO": b"%1\r\n$5\r\nproto\r\n:3\r\n"}  # noqa: RUF012

    def __init__(self):
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self._connection = None
        self._thread = threading.Thread(target=self._serve, args=(listener,), daemon=True)
        self._thread.start()

    def leave(self):
        """Close the connection."""
        self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE_S)

    def _serve(self, listener):
        with listener:
            self._connection, _ = listener.accept()
        with self._connection as connection, connection.makefile("rb") as commands:
            while first := commands.readline():
                words = [  # *2 $4 PING
                    commands.read(int(commands.readline()[1:]) + 2) for _ in range(int(first[1:]))
                ]
                name = words[0].strip().upper()
                with contextlib.suppress(OSError):
                    connection.sendall(self.ANSWERS.get(name, b"-ERR unknown command\r\n"))


def close_wait():
    """Return the descriptors of this process that the kernel shows in CLOSE_WAIT."""
    rows = []
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):
            rows += Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]
    inodes = {row.split()[9] for row in rows if row.split()[3] == CLOSE_WAIT}
    found = []
    for fd in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}")[8:-1] in inodes:
                found.append(fd)
    return sorted(found)


def wait_for_close_wait(count=1):
    """Wait until the kernel shows ``count`` sockets in CLOSE_WAIT; return their descriptors."""
    deadline = time.monotonic() + PATIENCE_S
    while len(found := close_wait()) != count:
        if time.monotonic() > deadline:
            raise SystemExit(f"{len(found)} sockets are in CLOSE_WAIT, not {count}")
        time.sleep(0.01)
    return found


def say(**what):
    """Print one line of JSON."""
    print(json.dumps(what), flush=True)


def stay(count=1):
    """Say which descriptors are in CLOSE_WAIT, and stay until standard input ends."""
    found = wait_for_close_wait(count)
    say(fd=found[0], fds=found)
    sys.stdin.read()
