"""What the demonstration tests use: servers in threads, stopped by their own handle."""

from __future__ import annotations

import contextlib
import http.server
import queue
import select
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
import trustme

#: Whatever a leaking test keeps: nothing is freed by chance.
KEPT: list[object] = []


class OneLine(socketserver.StreamRequestHandler):
    """Answers one line and closes: the server is the first to go."""

    def handle(self) -> None:
        self.wfile.write(self.rfile.readline())


class UntilTheEnd(socketserver.StreamRequestHandler):
    """Answers until the client goes."""

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = False  # so that the end of the server waits for its last FIN
    allow_reuse_address = True


@contextlib.contextmanager
def serving(handler: type[socketserver.BaseRequestHandler]) -> Iterator[tuple[str, int]]:
    with Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="server")
        thread.start()
        try:
            yield server.server_address
        finally:
            server.shutdown()
            thread.join()


class Pages(http.server.BaseHTTPRequestHandler):
    """Closes a connection that is idle, as servers do, without a word to the client."""

    protocol_version = "HTTP/1.1"
    timeout = 0.05

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def meet_the_end(sock: socket.socket) -> None:
    """Wait until the peer's FIN is there, and read nothing."""
    ready = select.poll()
    ready.register(sock, select.POLLRDHUP)
    assert ready.poll(5000), "the peer has not closed"


def ask(address: tuple[str, int]) -> socket.socket:
    """Return a connection that had its answer, and whose peer has closed."""
    sock = socket.create_connection(address)
    sock.sendall(b"hello\n")
    assert sock.recv(100) == b"hello\n"
    meet_the_end(sock)
    return sock


@pytest.fixture
def one_line() -> Iterator[tuple[str, int]]:
    with serving(OneLine) as address:
        yield address


@pytest.fixture
def until_the_end() -> Iterator[tuple[str, int]]:
    with serving(UntilTheEnd) as address:
        yield address


@pytest.fixture
def pages() -> Iterator[str]:
    with serving(Pages) as (host, port):
        yield f"http://{host}:{port}/"


@pytest.fixture(scope="session")
def session_one_line() -> Iterator[tuple[str, int]]:
    with serving(OneLine) as address:
        yield address


@pytest.fixture(scope="session")
def session_pages() -> Iterator[str]:
    with serving(Pages) as (host, port):
        yield f"http://{host}:{port}/"


@pytest.fixture(scope="session")
def session_client() -> Iterator[requests.Session]:
    with requests.Session() as client:
        yield client


@pytest.fixture(scope="session")
def session_executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        executor.submit(len, "").result()
        yield executor


@pytest.fixture(scope="session")
def certificates() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


@pytest.fixture(scope="session")
def lazy_server() -> Iterator[tuple[str, int]]:
    """A server that keeps what it accepts until the session ends: its own affair."""
    accepted: list[socket.socket] = []
    arrived: queue.Queue[None] = queue.Queue()

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    accepted.append(listener.accept()[0])
                    arrived.put(None)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for sock in accepted:
            sock.close()


@pytest.fixture
def in_a_thread() -> Callable[[Callable[[], object]], None]:
    def run(work: Callable[[], object]) -> None:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    return run
