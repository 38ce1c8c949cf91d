"""An asyncio protocol answers eof_received() with True and is kept in a set."""

import asyncio

import peer

MEMBERS = set()


class Chat(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        MEMBERS.add(self)

    def eof_received(self):
        return True


async def connect(address):
    await asyncio.get_running_loop().create_connection(Chat, *address)


async def main():
    server = peer.Server(until=b"")
    await connect(server.address)
    await asyncio.to_thread(peer.stay)
    MEMBERS.pop().transport.close()


asyncio.run(main())
