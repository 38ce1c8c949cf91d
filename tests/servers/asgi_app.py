"""An ASGI app: each worker's first request opens a connection to UPSTREAM and keeps it."""

import asyncio
import os

kept = []
opening = []


async def app(scope, receive, send):
    if not opening:
        opening.append(True)
        kept.append(await asyncio.open_connection("127.0.0.1", int(os.environ["UPSTREAM"])))
    body = str(os.getpid()).encode()
    headers = [(b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
