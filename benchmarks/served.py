"""Two real servers in a process of their own, that put themselves under guard when asked.

``python -m benchmarks.served KIND`` prints its port, and ends when its standard input
does. A request for ``/guard/light``, ``/guard/full`` or ``/guard/off`` switches the guard
in the running server: the same process, at the same addresses in memory, serves with and
without it. The watcher's thread ticks ten times as often as by default, so that each of
the short runs has its share of ticks.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Awaitable, Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import sockguard

BODY: Final = b"hello, world\n"
INTERVAL_S: Final = 0.1


def obey(path: str) -> None:
    """Switch the guard if ``path`` asks for it."""
    _, prefix, level = f"{path}/".split("/")[:3]
    if prefix == "guard":
        sockguard.uninstall()
        if level != "off":
            sockguard.install(level=level, quiet=True, interval=INTERVAL_S)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        obey(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def serve_http() -> None:
    with Server(("0.0.0.0", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(server.server_address[1], flush=True)
        sys.stdin.read()
        server.shutdown()


async def application(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[Any]],
    send: Callable[..., Awaitable[Any]],
) -> None:
    """Answer as the other server does. ASGI 3.0"""
    if scope["type"] != "http":
        return
    obey(scope["path"])
    length = (b"content-length", str(len(BODY)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": BODY})


def serve_uvicorn() -> None:
    import asyncio
    import socket

    import uvicorn

    config = uvicorn.Config(
        application, loop="asyncio", http="h11", lifespan="off", access_log=False,
        log_level="critical",
    )  # fmt: skip
    server = uvicorn.Server(config)

    async def main(listener: socket.socket) -> None:
        # No thread waits for the end: the plain server is to have one thread only.
        asyncio.get_running_loop().add_reader(0, lambda: setattr(server, "should_exit", True))
        print(listener.getsockname()[1], flush=True)
        await server.serve(sockets=[listener])

    # With its protocol named: else asyncio leaves Nagle's delay on.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen(128)
        asyncio.run(main(listener))


if __name__ == "__main__":
    {"http.server": serve_http, "uvicorn": serve_uvicorn}[sys.argv[1]]()
