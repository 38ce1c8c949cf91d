"""What connection pools hold: the real libraries on loopback, the kernel as referee.

Each library has a client that can borrow a connection, and give it back. Every promise is then
kept for every client.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import http.client
import importlib
import inspect
import logging
import os
import select
import socket
import ssl
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from enum import Enum
from typing import Any, NamedTuple

import pytest
from servers import pool_protocols as protocols
from support import kernel

from sockguard import inside, poolkinds, pools

PATIENCE_MS = 10_000
# redis-py before 5.3 wants the argument that the newest warns of.
pytestmark = pytest.mark.filterwarnings("ignore:Call to 'get_connection':DeprecationWarning")


class Client(NamedTuple):
    pool: Any
    #: Leaves a connection checked out.
    borrow: Callable[[], Any]
    give_back: Callable[[Any], object]
    #: Lets an asyncio loop see what came; the others see it by themselves.
    turn: Callable[[], object] = lambda: None
    #: As a program does it, where the library does more for it then.
    request: Callable[[], object] | None = None

    def use(self) -> None:
        if self.request is None:
            self.give_back(self.borrow())
        else:
            self.request()


class Case(NamedTuple):
    name: str
    open: Callable[[int, ssl.SSLContext], contextlib.AbstractContextManager[Client]]
    speak: Callable[[Any], None]
    bound: int | None
    #: What the pool does at its next use with an idle connection that is dead: "reopens",
    #: "raises", "raises, keeps it", or "either" by version.
    next_use: str = "reopens"
    tls: bool = False
    #: Whether the pool itself knows what is checked out.
    knows_in_use: bool = True


def url(port: int, path: str = "/", scheme: str = "http") -> str:
    return f"{scheme}://127.0.0.1:{port}{path}"


# -- HTTP ------------------------------------------------------------------------------


@contextlib.contextmanager
def open_urllib3(port, trust, scheme="http") -> Iterator[Client]:
    urllib3 = pytest.importorskip("urllib3")
    more = {"ssl_context": trust} if scheme == "https" else {}
    with urllib3.PoolManager(maxsize=3, retries=False, **more) as manager:
        yield Client(
            manager.connection_from_url(url(port, scheme=scheme)),
            lambda: manager.request("GET", url(port, scheme=scheme), preload_content=False),
            lambda response: (response.read(), response.release_conn()),
        )


def open_urllib3_tls(port, trust):
    return open_urllib3(port, trust, "https")


@contextlib.contextmanager
def open_requests(port, trust) -> Iterator[Client]:
    requests = pytest.importorskip("requests")
    with requests.Session() as session:
        session.trust_env = False
        session.get(url(port)).content  # noqa: B018  # a property that reads
        (pool,) = pools.pools_of(session)
        yield Client(
            pool,
            lambda: session.get(url(port), stream=True),
            lambda response: response.content,
        )


@contextlib.contextmanager
def open_http_client(port, trust) -> Iterator[Client]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def borrow():
        connection.request("GET", "/")
        return connection.getresponse()

    yield Client(connection, borrow, lambda response: response.read())
    connection.close()


@contextlib.contextmanager
def open_httpx(port, trust, scheme="http") -> Iterator[Client]:
    httpx = pytest.importorskip("httpx")
    limits = httpx.Limits(max_connections=9, max_keepalive_connections=4)
    with httpx.Client(limits=limits, verify=trust, trust_env=False) as client:
        address = url(port, scheme=scheme)
        yield Client(
            client._transport._pool,
            lambda: client.send(client.build_request("GET", address), stream=True),
            lambda response: (response.read(), response.close()),
        )


def open_httpx_tls(port, trust):
    return open_httpx(port, trust, "https")


@contextlib.contextmanager
def open_http2(port, trust) -> Iterator[Client]:
    pytest.importorskip("h2")
    httpcore = pytest.importorskip("httpcore")
    with (
        httpcore.ConnectionPool(http1=False, http2=True, max_keepalive_connections=4) as pool,
        contextlib.ExitStack() as streams,
    ):

        def borrow():
            # The server never ends what answers a POST.
            streams.enter_context(pool.stream("POST", url(port)))

        def give_back(_):
            streams.close()
            pool.request("GET", url(port))

        yield Client(pool, borrow, give_back)


class Loop:
    """An asyncio loop that runs only while something is asked of it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()

    def run(self, make: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        async def main():
            return await make(*arguments)

        return self._loop.run_until_complete(main())

    def turn(self) -> None:
        # One turn to see what came, one to act on it.
        for _ in range(3):
            self.run(asyncio.sleep, 0)

    def close(self) -> None:
        self.turn()  # transports close in the turn after
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


class TrioLoop:
    """A trio loop in a thread."""

    def __init__(self) -> None:
        self._trio = pytest.importorskip("trio")
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._trio.run, args=(self._main,))
        self._thread.start()
        assert self._ready.wait(PATIENCE_MS / 1000)

    async def _main(self) -> None:
        self._end = self._trio.Event()
        self._token = self._trio.lowlevel.current_trio_token()
        self._ready.set()
        await self._end.wait()

    def run(self, make: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        return self._trio.from_thread.run(make, *arguments, trio_token=self._token)

    def turn(self) -> None:
        self.run(self._trio.lowlevel.checkpoint)

    def close(self) -> None:
        self._trio.from_thread.run_sync(self._end.set, trio_token=self._token)
        self._thread.join(PATIENCE_MS / 1000)


@contextlib.contextmanager
def open_httpx_async(port, trust, scheme="http", make_loop=Loop) -> Iterator[Client]:
    httpx = pytest.importorskip("httpx")
    with contextlib.closing(make_loop()) as loop:
        limits = httpx.Limits(max_connections=9, max_keepalive_connections=4)
        client = httpx.AsyncClient(limits=limits, verify=trust, trust_env=False)
        request = client.build_request("GET", url(port, scheme=scheme))

        async def borrow():
            return await client.send(request, stream=True)

        async def give_back(response):
            await response.aread()
            await response.aclose()

        yield Client(
            client._transport._pool,
            lambda: loop.run(borrow),
            lambda response: loop.run(give_back, response),
            loop.turn,
        )
        loop.run(client.aclose)


def open_httpx_async_tls(port, trust):
    return open_httpx_async(port, trust, "https")


def open_httpx_trio(port, trust):
    return open_httpx_async(port, trust, "http", TrioLoop)


def open_httpx_trio_tls(port, trust):
    return open_httpx_async(port, trust, "https", TrioLoop)


@contextlib.contextmanager
def open_aiohttp(port, trust, scheme="http") -> Iterator[Client]:
    aiohttp = pytest.importorskip("aiohttp")
    with contextlib.closing(Loop()) as loop:

        async def start():
            connector = aiohttp.TCPConnector(limit=7, limit_per_host=4, ssl=trust)
            return aiohttp.ClientSession(connector=connector)

        session = loop.run(start)

        async def borrow():
            # What comes whole is given back at once.
            return await session.get(url(port, "/part", scheme))

        async def give_back(response):
            response.close()
            async with session.get(url(port, "/", scheme)) as whole:
                await whole.read()

        yield Client(
            session.connector,
            lambda: loop.run(borrow),
            lambda response: loop.run(give_back, response),
            loop.turn,
        )
        loop.run(session.close)


def open_aiohttp_tls(port, trust):
    return open_aiohttp(port, trust, "https")


# -- databases -------------------------------------------------------------------------


@contextlib.contextmanager
def open_redis(port, trust, name="ConnectionPool") -> Iterator[Client]:
    redis = pytest.importorskip("redis")
    pool = getattr(redis, name)(host="127.0.0.1", port=port, max_connections=6)

    def borrow():
        connection = pool.get_connection("PING")
        connection.send_command("PING")
        connection.read_response()
        return connection

    yield Client(pool, borrow, pool.release)
    pool.disconnect()


def open_redis_blocking(port, trust):
    return open_redis(port, trust, "BlockingConnectionPool")


@contextlib.contextmanager
def open_redis_async(port, trust, name="ConnectionPool") -> Iterator[Client]:
    redis = pytest.importorskip("redis.asyncio")
    retry = importlib.import_module("redis.asyncio.retry").Retry
    backoff = importlib.import_module("redis.backoff").NoBackoff
    with contextlib.closing(Loop()) as loop:
        # A client that makes its own pool has it retry; where the server speaks of
        # maintenance, 8.x finds out only so that a connection is dead.
        options = {"max_connections": 6, "retry": retry(backoff(), 1)}
        pool = getattr(redis, name)(host="127.0.0.1", port=port, **options)

        async def borrow():
            connection = await pool.get_connection("PING")
            await connection.send_command("PING")
            await connection.read_response()
            return connection

        yield Client(
            pool,
            lambda: loop.run(borrow),
            lambda connection: loop.run(pool.release, connection),
            loop.turn,
            lambda: loop.run(redis.Redis(connection_pool=pool).ping),
        )
        loop.run(pool.disconnect)


def open_redis_async_blocking(port, trust):
    return open_redis_async(port, trust, "BlockingConnectionPool")


@contextlib.contextmanager
def open_redis_node(port, trust) -> Iterator[Client]:
    cluster = pytest.importorskip("redis.asyncio.cluster")
    if not hasattr(cluster.ClusterNode, "acquire_connection"):
        pytest.skip("this redis-py lends no connection of a cluster's node")
    with contextlib.closing(Loop()) as loop:
        node = cluster.ClusterNode("127.0.0.1", port, "primary", max_connections=6)

        async def borrow():
            connection = node.acquire_connection()
            await connection.connect()
            await connection.send_command("PING")
            await connection.read_response()
            return connection

        async def give_back(connection):
            node._free.append(connection)  # as `execute_command` does

        yield Client(
            node,
            lambda: loop.run(borrow),
            lambda connection: loop.run(give_back, connection),
            loop.turn,
        )
        loop.run(node.disconnect)


def connect_pg8000(port):
    return pytest.importorskip("pg8000.dbapi").connect("u", host="127.0.0.1", port=port)


def connect_pymysql(port):
    return pytest.importorskip("pymysql").connect(host="127.0.0.1", port=port, user="u")


@contextlib.contextmanager
def open_sqlalchemy(port, trust, connect=connect_pg8000, name="QueuePool", **options):
    sqlalchemy_pool = pytest.importorskip("sqlalchemy.pool")
    pool = getattr(sqlalchemy_pool, name)(lambda: connect(port), **options)

    def borrow():
        fairy = pool.connect()
        try:
            fairy.cursor().execute("SELECT 1")
        except Exception as error:  # as an Engine does
            fairy.invalidate(error)
            raise
        fairy.rollback()
        return fairy

    yield Client(pool, borrow, lambda fairy: fairy.close())
    pool.dispose()


def open_sqlalchemy_queue(port, trust):
    return open_sqlalchemy(port, trust, pool_size=5, max_overflow=2)


def open_sqlalchemy_pymysql(port, trust):
    return open_sqlalchemy(port, trust, connect_pymysql, pool_size=5)


def open_sqlalchemy_asyncio(port, trust):
    # Its queue is asyncio's; the driver below does not matter to it while nobody waits.
    return open_sqlalchemy(port, trust, connect_pymysql, "AsyncAdaptedQueuePool", pool_size=5)


def open_sqlalchemy_threads(port, trust):
    return open_sqlalchemy(port, trust, connect_pymysql, "SingletonThreadPool", pool_size=5)


def open_sqlalchemy_static(port, trust):
    return open_sqlalchemy(port, trust, connect_pymysql, "StaticPool")


@contextlib.contextmanager
def open_pymongo(port, trust) -> Iterator[Client]:
    pymongo = pytest.importorskip("pymongo")
    client = pymongo.MongoClient("127.0.0.1", port, maxPoolSize=6, serverSelectionTimeoutMS=5000)
    client.admin.command("ping")
    (pool,) = pools.pools_of(client)
    pool._check_interval_seconds = 0  # as if the second had passed
    check_out = pool.checkout if hasattr(pool, "checkout") else pool.get_socket
    if "all_credentials" in inspect.signature(check_out).parameters:  # 4.0
        check_out = functools.partial(check_out, {})

    def borrow():
        checkout = check_out()
        checkout.__enter__()
        return checkout

    yield Client(
        pool,
        borrow,
        lambda checkout: checkout.__exit__(None, None, None),
        request=lambda: client.admin.command("ping"),
    )
    client.close()


@contextlib.contextmanager
def open_pymongo_async(port, trust) -> Iterator[Client]:
    pymongo = pytest.importorskip("pymongo")
    if not hasattr(pymongo, "AsyncMongoClient"):
        pytest.skip("this pymongo has no asyncio")
    with contextlib.closing(Loop()) as loop:

        async def start():
            client = pymongo.AsyncMongoClient("127.0.0.1", port, maxPoolSize=6)
            await client.admin.command("ping")
            return client

        client = loop.run(start)
        (pool,) = pools.pools_of(client)
        pool._check_interval_seconds = 0

        async def borrow():
            checkout = pool.checkout()
            await checkout.__aenter__()
            return checkout

        yield Client(
            pool,
            lambda: loop.run(borrow),
            lambda checkout: loop.run(checkout.__aexit__, None, None, None),
            loop.turn,
            lambda: loop.run(client.admin.command, "ping"),
        )
        loop.run(client.close)


CASES = (
    Case("urllib3", open_urllib3, protocols.http, 3, knows_in_use=False),
    Case("urllib3-tls", open_urllib3_tls, protocols.http, 3, tls=True, knows_in_use=False),
    Case("requests", open_requests, protocols.http, 10, knows_in_use=False),
    Case("http.client", open_http_client, protocols.http, 1, "raises"),
    Case("httpx", open_httpx, protocols.http, 4),
    Case("httpx-tls", open_httpx_tls, protocols.http, 4, tls=True),
    Case("http2", open_http2, protocols.http2, 4, "raises, keeps it"),
    Case("httpx-asyncio", open_httpx_async, protocols.http, 4),
    Case("httpx-asyncio-tls", open_httpx_async_tls, protocols.http, 4, tls=True),
    Case("httpx-trio", open_httpx_trio, protocols.http, 4),
    Case("httpx-trio-tls", open_httpx_trio_tls, protocols.http, 4, tls=True),
    Case("aiohttp", open_aiohttp, protocols.http, 4),
    Case("aiohttp-tls", open_aiohttp_tls, protocols.http, 4, tls=True),
    Case("redis", open_redis, protocols.redis, 6),
    Case("redis-blocking", open_redis_blocking, protocols.redis, 6),
    Case("redis-asyncio", open_redis_async, protocols.redis, 6, "either"),
    Case("redis-asyncio-blocking", open_redis_async_blocking, protocols.redis, 6, "either"),
    Case("redis-asyncio-cluster", open_redis_node, protocols.redis, 6, "raises"),
    Case(
        *("sqlalchemy-pg8000", open_sqlalchemy_queue, protocols.postgres, 5, "raises"),
        knows_in_use=False,
    ),
    Case(
        *("sqlalchemy-pymysql", open_sqlalchemy_pymysql, protocols.mysql, 5, "raises"),
        knows_in_use=False,
    ),
    Case(
        *("sqlalchemy-asyncio", open_sqlalchemy_asyncio, protocols.mysql, 5, "raises"),
        knows_in_use=False,
    ),
    Case("sqlalchemy-threads", open_sqlalchemy_threads, protocols.mysql, 5, "raises"),
    Case("sqlalchemy-static", open_sqlalchemy_static, protocols.mysql, 1, "raises"),
    Case("pymongo", open_pymongo, protocols.mongo, 6, knows_in_use=False),
    # The newest does not read while it waits, so that nothing tells it.
    Case("pymongo-asyncio", open_pymongo_async, protocols.mongo, 6, "either", knows_in_use=False),
)


@pytest.fixture(scope="module")
def certificates() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    client.check_hostname = False  # urllib3 1.26.0 asks for no name where it is an address
    return server, client


@contextlib.contextmanager
def serving(speak, tls: ssl.SSLContext | None = None) -> Iterator[protocols.Server]:
    with contextlib.closing(protocols.Server(speak, tls)) as server:
        yield server


@pytest.fixture(params=CASES, ids=[case.name for case in CASES])
def case(request) -> Case:
    return request.param


@pytest.fixture
def server(case, certificates) -> Iterator[protocols.Server]:
    with serving(case.speak, certificates[0] if case.tls else None) as server:
        yield server


@pytest.fixture
def client(case, server, certificates) -> Iterator[Client]:
    with case.open(server.port, certificates[1]) as client:
        yield client


def the_socket(found: list[Any] | None, port: int) -> socket.socket:
    """Return the one socket in a list: the very object, of this process, to that server."""
    assert found is not None
    (sock,) = found
    assert isinstance(sock, socket.socket)
    assert sock.getpeername()[1] == port
    inode = os.readlink(f"/proc/self/fd/{sock.fileno()}")[len("socket:[") : -1]
    assert inode in kernel.socket_inodes(os.getpid())
    return sock


def wait_for_fin(sock: socket.socket) -> None:
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLRDHUP)
    assert poll.poll(PATIENCE_MS), "no FIN came"


# -- what holds for each ---------------------------------------------------------------


def test_a_connection_given_back_is_idle(client, server, case):
    client.use()

    census = pools.census(client.pool)

    assert census is not None
    the_socket(census.idle, server.port)
    assert census.in_use == ([] if case.knows_in_use else None)
    assert census.bound == case.bound


def test_a_connection_checked_out_is_not_idle(client, server, case):
    borrowed = client.borrow()

    census = pools.census(client.pool)

    assert census is not None
    assert census.idle == []
    if case.knows_in_use:
        the_socket(census.in_use, server.port)
    else:
        assert census.in_use is None
    client.give_back(borrowed)


def test_an_idle_connection_that_the_server_closed_stays_idle(client, server):
    client.use()
    before = kernel.close_wait(os.getpid())

    server.hang_up()

    census = pools.census(client.pool)
    assert census is not None
    sock = the_socket(census.idle, server.port)
    wait_for_fin(sock)
    assert kernel.close_wait(os.getpid()) > before
    again = pools.census(client.pool)
    assert again is not None
    assert again.idle == [sock]


def test_a_dead_connection_that_is_checked_out_does_not_become_idle(client, server, case):
    borrowed = client.borrow()

    server.hang_up()

    census = pools.census(client.pool)
    assert census is not None
    assert census.idle == []
    assert (census.in_use is None) != case.knows_in_use
    with contextlib.suppress(Exception):
        client.give_back(borrowed)


# Python 3.10's asyncio does not close a TLS transport whose connection was dead.
@pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning")
def test_the_next_use_meets_the_dead_connection_as_the_docs_say(
    client, server, case, caplog, request
):
    request.addfinalizer(gc.collect)
    client.use()
    census = pools.census(client.pool)
    assert census is not None
    dead = the_socket(census.idle, server.port)
    del census
    server.hang_up()
    wait_for_fin(dead)
    client.turn()

    # Its log keeps the traceback, and with it pg8000's file over the socket.
    caplog.set_level(logging.CRITICAL + 1, "sqlalchemy.pool")
    if "raises" in case.next_use:
        with pytest.raises(Exception):  # noqa: B017, PT011  # each library has its own
            client.use()
    elif case.next_use == "either":
        with contextlib.suppress(Exception):
            client.use()
    else:
        client.use()
        census = pools.census(client.pool)
        assert census is not None
        the_socket(census.idle, server.port)
    assert (dead.fileno() != -1) == ("keeps" in case.next_use)


class CodeRan(BaseException):
    """Code of the program ran while it was looked at."""


def is_hostile(*_arguments, **_options):
    raise CodeRan


TOUCHES = (
    *("__getattribute__", "__getattr__", "__eq__", "__ne__", "__lt__", "__hash__"),
    *("__repr__", "__str__", "__bool__", "__len__", "__iter__", "__contains__"),
    *("__getitem__", "__call__", "__index__"),
)
HOSTILE = dict.fromkeys(TOUCHES, is_hostile)


LIBRARIES = {case.name.partition("-")[0] for case in CASES} | {
    *("httpcore", "http", "pg8000", "pymysql", "anyio", "trio", "asyncio", "queue"),
}


def is_to_change(thing: object) -> bool:
    own = type(thing)
    return own.__module__.partition(".")[0] in LIBRARIES and not isinstance(thing, (type, Enum))


@contextlib.contextmanager
def all_hostile(root: object) -> Iterator[set[str]]:
    """Make what is reachable from a pool raise at any touch; yield the names of its classes.

    Where a class can be changed, that is: not those made in C.
    """
    change = object.__dict__["__class__"].__set__
    changed: list[tuple[object, type]] = []
    seen: set[int] = set()
    level = [root]
    for _ in range(6):
        level = [thing for thing in level if id(thing) not in seen]
        seen.update(map(id, level))
        further = [
            thing
            for thing in gc.get_referents(*level)
            if is_to_change(thing) or type(thing) in (dict, list, set, tuple, deque)
        ]
        changed += [(thing, type(thing)) for thing in level if is_to_change(thing)]
        level = further
    try:
        for thing, own in changed:
            with contextlib.suppress(TypeError):
                change(thing, type(own)(own.__name__, (own,), {"__slots__": (), **HOSTILE}))
        yield {type(thing).__name__ for thing, own in changed if type(thing) is not own}
    finally:
        for thing, own in changed:
            if type(thing) is not own:
                change(thing, own)


def test_no_code_of_a_pool_or_its_connections_runs(client, case):
    client.use()
    expected = pools.census(client.pool)

    with all_hostile(client.pool) as classes:
        census = pools.census(client.pool)
        words = pools.describe(client.pool)

    assert type(client.pool).__name__ in classes
    assert len(classes) > (case.name != "http.client")  # connections, too
    assert census == expected
    assert "1 idle" in words


def test_looking_at_a_pool_keeps_nothing_of_it(client, server):
    client.use()
    census = pools.census(client.pool)
    assert census is not None
    sock = the_socket(census.idle, server.port)
    del census
    before = sys.getrefcount(sock), sys.getrefcount(client.pool)

    pools.census(client.pool)
    pools.describe(client.pool)

    assert (sys.getrefcount(sock), sys.getrefcount(client.pool)) == before


# -- what each kind alone has ----------------------------------------------------------


def a_case(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def test_idle_connections_are_counted_up_to_the_bound_and_described(certificates):
    case = a_case("httpx")
    with serving(case.speak) as server, case.open(server.port, certificates[1]) as client:
        for response in [client.borrow() for _ in range(3)]:
            client.give_back(response)
        borrowed = client.borrow()

        words = pools.describe(client.pool)

        client.give_back(borrowed)
    assert words == "httpcore.ConnectionPool, 2 idle, 1 in use, keeps up to 4"


def test_a_bound_of_all_connections_says_so(certificates):
    case = a_case("redis")
    with serving(case.speak) as server, case.open(server.port, certificates[1]) as client:
        assert pools.describe(client.pool) == (
            "redis.connection.ConnectionPool, 0 idle, 0 in use, keeps up to 6 in all"
        )


@pytest.mark.parametrize(
    ("path", "make"),
    [
        ("urllib3", lambda urllib3: urllib3.HTTPConnectionPool("127.0.0.1", maxsize=0)),
        ("httpcore", lambda httpcore: httpcore.ConnectionPool(max_connections=None)),
        ("redis", lambda redis: redis.ConnectionPool(max_connections=2**31)),
        ("sqlalchemy.pool", lambda pool: pool.QueuePool(connect_pg8000, pool_size=0)),
    ],
)
def test_a_pool_that_keeps_any_number_has_no_bound(path, make):
    pool = make(pytest.importorskip(path))

    census = pools.census(pool)

    assert census is not None
    assert census.bound is None
    assert pools.describe(pool).endswith("0 in use, keeps any number in all") or (
        pools.describe(pool).endswith("keeps any number")
    )


def test_aiohttp_keeps_so_many_for_each_destination():
    aiohttp = pytest.importorskip("aiohttp")
    with (
        serving(protocols.http) as one,
        serving(protocols.http) as other,
        contextlib.closing(Loop()) as loop,
    ):

        async def visit():
            session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=7))
            for server in (one, other):
                async with session.get(url(server.port)) as response:
                    await response.read()
            return session

        session = loop.run(visit)

        census = pools.census(session.connector)

        assert census is not None
        assert (len(census.idle), census.bound) == (2, 14)
        loop.run(session.close)


def test_a_connection_of_urllib3_is_no_pool_of_its_own(certificates):
    case = a_case("urllib3")
    with serving(case.speak) as server, case.open(server.port, certificates[1]) as client:
        client.use()
        (connection,) = filter(None, client.pool.pool.queue)

        assert isinstance(connection, http.client.HTTPConnection)
        assert pools.kind_of(connection) is None
        assert pools.census(connection) is None


def test_a_connection_put_back_with_its_response_unread_is_not_idle():
    urllib3 = pytest.importorskip("urllib3")
    with serving(protocols.http) as server, urllib3.PoolManager() as manager:
        address = url(server.port)
        response = manager.request("GET", address, preload_content=False, release_conn=True)
        pool = manager.connection_from_url(address)
        assert any(pool.pool.queue)

        census = pools.census(pool)

        assert census is not None
        assert census.idle == []
        response.close()


def test_a_socket_that_is_both_idle_and_taken_counts_as_in_use(certificates):
    # As when another thread takes it between the two looks.
    case = a_case("redis")
    with serving(case.speak) as server, case.open(server.port, certificates[1]) as client:
        connection = client.borrow()
        client.pool._available_connections.append(connection)

        census = pools.census(client.pool)

        assert census is not None
        assert census.idle == []
        the_socket(census.in_use, server.port)
        client.pool._available_connections.remove(connection)
        client.give_back(connection)


@contextlib.contextmanager
def a_client(name: str, trust: ssl.SSLContext) -> Iterator[Client]:
    case = a_case(name)
    with serving(case.speak) as server, case.open(server.port, trust) as client:
        yield client


def test_an_aiohttp_connection_that_is_both_counts_as_in_use(certificates):
    with a_client("aiohttp", certificates[1]) as client:
        response = client.borrow()
        (protocol,) = client.pool._acquired
        client.pool._conns["key"] = [(protocol, 0.0)]

        census = pools.census(client.pool)

        assert census is not None
        assert (len(census.idle), len(census.in_use)) == (0, 1)
        del client.pool._conns["key"]
        client.give_back(response)


def test_an_active_connection_whose_request_is_gone_is_not_idle(certificates):
    # As after a cancellation that httpcore did not see to its end.
    with a_client("httpx", certificates[1]) as client:
        response = client.borrow()
        requests = client.pool._requests[:]
        client.pool._requests.clear()

        census = pools.census(client.pool)

        assert census is not None
        assert (len(census.idle), len(census.in_use)) == (0, 1)
        client.pool._requests.extend(requests)
        client.give_back(response)


def test_a_connection_that_was_promised_to_a_waiting_request_is_in_use():
    httpx = pytest.importorskip("httpx")
    with serving(protocols.http) as server, contextlib.closing(Loop()) as loop:

        async def hand_over():
            limits = httpx.Limits(max_connections=1)
            async with httpx.AsyncClient(limits=limits, trust_env=False) as client:
                request = client.build_request("GET", url(server.port))
                response = await client.send(request, stream=True)
                waiting = asyncio.create_task(client.get(url(server.port)))
                (pool,) = pools.pools_of(client)
                while len(pool._requests) < 2:
                    await asyncio.sleep(0)
                await response.aread()  # closes it; the other task has not run yet
                assert not waiting.done()
                census = pools.census(pool)
                await waiting
                after = pools.census(pool)
                return [(len(found.idle), len(found.in_use)) for found in (census, after) if found]

        assert loop.run(hand_over) == [(0, 1), (1, 0)]


def test_a_checked_out_record_in_the_queue_of_sqlalchemy_is_not_idle(certificates):
    # As while it is on its way back.
    with a_client("sqlalchemy-pymysql", certificates[1]) as client:
        fairy = client.borrow()
        client.pool._pool.queue.append(fairy._connection_record)

        census = pools.census(client.pool)

        assert census is not None
        assert census.idle == []
        client.pool._pool.queue.clear()
        client.give_back(fairy)


def test_an_active_connection_of_pymongo_is_not_idle(certificates):
    with a_client("pymongo", certificates[1]) as client:
        client.use()
        (connection,) = getattr(client.pool, "conns", None) or client.pool.sockets
        connection.active = True

        census = pools.census(client.pool)

        assert census is not None
        assert census.idle == []


@pytest.mark.parametrize("step", ["begun", "sent"])
def test_http_client_is_in_use_before_its_response_is_there(step):
    with serving(protocols.http) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.connect()
        assert pools.census(connection) == poolkinds.Census([connection.sock], [], 1)
        connection.putrequest("GET", "/")
        if step == "sent":
            connection.endheaders()

        assert pools.census(connection) == poolkinds.Census([], [connection.sock], 1)

        connection.close()


def test_the_weak_set_that_redis_leaves_after_a_reset_is_read():
    redis = pytest.importorskip("redis.asyncio")
    with serving(protocols.redis) as server, contextlib.closing(Loop()) as loop:
        pool = redis.ConnectionPool(host="127.0.0.1", port=server.port)
        pool.reset()

        async def borrow():
            connection = await pool.get_connection("PING")
            await connection.connect()
            return connection

        connection = loop.run(borrow)

        census = pools.census(pool)

        assert census is not None
        assert census.idle == []
        the_socket(census.in_use, server.port)
        loop.run(connection.disconnect)


def test_a_class_that_bears_a_pools_name_is_none():
    pytest.importorskip("urllib3.connectionpool")
    impostor = type("HTTPConnectionPool", (), {"__module__": "urllib3.connectionpool"})

    assert pools.kind_of(impostor()) is None


def test_a_subclass_of_a_pool_counts():
    urllib3 = pytest.importorskip("urllib3")

    class OwnPool(urllib3.HTTPConnectionPool):
        pass

    kind = pools.kind_of(OwnPool("127.0.0.1"))

    assert kind is not None
    assert kind.library == "urllib3"


@pytest.mark.parametrize("version", ["1.25.11", "3.0", "0+unknown", "", None])
def test_in_another_version_nothing_is_claimed(monkeypatch, version):
    urllib3 = pytest.importorskip("urllib3")
    pool = urllib3.HTTPConnectionPool("127.0.0.1", maxsize=2)
    assert pools.census(pool) == poolkinds.Census([], None, 2)

    monkeypatch.setattr(urllib3, "__version__", version)

    assert pools.census(pool) is None
    assert pools.describe(pool) == "urllib3.connectionpool.HTTPConnectionPool"


@pytest.mark.parametrize("version", ["1.26", "1.26.0", "2.0.0a1", "2.99"])
def test_every_version_of_the_range_counts(monkeypatch, version):
    urllib3 = pytest.importorskip("urllib3")
    monkeypatch.setattr(urllib3, "__version__", version)

    assert pools.census(urllib3.HTTPConnectionPool("127.0.0.1")) is not None


def test_of_another_shape_nothing_is_claimed(client, case):
    pool = client.pool
    client.use()
    names = {
        *("pool", "_connections", "_pool", "_requests", "_conns", "_available_connections"),
        *("_all_conns", "_dialect", "conns", "sockets", "_HTTPConnection__state", "_free"),
    }
    own = dict(inside.attributes(pool))
    changed = [name for name in names if inside.read(pool, name) is not None]
    for name in changed:
        setattr(pool, name, None)
    try:
        assert pools.census(pool) is None
    finally:
        for name in changed:
            if name in own:
                setattr(pool, name, own[name])
            else:
                delattr(pool, name)


def test_a_pool_that_has_not_been_set_up_is_no_trouble():
    for kind in poolkinds.KINDS:
        for path in kind.classes:
            module, _, name = path.rpartition(".")
            library = sys.modules.get(module)
            own = getattr(library, name, None)
            if own is None:
                continue
            bare = type(name, (own,), {"__init__": lambda self: None, "__del__": lambda self: 0})
            assert pools.kind_of(bare()) is kind
            assert pools.census(bare()) in (None, poolkinds.Census([], [], 1))


def test_the_memory_of_classes_keeps_none_alive():
    class Transient:
        pass

    assert pools.kind_of(Transient()) is None
    gone = weakref.ref(Transient)
    del Transient
    gc.collect()

    assert gone() is None


def test_a_class_is_not_taken_for_a_dead_one_at_its_address(monkeypatch):
    class Plain:
        pass

    connection = http.client.HTTPConnection("127.0.0.1")
    assert pools.kind_of(connection) is not None
    stale = pools._known[id(http.client.HTTPConnection)]
    monkeypatch.setitem(pools._known, id(Plain), stale)

    assert pools.kind_of(Plain()) is None


def test_what_leads_to_pools_is_followed():
    requests = pytest.importorskip("requests")
    httpx = pytest.importorskip("httpx")
    sqlalchemy = pytest.importorskip("sqlalchemy")
    with serving(protocols.http) as server, requests.Session() as session:
        session.trust_env = False
        session.get(url(server.port))
        (pool,) = pools.pools_of(session)
        assert pools.kind_of(pool).library == "urllib3"
        assert pools.pools_of(pool) == [pool]

    mounts = {"http://a": httpx.HTTPTransport(), "http://b": None}
    with httpx.Client(mounts=mounts, trust_env=False) as client:
        assert [pools.kind_of(pool).library for pool in pools.pools_of(client)] == ["httpcore"] * 2

    pytest.importorskip("pg8000")
    engine = sqlalchemy.create_engine("postgresql+pg8000://u@127.0.0.1/d")
    assert pools.pools_of(engine) == [engine.pool]
    assert pools.pools_of(object()) == []


GEVENT = """
from gevent import monkey; monkey.patch_all()
import gc, queue, sys
import urllib3
from sockguard import pools
address = sys.argv[1]
with urllib3.PoolManager(maxsize=3) as manager:
    response = manager.request("GET", address, preload_content=False)
    pool = manager.connection_from_url(address)
    print("gevent" in type(pool.pool).__module__, pools.describe(pool))
    response.read(), response.release_conn()
    print(pools.describe(pool), type(pools.census(pool).idle[0]).__module__)
"""


def test_the_queue_that_gevent_puts_in_place_is_read():
    pytest.importorskip("gevent")
    pytest.importorskip("urllib3")
    with serving(protocols.http) as server:
        command = [sys.executable, "-c", GEVENT, url(server.port)]
        said = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)

    name = "urllib3.connectionpool.HTTPConnectionPool"
    assert said.stdout.splitlines() == [
        f"True {name}, 0 idle, keeps up to 3",
        f"{name}, 1 idle, keeps up to 3 gevent._socket3",
    ]


def test_looking_imports_no_library():
    """Importing it, and asking it, loads nothing that the program has not loaded."""
    code = (
        "import sys; from sockguard import pools; before = set(sys.modules);"
        "assert pools.census(object()) is None and pools.pools_of(object()) == [];"
        "assert set(sys.modules) == before, set(sys.modules) - before;"
        "assert not {'urllib3', 'ssl', 'httpcore', 'aiohttp', 'redis', 'http', 'asyncio'} & before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
