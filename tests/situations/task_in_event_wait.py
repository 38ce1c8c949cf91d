"""A task holds a stream and waits for an event. asyncio has read the EOF, the task has not."""

import asyncio

import peer


async def handler(address, go):
    reader, writer = await asyncio.open_connection(*address)
    await go.wait()
    await reader.read()
    writer.close()


async def main():
    go = asyncio.Event()
    server = peer.Server(until=b"")
    task = asyncio.create_task(handler(server.address, go), name="reporter")
    await asyncio.to_thread(peer.stay)
    go.set()
    await task


asyncio.run(main())
