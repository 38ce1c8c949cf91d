"""An asyncio streams server whose handler forgets writer.close()."""

import asyncio
import sys

rooms = []


async def handle(reader, writer):
    rooms.append((reader, writer))
    writer.write(b"hello")
    await writer.drain()


async def main():
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    print("ready", server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
