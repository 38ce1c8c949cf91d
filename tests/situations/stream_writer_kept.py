"""A StreamWriter is kept and never closed."""

import asyncio

import peer

WRITERS = []


async def connect(address):
    reader, writer = await asyncio.open_connection(*address)
    await reader.read()
    WRITERS.append(writer)


async def main():
    server = peer.Server(b"hello", until=b"")
    await connect(server.address)
    await asyncio.to_thread(peer.stay)
    WRITERS.pop().close()


asyncio.run(main())
