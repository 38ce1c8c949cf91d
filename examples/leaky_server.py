"""The leak that sockguard was made for: a server that forgets close() on its exception path.

    python -m sockguard --threshold 1 examples/leaky_server.py

A blocking server gives each connection a thread. Its clients are non-blocking, and some are
impatient: they send half a request and close. The server then raises ValueError, logs it,
and never comes to its close(). The client's end of the connection waits in FIN_WAIT2, ours
stays in CLOSE_WAIT, and the sessions table keeps the socket from the garbage collector: one
descriptor less for each impatient client, until accept() fails with EMFILE.

`ss -tan` shows the CLOSE_WAIT, not the line. The report below names the accept() in `serve`
("opened") and the recv() that was told of the client's end ("told at").

The fix is a `with`, or a try/finally, that closes on every path: `handle_and_close`.

    python -m sockguard --threshold 1 examples/leaky_server.py --fixed
"""

from __future__ import annotations

import argparse
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

CLIENTS = 40
IMPATIENT = 12
LINGER_S = 4.0  # long enough for a threshold of one second and the watcher's next look

Sessions = dict[object, socket.socket]
Handler = Callable[[socket.socket, object, Sessions], None]

complaints: list[str] = []  # the server's log


# -- the server ------------------------------------------------------------------------


def read_request(connection: socket.socket) -> bytes:
    """Return one line. Raises ValueError if the client leaves before its end."""
    request = b""
    while not request.endswith(b"\n"):
        chunk = connection.recv(1024)
        if not chunk:
            raise ValueError(f"malformed request {request!r}: no newline")
        request += chunk
    return request


def handle_and_forget(connection: socket.socket, client: object, sessions: Sessions) -> None:
    """Answer one request; the bug is here."""
    sessions[client] = connection
    try:
        connection.sendall(b"hello " + read_request(connection))
        connection.close()  # not reached when read_request raises
        del sessions[client]
    except ValueError as error:
        complaints.append(str(error))


def handle_and_close(connection: socket.socket, client: object, sessions: Sessions) -> None:
    """Answer one request; the socket is closed whatever happens."""
    sessions[client] = connection
    try:
        with connection:
            connection.sendall(b"hello " + read_request(connection))
    except ValueError as error:
        complaints.append(str(error))
    finally:
        del sessions[client]


def serve(listener: socket.socket, handle: Handler, sessions: Sessions) -> None:
    """Give each connection a thread of its own."""
    while True:
        connection, client = listener.accept()
        threading.Thread(target=handle, args=(connection, client, sessions), daemon=True).start()


# -- its clients -----------------------------------------------------------------------


def call(address: tuple[str, int], requests: list[bytes]) -> None:
    """Send all requests at once, from one thread. Who sent a whole line waits for the answer."""
    with selectors.DefaultSelector() as selector:
        for request in requests:
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(address)
            selector.register(client, selectors.EVENT_WRITE, request)
        while selector.get_map():
            for key, _ in selector.select():
                client = key.fileobj
                assert isinstance(client, socket.socket)
                if key.events == selectors.EVENT_WRITE:
                    client.send(key.data)
                    if key.data.endswith(b"\n"):
                        selector.modify(client, selectors.EVENT_READ)
                        continue
                else:
                    client.recv(1024)
                selector.unregister(client)
                client.close()


# -- what the kernel shows -------------------------------------------------------------


def close_wait_in_words() -> str:
    """Return how many sockets of this process are in CLOSE_WAIT, where that can be counted."""
    if not Path("/proc/net/tcp").exists():
        return "this system has no /proc/net/tcp to count CLOSE_WAIT sockets in"
    ours = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            ours.add(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:  # closed meanwhile
            continue
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    # Sets: a row may come twice where the table changes while it is read.
    waiting = ours & {f"socket:[{row[9]}]" for row in rows if row[3] == "08"}
    return f"sockets of this process in CLOSE_WAIT: {len(waiting)}"


def main() -> None:
    """Play the story once."""
    parser = argparse.ArgumentParser(description="A server that forgets close() when it raises.")
    parser.add_argument("--fixed", action="store_true", help="run the corrected server")
    fixed = parser.parse_args().fixed
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]

    sessions: Sessions = {}
    handle = handle_and_close if fixed else handle_and_forget
    listener = socket.create_server(("127.0.0.1", 0), backlog=CLIENTS)
    threading.Thread(target=serve, args=(listener, handle, sessions), daemon=True).start()
    print(f"server: {'the corrected' if fixed else 'the leaky'} one, pid {os.getpid()}")

    whole, half = b"GET /\n", b"GET /slow"
    call(listener.getsockname(), [whole] * (CLIENTS - IMPATIENT) + [half] * IMPATIENT)
    print(f"clients: {CLIENTS} came and went, {IMPATIENT} of them in the midst of their request")

    time.sleep(LINGER_S)
    print(f"server: {len(complaints)} complaints, the last is: {complaints[-1]}")
    print(f"kernel: {close_wait_in_words()}")


if __name__ == "__main__":
    main()
