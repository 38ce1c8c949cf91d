"""Looks like `stuck`: the task that made the connection is done, and it is the result."""

import asyncio

import peer

TASKS = []


async def connect():
    return peer.abandoned()


async def main():
    TASKS.append(asyncio.create_task(connect(), name="connector"))
    await asyncio.wait(TASKS)
    await asyncio.to_thread(peer.stay)
    TASKS.pop().result().close()


asyncio.run(main())
