"""An aiohttp response is never released: its reader is full and has paused the transport."""

import asyncio

import aiohttp
import peer

RESPONSES = []


async def fetch(session, url):
    RESPONSES.append(await session.get(url))


async def main():
    # More than aiohttp takes before it pauses; then the server dies amid the body.
    server = peer.Server(peer.http_answer(peer.LARGE * 3, length=10_000_000))
    async with aiohttp.ClientSession(read_bufsize=1024) as session:
        await fetch(session, server.url)
        await asyncio.to_thread(peer.stay)
        RESPONSES.pop().close()


asyncio.run(main())
