"""Which handler was the connection given to? Asked of real servers, from a thread beside them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import gc
import http.server
import json
import queue
import socket
import socketserver
import ssl
import sys
import threading
import urllib.request
import weakref
import wsgiref.simple_server
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from support.programs import PATIENCE_S, SERVERS, clean_environment, running

from sockguard import handlers, inside
from sockguard.sites import is_application
from sockguard.stacks import Frame

sys.path.insert(0, str(SERVERS))
from handler_probe import accepted, handler_of

HOST = "127.0.0.1"
GET = b"GET /thing HTTP/1.1\r\nHost: here\r\n\r\n"


def frame_of(function: Any, name: str | None = None) -> Frame:
    """The frame that names a function of this file."""
    code = function.__code__
    return Frame(__file__, code.co_firstlineno, name or code.co_name)


@contextmanager
def a_client(port: int, request: bytes = b"", answer: bytes = b"hello") -> Iterator[socket.socket]:
    with socket.create_connection((HOST, port), timeout=PATIENCE_S) as client:
        if request:
            client.sendall(request)
        if answer:
            got = b""
            while answer not in got:
                more = client.recv(65536)
                assert more, got
                got += more
        yield client


def asked(port: int, request: bytes = b"", *, by: str | None = None) -> Frame | None:
    """Connect, be answered, and ask who handles it; ``by``: that object alone knows it too."""
    with a_client(port, request) as client:
        found = handler_of(port, client.getsockname()[1])
        if by is not None:
            assert asked_of(by) == found
    return found


def asked_of(path: str) -> Frame | None:
    """Ask by the only object of a class, as if nothing else were on the way."""
    gc.collect()  # of earlier tests
    name = path.rpartition(".")[2]
    alike = [thing for thing in gc.get_objects() if type(thing).__name__ == name]
    (thing,) = [thing for thing in alike if inside.class_path(type(thing)) == path]
    return handlers.handler([thing])


# -- asyncio -----------------------------------------------------------------------------


@contextmanager
def a_loop(serve: Callable[[AsyncExitStack], Awaitable[int]]) -> Iterator[int]:
    """Run an event loop in a thread; ``serve`` starts a server and returns its port."""
    ready: queue.Queue[Any] = queue.Queue()

    async def main() -> None:
        stop = asyncio.Event()
        async with AsyncExitStack() as stack:
            try:
                port = await serve(stack)
            except BaseException as error:
                ready.put(error)
                raise
            ready.put((port, asyncio.get_running_loop(), stop))
            await stop.wait()
        # Streams stay half-open: what the handlers left behind is closed here.
        for transport in list(asyncio.get_running_loop()._transports.values()):  # type: ignore[attr-defined]
            transport.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    port, loop, stop = ready.get(timeout=PATIENCE_S)
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(PATIENCE_S)


def streams(connected: Any, **more: Any) -> Any:
    """Serve by ``asyncio.start_server``."""

    async def serve(stack: AsyncExitStack) -> int:
        server = await asyncio.start_server(connected, HOST, 0, **more)
        stack.callback(server.close)  # wait_closed waits for the clients too, since 3.12
        return server.sockets[0].getsockname()[1]

    return a_loop(serve)


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(b"hello")

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class LoudEcho(Echo):
    """Its methods are another class's."""


class Silent(asyncio.Protocol):
    """Has no method of its own but the greeting."""

    def connection_made(self, transport: Any) -> None:
        transport.write(b"hello")


class Bare(asyncio.Protocol):
    """Has none at all."""


@pytest.mark.parametrize(
    ("protocol", "method", "name"),
    [
        (Echo, Echo.data_received, "Echo.data_received"),
        (LoudEcho, Echo.data_received, "LoudEcho.data_received"),
        (Silent, Silent.connection_made, "Silent.connection_made"),
    ],
)
def test_an_asyncio_protocol_by_the_class_and_its_method(
    protocol: Any, method: Any, name: str
) -> None:
    async def serve(stack: AsyncExitStack) -> int:
        server = await asyncio.get_running_loop().create_server(protocol, HOST, 0)
        stack.callback(server.close)
        return server.sockets[0].getsockname()[1]

    with a_loop(serve) as port:
        assert asked(port) == frame_of(method, name)


class Talk(asyncio.StreamReaderProtocol):
    """A program's kind of a library's protocol that has a row."""

    def __init__(self) -> None:
        super().__init__(asyncio.StreamReader())

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.write(b"hello")


def test_a_kind_of_the_programs_of_what_has_a_row() -> None:
    async def serve(stack: AsyncExitStack) -> int:
        server = await asyncio.get_running_loop().create_server(Talk, HOST, 0)
        stack.callback(server.close)
        return server.sockets[0].getsockname()[1]

    with a_loop(serve) as port:
        assert asked(port) == frame_of(Talk.connection_made, "Talk.connection_made")


def test_a_protocol_without_a_method_of_its_own_by_its_class() -> None:
    async def serve(stack: AsyncExitStack) -> int:
        server = await asyncio.get_running_loop().create_server(Bare, HOST, 0)
        stack.callback(server.close)
        return server.sockets[0].getsockname()[1]

    with a_loop(serve) as port, a_client(port, answer=b""):
        while not accepted(port):  # the thread that serves takes it in its own time
            threading.Event().wait(0.01)
        found = handler_of(port)
    line = getattr(Bare, "__firstlineno__", None)
    assert found == Frame(__file__, line, "Bare")


LEAKED: list[Any] = []


async def at_work(reader: Any, writer: Any) -> None:
    with closing(writer):
        writer.write(b"hello")
        await reader.read()


async def soon_over(reader: Any, writer: Any) -> None:
    LEAKED.append(writer)
    writer.write(b"hello")


def not_even_async(reader: Any, writer: Any) -> None:
    LEAKED.append(writer)
    writer.write(b"hello")


class Room:
    async def enter(self, reader: Any, writer: Any) -> None:
        with closing(writer):
            writer.write(b"hello")
            await reader.read()

    async def __call__(self, reader: Any, writer: Any) -> None:
        await self.enter(reader, writer)


def wrapped(function: Any) -> Any:
    @functools.wraps(function)
    async def wrapper(*args: Any) -> None:
        await function(*args)

    return wrapper


@wrapped
async def decorated(reader: Any, writer: Any) -> None:
    with closing(writer):
        writer.write(b"hello")
        await reader.read()


async def greeting(word: bytes, reader: Any, writer: Any) -> None:
    with closing(writer):
        writer.write(word)
        await reader.read()


@pytest.mark.parametrize(
    ("connected", "expected"),
    [
        (at_work, frame_of(at_work)),
        (soon_over, frame_of(soon_over)),
        (not_even_async, frame_of(not_even_async)),
        (Room().enter, frame_of(Room.enter, "Room.enter")),
        (Room(), frame_of(Room.__call__, "Room.__call__")),
        (decorated, frame_of(decorated.__wrapped__)),
        (functools.partial(greeting, b"hello"), frame_of(greeting)),
    ],
    ids=["at work", "over", "no coroutine", "method", "callable", "decorated", "partial"],
)
def test_the_callback_of_asyncio_streams(connected: Any, expected: Frame) -> None:
    try:
        with streams(connected) as port:
            assert asked(port) == expected
    finally:
        LEAKED.clear()


def test_a_writer_that_was_left_behind_knows_the_callback() -> None:
    try:
        with streams(soon_over) as port, a_client(port):
            assert handlers.handler(LEAKED) == frame_of(soon_over)
    finally:
        LEAKED.clear()


def test_the_callback_of_asyncio_streams_behind_tls() -> None:
    authority = trustme.CA()
    server, trusting = (
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    )
    authority.issue_cert("here").configure_cert(server)
    authority.configure_trust(trusting)
    with streams(at_work, ssl=server) as port, a_client(port, answer=b"") as plain:
        peer = plain.getsockname()[1]
        with trusting.wrap_socket(plain, server_hostname="here") as client:
            assert client.recv(5) == b"hello"
            assert handler_of(port, peer) == frame_of(at_work)


def test_the_coroutine_that_stays_when_the_callback_is_a_librarys() -> None:
    # What a library puts between: its callback awaits the program's.
    namespace: dict[str, Any] = {}
    source = "async def library(reader, writer):\n    await late(reader, writer)\n"
    exec(compile(source, "/x/site-packages/lib.py", "exec"), namespace)
    namespace["late"] = at_work
    with streams(namespace["library"]) as port, a_client(port):
        (protocol,) = (t for t in gc.get_objects() if type(t) is asyncio.StreamReaderProtocol)
        assert handlers.handler([protocol]) == frame_of(at_work)


def test_a_task_that_accepts_by_itself() -> None:
    async def serve(stack: AsyncExitStack) -> int:
        listener = stack.enter_context(socket.create_server((HOST, 0)))
        listener.setblocking(False)

        async def talk(conn: Any) -> None:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(conn, b"hello")
            with conn:
                await loop.sock_recv(conn, 1)

        async def accept() -> None:
            conn, _ = await asyncio.get_running_loop().sock_accept(listener)
            tasks.append(asyncio.create_task(talk(conn)))

        tasks = [asyncio.create_task(accept())]
        expected.append(frame_of(talk))
        return listener.getsockname()[1]

    expected: list[Frame] = []
    with a_loop(serve) as port:
        assert [asked(port)] == expected


def test_a_task_and_a_coroutine_by_themselves() -> None:
    async def inner() -> None:
        await asyncio.Event().wait()

    async def outer() -> None:
        await inner()

    async def main() -> None:
        waiting = outer()
        made_in_c = asyncio.create_task(waiting)
        made_in_python = asyncio.tasks._PyTask(outer())  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        for thing in (made_in_c, made_in_python, waiting):
            assert handlers.handler([thing]) == frame_of(outer)
        await asyncio.sleep(0)
        for task in (made_in_c, made_in_python):
            task.cancel()
        await asyncio.wait([made_in_c, made_in_python])
        assert handlers.handler([made_in_c]) == frame_of(outer)

    asyncio.run(main())


def test_a_connection_that_we_opened_has_no_handler() -> None:
    async def serve(stack: AsyncExitStack) -> int:
        listener = stack.enter_context(socket.create_server((HOST, 0)))
        _, writer = await asyncio.open_connection(*listener.getsockname())
        stack.callback(writer.close)
        LEAKED.append(writer)
        return writer.get_extra_info("sockname")[1]

    with a_loop(serve) as port:
        assert handler_of(port) is None
    LEAKED.clear()


def test_uvloop_by_what_its_transport_refers_to() -> None:
    uvloop = pytest.importorskip("uvloop")
    transports: list[Any] = []

    class Kept(Echo):
        def connection_made(self, transport: Any) -> None:
            transports.append(transport)
            super().connection_made(transport)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Kept, HOST, 0)
        with closing(server):
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            with closing(writer):
                while not transports:
                    await asyncio.sleep(0.01)
                found = handlers.handler([transports[0]])
                assert found == frame_of(Echo.data_received, "Kept.data_received")
        transports.clear()

    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(serve())
    finally:
        loop.close()


# -- threads -----------------------------------------------------------------------------


@contextmanager
def a_server(server: Any, run: Callable[[], None], stop: Callable[[], None]) -> Iterator[int]:
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        stop()
        thread.join(PATIENCE_S)
        server.server_close()


def socketservers(server: Any) -> Any:
    return a_server(server, lambda: server.serve_forever(0.02), server.shutdown)


class Greeter(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(b"hello")
        self.rfile.read(1)


class Keeper(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        LEAKED.append(self.request)
        self.request.sendall(b"hello")


class Keeping(socketserver.TCPServer):
    def shutdown_request(self, request: Any) -> None:
        """Forget to close it."""


class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *args: Any) -> None:
        """Not on standard error."""


@pytest.mark.parametrize("kind", [socketserver.TCPServer, socketserver.ThreadingTCPServer])
def test_a_socketserver_handler_at_work(kind: Any) -> None:
    with socketservers(kind((HOST, 0), Greeter)) as port:
        assert asked(port) == frame_of(Greeter.handle, "Greeter.handle")


def test_a_connection_that_a_socketserver_handler_left_behind_is_nobodys() -> None:
    # A list of the program's holds it: nothing on the way tells who put it there.
    try:
        with socketservers(Keeping((HOST, 0), Keeper)) as port:
            assert asked(port) is None
    finally:
        for left in LEAKED:
            left.close()
        LEAKED.clear()


def test_http_server_by_the_method_of_the_last_request() -> None:
    with socketservers(http.server.ThreadingHTTPServer((HOST, 0), Page)) as port:
        assert asked(port, GET) == frame_of(Page.do_GET, "Page.do_GET")
        post = GET.replace(b"GET", b"POST")
        assert asked(port, post) == frame_of(Page.do_POST, "Page.do_POST")


def test_a_librarys_handler_is_better_than_none(tmp_path: Path) -> None:
    class Quiet(http.server.ThreadingHTTPServer):
        pass

    (tmp_path / "thing").write_bytes(b"hello")
    kind = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with socketservers(Quiet((HOST, 0), kind)) as port, a_client(port, answer=b"") as client:
        peer = client.getsockname()[1]
        while not accepted(port, peer):
            threading.Event().wait(0.01)
        found = handler_of(port, peer)
    assert found is not None
    assert not is_application(found)
    assert found.function.startswith("SimpleHTTPRequestHandler.")


class QuietRequest(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Not on standard error."""


def test_wsgiref_by_its_application() -> None:
    waiting, over = threading.Event(), threading.Event()

    def application(environ: Any, start_response: Any) -> Any:
        waiting.set()
        over.wait(PATIENCE_S)
        start_response("200 OK", [])
        return [b"hello"]

    server = wsgiref.simple_server.make_server(HOST, 0, application, handler_class=QuietRequest)
    with socketservers(server) as port, a_client(port, GET, b"") as client:
        try:
            assert waiting.wait(PATIENCE_S)
            assert handler_of(port, client.getsockname()[1]) == frame_of(application)
        finally:
            over.set()
        client.recv(65536)


def talk(conn: socket.socket) -> None:
    with conn:
        conn.sendall(b"hello")
        conn.recv(1)


def through_another(conn: socket.socket) -> None:
    talk(conn)


class Talker(threading.Thread):
    def __init__(self, conn: socket.socket) -> None:
        super().__init__()
        self.conn = conn

    def run(self) -> None:
        self.conn.sendall(b"hello")
        self.conn.recv(1)
        self.conn.close()


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda conn: threading.Thread(target=talk, args=(conn,)), frame_of(talk)),
        (
            lambda conn: threading.Thread(target=through_another, args=(conn,)),
            frame_of(through_another),
        ),
        (Talker, frame_of(Talker.run, "Talker.run")),
    ],
    ids=["target", "deeper", "subclass"],
)
def test_a_thread_for_each_connection(make: Any, expected: Frame) -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection((HOST, port), timeout=PATIENCE_S) as client:
            conn, _ = listener.accept()
            thread = make(conn)
            del conn
            thread.start()
            assert client.recv(5) == b"hello"
            assert handler_of(port, client.getsockname()[1]) == expected
        thread.join(PATIENCE_S)


def test_a_job_of_a_pool_of_threads() -> None:
    with (
        concurrent.futures.ThreadPoolExecutor(1) as pool,
        socket.create_server((HOST, 0)) as listener,
    ):
        port = listener.getsockname()[1]
        with a_client(port, answer=b"") as client:
            pool.submit(talk, listener.accept()[0])
            assert client.recv(5) == b"hello"
            assert handler_of(port, client.getsockname()[1]) == frame_of(talk)


def test_a_job_that_waits_in_the_queue_of_a_pool() -> None:
    over = threading.Event()
    with (
        concurrent.futures.ThreadPoolExecutor(1) as pool,
        socket.create_server((HOST, 0)) as listener,
    ):
        port = listener.getsockname()[1]
        pool.submit(over.wait, PATIENCE_S)
        with a_client(port, answer=b"") as client:
            pool.submit(talk, listener.accept()[0])
            try:
                assert handler_of(port, client.getsockname()[1]) == frame_of(talk)
            finally:
                over.set()
            assert client.recv(5) == b"hello"


def test_trio_by_the_handler_that_it_called() -> None:
    trio = pytest.importorskip("trio")
    ports: queue.Queue[int] = queue.Queue()
    stop = trio.Event()
    tokens: list[Any] = []

    async def handle(stream: Any) -> None:
        await stream.send_all(b"hello")
        await stream.receive_some()

    async def main() -> None:
        tokens.append(trio.lowlevel.current_trio_token())
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host=HOST)
            nursery.start_soon(trio.serve_listeners, handle, [listener])
            ports.put(listener.socket.getsockname()[1])
            await stop.wait()
            nursery.cancel_scope.cancel()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    try:
        assert asked(ports.get(timeout=PATIENCE_S)) == frame_of(handle)
    finally:
        tokens[0].run_sync_soon(stop.set)
        thread.join(PATIENCE_S)


# -- ASGI --------------------------------------------------------------------------------


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    headers = [(b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})


async def slow_asgi(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"content-length", b"10")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello", "more_body": True})
    await asyncio.Event().wait()


class Service:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await asgi(scope, receive, send)


@contextmanager
def uvicorns(app: Any, **options: Any) -> Iterator[int]:
    uvicorn = pytest.importorskip("uvicorn")
    config = uvicorn.Config(
        app,
        HOST,
        0,
        loop="asyncio",
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=0,
        **options,
    )
    server = uvicorn.Server(config)
    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)


UVICORN = {
    "h11": "uvicorn.protocols.http.h11_impl.H11Protocol",
    "httptools": "uvicorn.protocols.http.httptools_impl.HttpToolsProtocol",
    "wsproto": "uvicorn.protocols.websockets.wsproto_impl.WSProtocol",
    "websockets-sansio": (
        "uvicorn.protocols.websockets.websockets_sansio_impl.WebSocketsSansIOProtocol"
    ),
}


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize(
    ("app", "expected"),
    [
        (asgi, frame_of(asgi)),
        (Service(), frame_of(Service.__call__, "Service.__call__")),
        (slow_asgi, frame_of(slow_asgi)),
        ("test_handlers:asgi", frame_of(asgi)),
    ],
    ids=["idle", "object", "at work", "named"],
)
def test_uvicorn_by_its_application(app: Any, expected: Frame, http: str) -> None:
    if http != "h11":
        pytest.importorskip(http)
    with uvicorns(app, http=http) as port:
        assert asked(port, GET, by=UVICORN[http]) == expected


def make_fastapi() -> Any:
    fastapi = pytest.importorskip("fastapi")
    app = fastapi.FastAPI()

    @app.get("/thing")
    async def thing() -> Any:
        return fastapi.Response(b"hello")

    @app.get("/slow")
    async def slow() -> None:
        app.state.over = asyncio.Event()
        at_endpoint.set()
        await app.state.over.wait()

    app.state.slow = slow
    return app


at_endpoint = threading.Event()
FASTAPI: Any = None


def test_an_application_object_of_a_library_by_the_name_that_the_program_gave_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = make_fastapi()
    monkeypatch.setattr(sys.modules[__name__], "FASTAPI", app)
    with uvicorns(app) as port:
        assert asked(port, GET) == Frame(__file__, None, "FASTAPI")


def test_the_endpoint_that_runs_comes_before_the_application() -> None:
    app = make_fastapi()
    at_endpoint.clear()
    with uvicorns(app) as port, a_client(port, GET.replace(b"thing", b"slow"), b"") as client:
        assert at_endpoint.wait(PATIENCE_S)
        found = handler_of(port, client.getsockname()[1])
    assert found == frame_of(app.state.slow)


def test_uvicorns_protocol_knows_the_endpoint_that_runs() -> None:
    app = make_fastapi()
    at_endpoint.clear()
    with uvicorns(app, http="h11") as port, a_client(port, GET.replace(b"thing", b"slow"), b""):
        assert at_endpoint.wait(PATIENCE_S)
        assert asked_of(UVICORN["h11"]) == frame_of(app.state.slow)


def make_service() -> Any:
    return Service()


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        (make_service, frame_of(Service.__call__, "Service.__call__")),
        (make_fastapi, frame_of(make_fastapi)),
    ],
)
def test_what_a_factory_made_or_the_factory(factory: Any, expected: Frame) -> None:
    with uvicorns(factory, factory=True, http="h11") as port:
        assert asked(port, GET) == expected


async def asgi_websocket(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": "hello"})
    await asyncio.Event().wait()


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.mark.parametrize("ws", ["websockets-sansio", "wsproto"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_uvicorns_websockets(ws: str) -> None:
    pytest.importorskip(ws.partition("-")[0])
    with uvicorns(asgi_websocket, ws=ws) as port:
        assert asked(port, UPGRADE, by=UVICORN[ws]) == frame_of(asgi_websocket)


def test_hypercorn_by_its_application() -> None:
    serving = pytest.importorskip("hypercorn.asyncio")
    config = pytest.importorskip("hypercorn.config").Config()
    config.errorlog = None

    async def serve(stack: AsyncExitStack) -> int:
        listener = socket.create_server((HOST, 0))
        port = listener.getsockname()[1]
        config.bind = [f"fd://{listener.detach()}"]
        over = asyncio.Event()
        task = asyncio.create_task(serving.serve(asgi_http, config, shutdown_trigger=over.wait))

        async def end() -> None:
            over.set()
            await task

        stack.push_async_callback(end)
        return port

    async def asgi_http(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await asgi(scope, receive, send)

    with a_loop(serve) as port:
        assert asked(port, GET, by="hypercorn.asyncio.tcp_server.TCPServer") == frame_of(asgi_http)


def test_hypercorns_server_object_knows_the_endpoint_that_runs() -> None:
    serving = pytest.importorskip("hypercorn.asyncio")
    config = pytest.importorskip("hypercorn.config").Config()
    config.errorlog = None
    config.graceful_timeout = 0.1
    app = make_fastapi()
    at_endpoint.clear()

    async def serve(stack: AsyncExitStack) -> int:
        listener = socket.create_server((HOST, 0))
        port = listener.getsockname()[1]
        config.bind = [f"fd://{listener.detach()}"]
        over = asyncio.Event()
        task = asyncio.create_task(serving.serve(app, config, shutdown_trigger=over.wait))

        async def end() -> None:
            app.state.over.set()
            over.set()
            await task

        stack.push_async_callback(end)
        return port

    with a_loop(serve) as port, a_client(port, GET.replace(b"thing", b"slow"), b""):
        assert at_endpoint.wait(PATIENCE_S)
        assert asked_of("hypercorn.asyncio.tcp_server.TCPServer") == frame_of(app.state.slow)


def test_websockets_by_its_handler() -> None:
    serving = pytest.importorskip("websockets.asyncio.server")

    async def chat(connection: Any) -> None:
        await connection.send("hello")
        await connection.wait_closed()

    async def serve(stack: AsyncExitStack) -> int:
        server = await stack.enter_async_context(serving.serve(chat, HOST, 0, close_timeout=0.1))
        return server.sockets[0].getsockname()[1]

    with a_loop(serve) as port:
        assert asked(port, UPGRADE, by="websockets.asyncio.server.ServerConnection") == frame_of(
            chat
        )


# -- WSGI and frameworks -----------------------------------------------------------------


@pytest.mark.parametrize(
    "worker", [["sync"], ["gthread", "--threads", "2"]], ids=["sync", "gthread"]
)
def test_gunicorn_by_its_application(worker: list[str], tmp_path: Path) -> None:
    pytest.importorskip("gunicorn")
    with socket.create_server((HOST, 0)) as listener:
        command = [sys.executable, "-m", "gunicorn", "--no-control-socket", "--chdir", SERVERS]
        command += ["--bind", f"fd://{listener.fileno()}", "-k", *worker, "handler_wsgi:app"]
        with running(command, tmp_path, clean_environment(), (listener.fileno(),)) as program:
            url = f"http://{HOST}:{listener.getsockname()[1]}/"
            with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
                frames = json.load(answer)
            program.terminate()
    # By the way out, and by the worker alone.
    file = str(SERVERS / "handler_wsgi.py")
    assert [(frame[0], frame[2]) for frame in frames] == [(file, "app"), (file, "app")]


def test_werkzeug_by_its_application() -> None:
    serving = pytest.importorskip("werkzeug.serving")

    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", "10")])
        yield b"hello"
        at_endpoint.wait(PATIENCE_S)
        yield b"hello"

    class Quiet(serving.WSGIRequestHandler):
        def log(self, *args: Any) -> None:
            """Not on standard error."""

    at_endpoint.clear()
    server = serving.make_server(HOST, 0, application, threaded=True, request_handler=Quiet)
    try:
        with socketservers(server) as port, a_client(port, GET):
            try:
                assert asked_of(inside.class_path(Quiet)) == frame_of(application)
                assert handlers.handler([server]) == frame_of(application)
            finally:
                at_endpoint.set()
    finally:
        at_endpoint.clear()


def test_waitress_by_its_application() -> None:
    waitress = pytest.importorskip("waitress")

    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", "5")])
        return [b"hello"]

    sockets: dict[int, Any] = {}
    server = waitress.create_server(application, host=HOST, port=0, map=sockets, threads=1)

    def stop() -> None:
        server.trigger.pull_trigger(server.task_dispatcher.shutdown)
        server.trigger.pull_trigger(lambda: [each.close() for each in list(sockets.values())])

    thread = threading.Thread(target=server.asyncore.loop, kwargs={"timeout": 1, "map": sockets})
    thread.start()
    try:
        assert asked(int(server.effective_port), GET) == frame_of(application)
        assert handlers.handler([server]) == frame_of(application)
    finally:
        stop()
        thread.join(PATIENCE_S)


def aiohttps(handle: Any) -> Any:
    web = pytest.importorskip("aiohttp.web")

    async def serve(stack: AsyncExitStack) -> int:
        app = web.Application()
        app.router.add_route("*", "/thing", handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, HOST, 0)
        await site.start()
        return runner.addresses[0][1]

    return a_loop(serve)


def test_aiohttp_by_the_handler_of_the_request() -> None:
    web = pytest.importorskip("aiohttp.web")

    async def stream(request: Any) -> Any:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"hello")
        await asyncio.Event().wait()

    class View(web.View):
        async def get(self) -> Any:
            return await stream(self.request)

    for handle, expected in ((stream, frame_of(stream)), (View, frame_of(View.get, "View.get"))):
        with aiohttps(handle) as port:
            assert asked(port, GET) == expected


def test_aiohttps_low_level_server_by_its_handler() -> None:
    web = pytest.importorskip("aiohttp.web")

    async def handle(request: Any) -> Any:
        return web.Response(body=b"hello")

    async def serve(stack: AsyncExitStack) -> int:
        runner = web.ServerRunner(web.Server(handle, access_log=None))
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, HOST, 0)
        await site.start()
        return runner.addresses[0][1]

    with a_loop(serve) as port:
        assert asked(port, GET) == frame_of(handle)


def tornados(make: Callable[[], Any]) -> Any:
    async def serve(stack: AsyncExitStack) -> int:
        server = make()
        listener = stack.enter_context(socket.create_server((HOST, 0)))
        listener.setblocking(False)
        server.add_socket(listener)
        stack.callback(server.stop)
        close_all = getattr(server, "close_all_connections", None)
        if close_all is not None:
            stack.push_async_callback(close_all)
        return listener.getsockname()[1]

    return a_loop(serve)


def test_tornado_by_the_handler_of_the_request() -> None:
    web = pytest.importorskip("tornado.web")
    httpserver = pytest.importorskip("tornado.httpserver")

    class Page(web.RequestHandler):
        async def get(self) -> None:
            self.write(b"hello")
            await self.flush()
            await asyncio.Event().wait()

    application = web.Application([("/thing", Page)], log_function=lambda handler: None)
    with tornados(lambda: httpserver.HTTPServer(application)) as port:
        assert asked(port, GET) == frame_of(Page.get, "Page.get")
        with a_client(port, GET):
            pages = [thing for thing in gc.get_objects() if type(thing) is Page]
            assert handlers.handler(pages) == frame_of(Page.get, "Page.get")


def test_tornado_by_the_callback_of_its_server() -> None:
    httpserver = pytest.importorskip("tornado.httpserver")

    def handle(request: Any) -> None:
        request.connection.write_headers(start_line, httputil.HTTPHeaders(headers), b"hello")

    httputil = pytest.importorskip("tornado.httputil")
    start_line = httputil.ResponseStartLine("HTTP/1.1", 200, "OK")
    headers = {"Content-Length": "10"}
    with tornados(lambda: httpserver.HTTPServer(handle)) as port:
        by = "tornado.httpserver.HTTPServer"
        assert asked(port, GET, by=by) == frame_of(handle)


def test_tornados_tcp_server_by_its_method() -> None:
    tcpserver = pytest.importorskip("tornado.tcpserver")

    class Talking(tcpserver.TCPServer):
        async def handle_stream(self, stream: Any, address: Any) -> None:
            await stream.write(b"hello")
            with suppress(Exception):
                await stream.read_bytes(1)

    with tornados(Talking) as port:
        by = inside.class_path(Talking)
        assert asked(port, by=by) == frame_of(Talking.handle_stream, "Talking.handle_stream")


@pytest.mark.filterwarnings("ignore")
def test_twisted_by_protocol_and_by_resource() -> None:
    pytest.importorskip("twisted")
    from twisted.internet import asyncioreactor, protocol
    from twisted.web import resource, server

    class Chat(protocol.Protocol):
        def connectionMade(self) -> None:
            self.transport.write(b"hello")

        def dataReceived(self, data: bytes) -> None:
            pass

    class Thing(resource.Resource):
        isLeaf = True  # noqa: N815

        def render_GET(self, request: Any) -> Any:
            request.write(b"hello")
            return server.NOT_DONE_YET

    cases = [
        (protocol.Factory.forProtocol(Chat), b"", frame_of(Chat.dataReceived, "Chat.dataReceived")),
        (server.Site(Thing()), GET, frame_of(Thing.render_GET, "Thing.render_GET")),
    ]
    for factory, request, expected in cases:
        factory.noisy = False
        loop = asyncio.new_event_loop()
        reactor = asyncioreactor.AsyncioSelectorReactor(loop)
        listening = reactor.listenTCP(0, factory, interface=HOST)
        thread = threading.Thread(target=reactor.run, kwargs={"installSignalHandlers": False})
        thread.start()
        try:
            assert asked(listening.getHost().port, request) == expected
        finally:
            reactor.callFromThread(reactor.stop)
            thread.join(PATIENCE_S)
            loop.close()


def test_gevent_by_its_servers(tmp_path: Path) -> None:
    pytest.importorskip("gevent")
    command = [sys.executable, SERVERS / "handler_gevent.py"]
    with running(command, tmp_path, clean_environment()) as program:
        found = [json.loads(" ".join(program.line()))[2] for _ in range(2)]
        assert program.end() == 0, program.errors()
    assert found == ["handle", "app"]


# -- where no row knows the library ------------------------------------------------------


def a_library(source: str, **names: Any) -> dict[str, Any]:
    """Run ``source`` as an installed package's."""
    exec(compile(source, "/x/site-packages/lib.py", "exec"), names)
    return names


def asked_of_thread(run: Callable[[socket.socket], None]) -> Frame | None:
    """Run it in a thread with an accepted connection; ask who handles that one."""
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection((HOST, port), timeout=PATIENCE_S) as client:
            boxed = [listener.accept()[0]]
            thread = threading.Thread(target=lambda: run(boxed.pop()))
            thread.start()
            assert client.recv(5) == b"hello"
            found = handler_of(port, client.getsockname()[1])
        thread.join(PATIENCE_S)
    return found


def greet_and_wait(send: Any, receive: Any) -> None:
    send(b"hello")
    receive(1)


def test_the_function_that_a_librarys_loop_called() -> None:
    library = a_library(
        "def loop(conn):\n    with conn:\n        call(conn.sendall, conn.recv)\n",
        call=greet_and_wait,
    )
    assert asked_of_thread(library["loop"]) == frame_of(greet_and_wait)


def test_the_function_that_called_the_library_which_has_the_connection_now() -> None:
    library = a_library(
        "def talk(conn):\n    with conn:\n        conn.send(b'hello')\n        conn.recv(1)\n"
    )

    def calls(box: list[socket.socket]) -> None:
        library["talk"](box.pop())

    boxed: list[socket.socket] = []
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection((HOST, port), timeout=PATIENCE_S) as client:
            boxed.append(listener.accept()[0])
            thread = threading.Thread(target=calls, args=(boxed,))
            thread.start()
            assert client.recv(5) == b"hello"
            assert handler_of(port, client.getsockname()[1]) == frame_of(calls)
        thread.join(PATIENCE_S)


def unpack(box: list[socket.socket]) -> None:
    talk(box.pop())


def test_the_function_that_the_library_called_rather_than_one_further_in() -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection((HOST, port), timeout=PATIENCE_S) as client:
            serve = lambda: unpack([listener.accept()[0]])  # noqa: E731  # it holds no socket
            thread = threading.Thread(target=serve)
            thread.start()
            assert client.recv(5) == b"hello"
            found = handler_of(port, client.getsockname()[1])
        thread.join(PATIENCE_S)
    assert found == frame_of(serve)


def test_a_script_that_accepts_by_itself_hands_over_to_the_function_that_has_it() -> None:
    found: list[Any] = []
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection((HOST, port), timeout=PATIENCE_S) as client:
            program = compile("talk(listener.accept()[0])", "/srv/script.py", "exec")
            names = {"talk": through_another, "listener": listener}
            library = a_library(
                "def loop():\n    exec(program, names)\n", program=program, names=names
            )
            thread = threading.Thread(target=library["loop"])
            thread.start()
            assert client.recv(5) == b"hello"
            found.append(handler_of(port, client.getsockname()[1]))
        thread.join(PATIENCE_S)
    assert found == [frame_of(through_another)]


def test_what_a_librarys_suspended_loop_calls() -> None:
    source = """
async def loop(handler):
    import asyncio
    await asyncio.Event().wait()
"""

    async def main() -> None:
        task = asyncio.create_task(a_library(source)["loop"](at_work))
        await asyncio.sleep(0)
        assert handlers.handler([task.get_coro()]) == frame_of(at_work)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(main())


@pytest.mark.parametrize("how", ["await Wrapped()", "async for _ in rows(): pass"])
def test_the_programs_coroutine_behind_what_a_librarys_waits_for(how: str) -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    async def rows() -> Any:
        yield await forever()

    class Wrapped:
        def __await__(self) -> Any:
            return forever().__await__()

    async def main() -> None:
        source = f"async def loop():\n    {how}\n"
        task = asyncio.create_task(a_library(source, Wrapped=Wrapped, rows=rows)["loop"]())
        await asyncio.sleep(0)
        expected = frame_of(forever if "Wrapped" in how else rows)
        assert handlers.handler([task]) == expected
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(main())


def test_a_job_of_asyncio_to_thread() -> None:
    job = functools.partial(contextvars.copy_context().run, talk, None)
    assert handlers.handler([job]) == frame_of(talk)


def test_a_librarys_bound_method_by_what_its_object_serves() -> None:
    with socketserver.ThreadingTCPServer((HOST, 0), Greeter) as server:
        found = handlers.handler([functools.partial(server.process_request_thread, None)])
    assert found == frame_of(Greeter.handle, "Greeter.handle")


def test_another_connections_task_is_not_taken_for_this_ones() -> None:
    pytest.importorskip("uvicorn")

    app = make_fastapi()
    at_endpoint.clear()
    slow = GET.replace(b"thing", b"slow")
    with uvicorns(app) as port, a_client(port, slow, b""):
        assert at_endpoint.wait(PATIENCE_S)
        found = asked(port, GET)
    assert found is None or found.function != "slow"


# -- manners -----------------------------------------------------------------------------


def test_no_code_of_the_program_runs() -> None:
    ran: list[str] = []

    def fire(name: str) -> Any:
        def method(self: Any, *args: Any) -> Any:
            ran.append(name)
            return 0

        return method

    names = ("__getattr__", "__getattribute__", "__eq__", "__hash__", "__repr__", "__bool__")
    names += ("__len__", "__iter__", "__call__", "__instancecheck__", "__subclasscheck__")
    meta = type("Meta", (type,), {name: fire(name) for name in names if name != "__call__"})
    body: dict[str, Any] = {name: fire(name) for name in names}
    body["__del__"] = lambda self: None  # the library's own would look at its attributes
    body |= {name: property(fire(name)) for name in ("__class__", "app", "func", "self")}

    def made(*bases: type) -> Any:
        kind = type.__new__(meta, "Hostile", bases, dict(body))
        return object.__new__(kind)

    plain = made()
    protocol = made(asyncio.Protocol)
    writer = made(asyncio.StreamWriter)
    served = made(socketserver.BaseServer)

    def holding(hostile: Any, self: Any) -> Iterator[None]:
        yield

    suspended = holding(plain, plain)
    next(suspended)
    object.__setattr__(writer, "__dict__", {"_protocol": protocol})
    object.__setattr__(served, "__dict__", {"RequestHandlerClass": type(plain)})
    things = [plain, protocol, writer, served, type(plain), suspended, suspended.gi_frame]
    handlers.handler(things)
    for thing in things:
        handlers.handler([thing])
    assert ran == []


def test_nothing_of_the_program_is_kept() -> None:
    async def connected(reader: Any, writer: Any) -> None:
        with closing(writer):
            writer.write(b"hello")
            await reader.read()

    function = weakref.ref(connected)
    with streams(connected) as port, a_client(port) as client:
        assert handler_of(port) == frame_of(connected)
        (sock,) = accepted(port, client.getsockname()[1])
        held = weakref.ref(sock)
        del sock
    del connected
    gc.collect()
    assert held() is None
    assert function() is None


def test_a_chain_of_anything_is_survived() -> None:
    def ended() -> Iterator[None]:
        yield

    over = ended()
    list(over)
    odd = [None, 1, "x", {}, [], object(), type, sys, over, functools.partial(print), print]
    assert handlers.handler(odd) is None
    assert handlers.handler([]) is None
    job = functools.partial(talk, None)
    assert handlers.handler([None] * (handlers.MAX_CHAIN - 1) + [job]) == frame_of(talk)
    assert handlers.handler([None] * handlers.MAX_CHAIN + [job]) is None


def test_what_wraps_itself_ends() -> None:
    ring = a_library("class Ring:\n    def __call__(self): ...\n")["Ring"]()
    ring.app = ring
    server = wsgiref.simple_server.WSGIServer((HOST, 0), QuietRequest, bind_and_activate=False)
    server.server_close()
    server.set_app(ring)
    found = handlers.handler([server])
    assert found is not None
    assert found.function == "Ring.__call__"


def test_each_step_of_middleware_is_looked_through() -> None:
    def application(environ: Any, start_response: Any) -> None: ...

    namespace: dict[str, Any] = {}
    source = """
class Middleware:
    def __init__(self, app):
        self.app = app
    def __call__(self, environ, start_response):
        return self.app(environ, start_response)
def decorated(app):
    def inner(environ, start_response):
        return app(environ, start_response)
    return inner
"""
    exec(compile(source, "/x/site-packages/lib.py", "exec"), namespace)
    layers = namespace["decorated"](namespace["Middleware"](application))
    server = wsgiref.simple_server.WSGIServer((HOST, 0), QuietRequest, bind_and_activate=False)
    server.server_close()
    server.set_app(layers)
    assert handlers.handler([server]) == frame_of(application)
