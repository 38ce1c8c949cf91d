"""A transport was paused, as its reader is slow, and is never resumed: it will not see the EOF."""

import asyncio

import peer

TRANSPORTS = []


class Slow(asyncio.Protocol):
    def connection_made(self, transport):
        TRANSPORTS.append(transport)

    def data_received(self, data):
        TRANSPORTS[0].pause_reading()
        PAUSED.set()


async def connect(address):
    await asyncio.get_running_loop().create_connection(Slow, *address)


async def main():
    global PAUSED
    PAUSED = asyncio.Event()
    server = peer.Server(b"hello", until=b"", stays=True)
    await connect(server.address)
    await PAUSED.wait()
    server.leave()
    await asyncio.to_thread(peer.stay)
    TRANSPORTS.pop().close()


asyncio.run(main())
