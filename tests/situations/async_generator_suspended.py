"""An asynchronous generator that is never exhausted has the connection."""

import asyncio

import peer

ROWS = []


async def rows():
    sock = peer.abandoned(b"row\n" * 10)
    with sock:
        while row := sock.recv(4):
            yield row


async def main():
    ROWS.append(rows())
    await ROWS[0].__anext__()
    await asyncio.to_thread(peer.stay)
    await ROWS.pop().aclose()


asyncio.run(main())
