"""A half-open transport and its protocol refer to each other; the loop has let go of both."""

import asyncio
import gc

import peer

gc.disable()


class HalfOpen(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def eof_received(self):
        return True


async def connect(address):
    await asyncio.get_running_loop().create_connection(HalfOpen, *address)


async def main():
    server = peer.Server(until=b"")
    await connect(server.address)
    await asyncio.to_thread(peer.stay)


asyncio.run(main())
gc.collect()
