"""CLOSE_WAIT in a connection pool: the server hangs up, the pool does not look.

    pip install 'sockguard[test]'
    python -m sockguard --threshold 1 examples/pooled_client.py

A requests.Session keeps its connection open for the next request. The server (uvicorn) has a
shorter patience, one second here, and closes. urllib3 looks at a pooled connection only when
it takes it out again, so until then our end stays in CLOSE_WAIT with the FIN unread. That is
how a pool works: the verdict is `pooled`, and it is no leak.

With `--careless` a session is made for each request and none is closed. From the fifth on
that is a leak. The cures: one session, used in a `with`; a keep-alive on the server that
outlasts the client's.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from typing import Any

from leaky_server import close_wait_in_words

try:
    import requests
    import uvicorn
except ImportError as error:
    sys.exit(f"this example needs {error.name}: pip install 'sockguard[test]'")

KEEP_ALIVE_S = 1
IDLE_S = 5.0  # the keep-alive, a threshold of one second, and the watcher's next looks


async def hello(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer every request with a greeting (ASGI)."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def start_server(listener: socket.socket) -> tuple[uvicorn.Server, threading.Thread]:
    """Run uvicorn in a thread of this process."""
    config = uvicorn.Config(
        hello,
        timeout_keep_alive=KEEP_ALIVE_S,
        loop="asyncio",
        lifespan="off",
        ws="none",
        log_level="warning",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="uvicorn")
    thread.start()
    return server, thread


def ask(url: str) -> requests.Session:
    """Ask once, by a session of its own."""
    session = requests.Session()
    session.trust_env = False  # no proxy on the way to ourselves
    print("client:", session.get(url, timeout=10).text)
    return session


def main() -> None:
    """Ask twice through one pool, with a pause between that is too long for the server."""
    is_careless = sys.argv[1:] == ["--careless"]
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    listener = socket.create_server(("127.0.0.1", 0))
    url = "http://{}:{}/".format(*listener.getsockname())
    server, thread = start_server(listener)
    try:
        with ask(url) as session:
            sessions = [ask(url) for _ in range(7)] if is_careless else []
            time.sleep(IDLE_S)
            print("kernel:", close_wait_in_words())
            print("client:", session.get(url, timeout=10).text, "(by a new connection)")
            for forgotten in sessions:
                forgotten.close()
    finally:
        server.should_exit = True
        thread.join()


if __name__ == "__main__":
    main()
