"""A task is stuck inside an httpx stream: it waits for a lock that somebody keeps."""

import asyncio

import httpx
import peer


async def fetch(url, lock):
    async with httpx.AsyncClient(trust_env=False) as client, client.stream("GET", url):
        await lock.acquire()


async def main():
    lock = asyncio.Lock()
    await lock.acquire()
    server = peer.Server(peer.http_answer(peer.LARGE))
    task = asyncio.create_task(fetch(server.url, lock), name="fetcher")
    await asyncio.to_thread(peer.stay)
    lock.release()
    await task


asyncio.run(main())
