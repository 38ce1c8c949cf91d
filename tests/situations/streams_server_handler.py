"""The handler of an asyncio server is stuck; its client has left."""

import asyncio

import peer


async def serve(go):
    async def handle(reader, writer):
        await go.wait()
        writer.close()

    return await asyncio.start_server(handle, "127.0.0.1", 0)


async def main():
    go = asyncio.Event()
    server = await serve(go)
    await asyncio.to_thread(peer.visit, server.sockets[0].getsockname(), b"hello\n")
    await asyncio.to_thread(peer.stay)
    go.set()
    server.close()
    await server.wait_closed()


asyncio.run(main())
