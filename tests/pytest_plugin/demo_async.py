"""asyncio by pytest-asyncio, anyio's plugin with one runner for all, trio."""

from __future__ import annotations

import asyncio

import anyio
import pytest
import trio
from conftest import KEPT


async def answered(address) -> asyncio.StreamWriter:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"hello\n")
    assert await reader.read() == b"hello\n"
    return writer


@pytest.mark.asyncio
async def test_leaks_a_stream(one_line):
    KEPT.append(await answered(one_line))


@pytest.mark.asyncio
async def test_clean_a_stream(one_line):
    writer = await answered(one_line)
    writer.close()
    await writer.wait_closed()


@pytest.mark.asyncio
async def test_leaks_a_stream_of_a_task(one_line):
    KEPT.append(await asyncio.create_task(answered(one_line)))


@pytest.mark.asyncio
async def test_leaks_a_handler_that_never_closes():
    done = asyncio.Event()

    async def handle(reader, writer) -> None:
        KEPT.append(writer)
        await reader.read()
        done.set()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.close()
    await done.wait()
    server.close()


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="module")
async def shared_runner(anyio_backend):
    """Keeps one runner, and its one task, for the whole module."""
    async with anyio.create_task_group() as group:
        yield group


async def exchanged(address) -> anyio.abc.SocketStream:
    stream = await anyio.connect_tcp(*address)
    await stream.send(b"hello\n")
    assert await stream.receive() == b"hello\n"
    return stream


@pytest.mark.anyio
async def test_clean_in_a_shared_runner(shared_runner, one_line):
    await (await exchanged(one_line)).aclose()


@pytest.mark.anyio
async def test_leaks_in_a_nursery_of_a_shared_runner(shared_runner, one_line):
    async def work() -> None:
        KEPT.append(await exchanged(one_line))

    async with anyio.create_task_group() as group:
        group.start_soon(work)


@pytest.mark.anyio
async def test_clean_after_it_in_the_same_runner(shared_runner, one_line):
    await (await exchanged(one_line)).aclose()


async def trio_exchanged(address) -> trio.SocketStream:
    stream = await trio.open_tcp_stream(*address)
    await stream.send_all(b"hello\n")
    assert await stream.receive_some() == b"hello\n"
    return stream


def test_leaks_in_a_trio_nursery(one_line):
    async def work() -> None:
        KEPT.append(await trio_exchanged(one_line))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)

    trio.run(main)


def test_clean_in_trio(one_line):
    async def main() -> None:
        await (await trio_exchanged(one_line)).aclose()

    trio.run(main)
