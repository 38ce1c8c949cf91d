"""A FastAPI service that keeps the connections to UPSTREAM that its requests open."""

import asyncio
import json
import os
import socket

import requests
from fastapi import FastAPI

app = FastAPI()
upstream = ("127.0.0.1", int(os.environ["UPSTREAM"]))
kept = []


@app.get("/keep")
def keep():
    kept.append(requests.get("http://{}:{}".format(*upstream), stream=True, timeout=20))
    return {"pid": os.getpid()}


@app.get("/keep-in-a-task")
async def keep_in_a_task():
    reader, writer = await asyncio.open_connection(*upstream)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    await reader.read()
    kept.append(writer)
    return {"pid": os.getpid()}


@app.get("/close")
async def close():
    for connection in kept:
        connection.close()
    kept.clear()
    return {"pid": os.getpid()}


@app.get("/")
async def root():
    return {"pid": os.getpid()}


@app.get("/storm")
def storm(functions: int, sockets: int):
    """Keep ``sockets`` connections of each of so many functions: each is a cause of its own."""
    for number in range(functions):
        name = f"connect_{number}"
        known = {"connect": socket.create_connection, "upstream": upstream}
        exec(compile(f"def {name}(): return connect(upstream)", __file__, "exec"), known)
        for _ in range(sockets):
            kept.append(known[name]())
            kept[-1].sendall(b"GET / HTTP/1.0\r\n\r\n")
    return {"pid": os.getpid()}


def wsgi(environ, start_response):
    """Answer as above, where workers can't do asyncio."""
    body = json.dumps(keep() if environ["PATH_INFO"] == "/keep" else {"pid": os.getpid()})
    head = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response("200 OK", head)
    return [body.encode()]
