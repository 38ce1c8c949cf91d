"""The kinds of pools that are known, a row each: how to look into one.

Read without running their code (`inside`). A kind of pool is a row, with the versions of its
library whose insides were looked at; in another version, or where an object has not the
shape that the row knows, nothing is claimed. Any thread; about 0.05 ms a pool and as much a
connection. Nothing is kept alive, and nothing raises.
"""

from __future__ import annotations

import sys
import weakref
from _socket import socket as _c_socket
from collections import deque
from collections.abc import Callable, Iterable
from types import GetSetDescriptorType
from typing import Any, Final, NamedTuple

from sockguard import inside


class Census(NamedTuple):
    """The socket objects of a pool, at one moment. Not to be kept: it holds them."""

    #: Of connections that wait for their next use.
    idle: list[Any]
    #: Of connections that are checked out or busy; ``None``: the pool does not know.
    in_use: list[Any] | None
    #: How many connections it may keep, idle or in all (`PoolKind.bounds`); ``None``: any number.
    bound: int | None


class PoolKind(NamedTuple):
    """What is known of one kind of pool."""

    #: Name of the distribution; ``python`` is the standard library.
    library: str
    #: In which its insides were looked at.
    versions: str
    #: By the path that they give themselves. Subclasses count.
    classes: tuple[str, ...]
    #: Returns ``None`` for another shape than the one that is known.
    look: Callable[[Any], Census | None]
    #: What the bound counts: ``idle`` connections, or ``all``.
    bounds: str
    #: The library's own means against dead idle connections.
    option: str


# What wraps a socket, by the attribute that leads on to it. The first that there is counts:
# pg8000's `_sock` is a file over its `_usock`.
_HOPS: Final = (
    *("_usock", "_sock", "sock", "socket"),
    *("_writer", "_transport", "transport", "_ssl_protocol"),  # asyncio
    *("_stream", "transport_stream", "_trio_socket"),  # anyio, trio
    *("_network_stream", "dbapi_connection", "_connection", "_conn", "connection", "conn"),
)
_MAX_HOPS: Final = 10
_class_dict: Final[Any] = type.__dict__["__dict__"].__get__


def socket_of(thing: Any) -> Any:
    """Return the socket object below a connection, stream or transport; ``None``: not seen."""
    # Where gevent or eventlet stand in, theirs is what the program made; a C socket lies below.
    kinds = (inside.read(sys.modules.get("socket"), "socket"), _c_socket)
    for _ in range(_MAX_HOPS):
        if thing is None or any(inside.isinstance_of(thing, kind) for kind in kinds):
            return thing
        if inside.isinstance_of(thing, tuple):  # pymongo: (transport, protocol)
            thing = _first(thing)
            continue
        steps = (inside.read(thing, name) for name in _HOPS)
        thing = next((step for step in steps if step is not None), None)
    return None


def _first(container: Any) -> Any:
    return next(iter(inside.items(container)), None)


def _sockets(connections: Iterable[Any]) -> list[Any]:
    found = (socket_of(connection) for connection in connections)
    return [sock for sock in found if sock is not None]


def _number(value: Any) -> int | None:
    """Return a bound; libraries write "any number" as 0, infinity, or more than can be opened."""
    return value if type(value) is int and 0 < value < 2**31 else None


def _without(connections: Iterable[Any], others: Iterable[Any]) -> list[Any]:
    # By identity: a comparison would be the program's.
    ids = {id(other) for other in others}
    return [connection for connection in connections if id(connection) not in ids]


def _queue_of(pool: Any, name: str) -> tuple[list[Any], int | None] | None:
    """Return what is in a pool's queue, and how much may be: `queue.Queue`, asyncio's, or alike."""
    queue = inside.read(pool, name)
    for items, maxsize in (("queue", "maxsize"), ("_queue", "_maxsize")):
        kept = _read_queue(queue, items)
        if inside.isinstance_of(kept, list) or inside.isinstance_of(kept, deque):
            bound = _number(_read_queue(queue, maxsize))
            return [item for item in inside.items(kept) if item is not None], bound
    return None


def _read_queue(queue: Any, name: str) -> Any:
    # gevent's queues, which stand in for the standard ones, are made in C: so are the getters
    # that are asked here, and they only read.
    for kind in inside.mro(queue):
        if inside.class_path(kind) == "gevent._gevent_cqueue.SimpleQueue":
            getter = _class_dict(kind).get(name)
            return getter.__get__(queue) if type(getter) is GetSetDescriptorType else None
    return inside.read(queue, name)


# Where both are lists, what is idle is read before what is in use: a connection that is taken
# between the two is found in both, and counts as in use.


def _http_client_is_idle(connection: Any) -> bool:
    state = inside.read(connection, "_HTTPConnection__state")
    response = inside.read(connection, "_HTTPConnection__response")
    open_response = response is not None and inside.read(response, "fp") is not None
    return type(state) is str and state == "Idle" and not open_response


def _look_at_http_client(connection: Any) -> Census | None:
    if inside.read(connection, "_HTTPConnection__state") is None:
        return None
    socks = _sockets([connection])
    return Census(socks, [], 1) if _http_client_is_idle(connection) else Census([], socks, 1)


def _look_at_urllib3(pool: Any) -> Census | None:
    found = _queue_of(pool, "pool")
    if found is None:
        return None
    kept, bound = found
    # One put back before its response was read (`release_conn=True`) is not idle.
    return Census(_sockets(filter(_http_client_is_idle, kept)), None, bound)


def _http_core(connection: Any) -> Any:
    """Return what speaks HTTP below the layers of a proxy; ``None`` while it connects."""
    for _ in range(_MAX_HOPS):
        if connection is None or inside.read(connection, "_network_stream") is not None:
            return connection
        connection = inside.read(connection, "_connection")
    return None


def _look_at_httpcore(pool: Any) -> Census | None:
    connections = inside.read(pool, "_connections")
    if connections is None:  # before 1.0.5
        connections = inside.read(pool, "_pool")
    requests = inside.read(pool, "_requests")
    if not (inside.isinstance_of(connections, list) and inside.isinstance_of(requests, list)):
        return None
    states: dict[str, list[Any]] = {"IDLE": [], "ACTIVE": []}
    outer = inside.items(connections)
    # A request is in the list until its response is closed. A fresh HTTP/2 connection calls
    # itself idle before its first request.
    assigned = [inside.read(request, "connection") for request in inside.items(requests)]
    free = _without(outer, assigned)
    for connection in outer:
        speaker = _http_core(connection)
        name = inside.read(speaker, "_state", "_name_")
        if type(name) is str and name in states:
            is_free = name == "IDLE" and any(connection is one for one in free)
            states["IDLE" if is_free else "ACTIVE"].append(speaker)
    bound = _number(inside.read(pool, "_max_keepalive_connections"))
    return Census(_sockets(states["IDLE"]), _sockets(states["ACTIVE"]), bound)


def _look_at_aiohttp(connector: Any) -> Census | None:
    conns = inside.read(connector, "_conns")
    acquired = inside.read(connector, "_acquired")
    if not (inside.isinstance_of(conns, dict) and inside.isinstance_of(acquired, set)):
        return None
    # For each destination a list of (protocol, time).
    rows = [row for kept in inside.items(conns) for row in inside.items(kept)]
    idle = [_first(row) for row in rows if inside.isinstance_of(row, tuple)]
    busy = inside.items(acquired)
    limits = (_number(inside.read(connector, name)) for name in ("_limit", "_limit_per_host"))
    # At most so many to each destination: a new one is made only where none is idle.
    limit = min((limit for limit in limits if limit is not None), default=None)
    bound = None if limit is None else limit * max(1, len(inside.items(conns)))
    return Census(_sockets(_without(idle, busy)), _sockets(busy), bound)


def _members(container: Any) -> list[Any]:
    """Return the members of a set, list or deque; of a weak set those that live."""
    if inside.isinstance_of(container, weakref.WeakSet):
        references = inside.items(inside.read(container, "data"))
        living = (one() for one in references if type(one) is weakref.ReferenceType)
        return [member for member in living if member is not None]
    return inside.items(container)


def _look_at_redis(pool: Any) -> Census | None:
    queue = _queue_of(pool, "pool")
    if queue is not None:  # one that blocks; asyncio's up to 4.x
        every = inside.read(pool, "_connections")
        return _rest_in_use(queue[0], every, queue[1])
    kept = inside.read(pool, "_available_connections")
    taken = inside.read(pool, "_in_use_connections")
    if not inside.isinstance_of(kept, list) or taken is None:
        return None
    idle, busy = inside.items(kept), _members(taken)
    bound = _number(inside.read(pool, "max_connections"))
    return Census(_sockets(_without(idle, busy)), _sockets(busy), bound)


def _rest_in_use(idle: list[Any], every: Any, bound: int | None) -> Census | None:
    if not inside.isinstance_of(every, list):
        return None
    return Census(_sockets(idle), _sockets(_without(inside.items(every), idle)), bound)


def _look_at_redis_node(node: Any) -> Census | None:
    free = inside.read(node, "_free")
    if not inside.isinstance_of(free, deque):
        return None
    every, bound = (inside.read(node, name) for name in ("_connections", "max_connections"))
    return _rest_in_use(inside.items(free), every, _number(bound))


def _is_checked_in(record: Any) -> bool:
    return inside.read(record, "fairy_ref") is None


def _look_at_sqlalchemy_queue(pool: Any) -> Census | None:
    queue = inside.read(pool, "_pool")
    bound = inside.read(queue, "maxsize")
    if type(bound) is not int:
        return None
    kept = inside.read(queue, "queue")
    if kept is None:  # asyncio; made when first used
        kept = inside.read(queue, "_queue", "_queue")
    # What is checked out is known to its user alone.
    return Census(_sockets(filter(_is_checked_in, inside.items(kept))), None, _number(bound))


def _of_records(records: list[Any], bound: int | None) -> Census:
    idle = [record for record in records if _is_checked_in(record)]
    return Census(_sockets(idle), _sockets(_without(records, idle)), bound)


def _look_at_sqlalchemy_threads(pool: Any) -> Census | None:
    records = inside.read(pool, "_all_conns")
    if not inside.isinstance_of(records, set):
        return None
    return _of_records(inside.items(records), _number(inside.read(pool, "size")))


def _look_at_sqlalchemy_static(pool: Any) -> Census | None:
    if inside.read(pool, "_dialect") is None:
        return None
    record = inside.read(pool, "connection")  # made when first used
    return _of_records([] if record is None else [record], 1)


def _look_at_pymongo(pool: Any) -> Census | None:
    kept = inside.read(pool, "conns")
    if kept is None:  # before 4.4
        kept = inside.read(pool, "sockets")
    if kept is None:
        return None
    idle = [one for one in inside.items(kept) if inside.read(one, "active") is not True]
    return Census(_sockets(idle), None, _number(inside.read(pool, "max_pool_size")))


_REDIS_OPTION: Final = (
    "redis-py looks at a connection when it is taken; health_check_interval=30 pings one that "
    "was idle so long, and Redis's own timeout 0 closes none"
)
_SQLALCHEMY_OPTION: Final = (
    "pool_recycle below the server's idle limit replaces old connections, pool_pre_ping=True "
    "tests one before it is used"
)

KINDS: Final = (
    PoolKind(
        library="urllib3",
        versions=">=1.26,<3",
        classes=("urllib3.connectionpool.HTTPConnectionPool",),
        look=_look_at_urllib3,
        bounds="idle",
        option="urllib3 has no idle limit: keep one Session or PoolManager, and close() or "
        "clear() it when it will be idle; Connection: close where none is to be kept",
    ),
    PoolKind(
        library="httpcore",
        versions=">=0.18,<2",
        classes=("httpcore.ConnectionPool", "httpcore.AsyncConnectionPool"),
        look=_look_at_httpcore,
        bounds="idle",
        option="httpx.Limits(keepalive_expiry=5, max_keepalive_connections=20): both act at the "
        "client's next request only",
    ),
    PoolKind(
        library="aiohttp",
        versions=">=3.9,<4",
        classes=("aiohttp.connector.BaseConnector",),
        look=_look_at_aiohttp,
        bounds="all",
        option="TCPConnector(keepalive_timeout=15), below the server's idle limit",
    ),
    PoolKind(
        library="redis",
        versions=">=4.2,<9",
        classes=("redis.connection.ConnectionPool", "redis.asyncio.connection.ConnectionPool"),
        look=_look_at_redis,
        bounds="all",
        option=_REDIS_OPTION,
    ),
    PoolKind(
        library="redis",
        versions=">=5,<9",
        classes=("redis.asyncio.cluster.ClusterNode",),
        look=_look_at_redis_node,
        bounds="all",
        option=_REDIS_OPTION,
    ),
    PoolKind(
        library="SQLAlchemy",
        versions=">=1.4,<2.2",
        classes=("sqlalchemy.pool.impl.QueuePool",),
        look=_look_at_sqlalchemy_queue,
        bounds="idle",
        option=_SQLALCHEMY_OPTION,
    ),
    PoolKind(
        library="SQLAlchemy",
        versions=">=1.4,<2.2",
        classes=("sqlalchemy.pool.impl.SingletonThreadPool",),
        look=_look_at_sqlalchemy_threads,
        bounds="all",
        option=_SQLALCHEMY_OPTION,
    ),
    PoolKind(
        library="SQLAlchemy",
        versions=">=1.4,<2.2",
        classes=("sqlalchemy.pool.impl.StaticPool",),
        look=_look_at_sqlalchemy_static,
        bounds="all",
        option=_SQLALCHEMY_OPTION,
    ),
    PoolKind(
        library="pymongo",
        versions=">=4.0,<5",
        classes=(
            "pymongo.pool.Pool",
            "pymongo.synchronous.pool.Pool",
            "pymongo.asynchronous.pool.Pool",
        ),
        look=_look_at_pymongo,
        bounds="all",
        option="MongoClient(maxIdleTimeMS=...) below the server's idle limit",
    ),
    PoolKind(
        library="python",
        versions=">=3.10,<3.16",
        classes=("http.client.HTTPConnection",),
        look=_look_at_http_client,
        bounds="all",
        option="http.client never looks by itself: close() the connection after its last response",
    ),
)
