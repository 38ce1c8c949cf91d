import asyncio
import socket


async def echo(reader, writer):
    writer.write(await reader.readline())
    await writer.drain()
    await reader.read()
    writer.close()


async def forgotten():
    """Never awaited."""


async def main():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello\n")
    print(await reader.readline())
    writer.close()
    await writer.wait_closed()
    forgotten()
    server.close()
    await server.wait_closed()
    loop = asyncio.get_running_loop()
    loop.call_exception_handler({"message": "told to the handler"})
    with socket.socket() as sock:
        sock.setblocking(False)
        try:
            await asyncio.wait_for(loop.sock_connect(sock, ("127.0.0.1", 1)), 5)
        except OSError as error:
            print(error.errno)
    failing = asyncio.create_task(asyncio.sleep(0, 1 // 1), name="named")
    print(failing.get_name(), await failing)
    raise RuntimeError("from the coroutine")


asyncio.run(main())
