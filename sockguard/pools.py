"""What a known connection pool holds: which of its sockets are idle, which are in use.

The rows are in ``poolkinds``. Any thread; about 0.05 ms a pool and as much a connection.
Nothing is kept alive, and nothing raises.
"""

from __future__ import annotations

import re
import sys
import weakref
from itertools import takewhile
from typing import Any, Final, NamedTuple

from sockguard import inside
from sockguard.poolkinds import KINDS, Census, PoolKind

#: What leads to pools: class path, then each way to them. Containers on the way are opened.
MANAGERS: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "urllib3.poolmanager.PoolManager": (("pools", "_container"),),
    "requests.sessions.Session": (("adapters",),),
    "requests.adapters.HTTPAdapter": (("poolmanager",), ("proxy_manager",)),
    "botocore.httpsession.URLLib3Session": (("_manager",), ("_proxy_managers",)),
    "httpx.Client": (("_transport",), ("_mounts",)),
    "httpx.AsyncClient": (("_transport",), ("_mounts",)),
    "httpx.HTTPTransport": (("_pool",),),
    "httpx.AsyncHTTPTransport": (("_pool",),),
    "aiohttp.client.ClientSession": (("_connector",),),
    "redis.client.Redis": (("connection_pool",),),
    "redis.asyncio.client.Redis": (("connection_pool",),),
    "sqlalchemy.engine.base.Engine": (("pool",),),
    "sqlalchemy.ext.asyncio.engine.AsyncEngine": (("sync_engine",),),
    "pymongo.mongo_client.MongoClient": (("_topology", "_servers"),),
    "pymongo.server.Server": (("_pool",),),
    "pymongo.synchronous.mongo_client.MongoClient": (("_topology", "_servers"),),
    "pymongo.synchronous.server.Server": (("_pool",),),
    "pymongo.asynchronous.mongo_client.AsyncMongoClient": (("_topology", "_servers"),),
    "pymongo.asynchronous.server.Server": (("_pool",),),
}
_MAX_DEPTH: Final = 4

# Part of a pool, though it is an `http.client.HTTPConnection`; vendored copies, too.
_PARTS: Final = ("urllib3.connection.HTTPConnection", "transport.unixconn.UnixHTTPConnection")

_KIND_BY_CLASS: Final = {path: kind for kind in KINDS for path in kind.classes}


class _Known(NamedTuple):
    """What was found out about a class. The reference tells that its id is still the same one's."""

    reference: weakref.ref[type]
    kind: PoolKind | None
    ways: tuple[tuple[str, ...], ...]


# By id: a class's hash and comparison may be the program's.
_known: Final[dict[int, _Known]] = {}
_MAX_KNOWN: Final = 10_000


def _is_the_class(kind: type, path: str) -> bool:
    """Tell the library's class from one that bears its name."""
    module, _, name = path.rpartition(".")
    return inside.read(sys.modules.get(module), name) is kind


def _look_up(thing: object) -> _Known:
    own = type(thing)
    kind: PoolKind | None = None
    ways: tuple[tuple[str, ...], ...] = ()
    known = _known.get(id(own))
    if known is not None and known.reference() is own:
        return known
    for base in inside.mro(thing):
        path = inside.class_path(base)
        if path.endswith(_PARTS):
            break
        if (path in _KIND_BY_CLASS or path in MANAGERS) and _is_the_class(base, path):
            kind, ways = _KIND_BY_CLASS.get(path), MANAGERS.get(path, ())
            break
    if len(_known) >= _MAX_KNOWN:
        _known.clear()
    known = _known[id(own)] = _Known(weakref.ref(own), kind, ways)
    return known


def classes() -> list[type]:
    """Return the classes of known pools that are loaded, and those made of them."""
    found: list[type] = []
    for path in _KIND_BY_CLASS:
        module, _, name = path.rpartition(".")
        kind = inside.read(sys.modules.get(module), name)
        if inside.isinstance_of(kind, type):
            found.append(kind)
    for kind in found:
        below: list[type] = type.__subclasses__(kind)
        found += [one for one in below if all(one is not other for other in found)]
    return found


def kind_of(thing: object) -> PoolKind | None:
    """Return which known pool this is, by its classes; its version is not looked at."""
    return _look_up(thing).kind


def census(thing: object) -> Census | None:
    """Return what a pool holds; ``None`` if it is none, or not one whose insides are known."""
    kind = kind_of(thing)
    if kind is None or not _is_within(_version_of(kind), kind.versions):
        return None
    return kind.look(thing)


def describe(thing: object) -> str:
    """Return ``urllib3.connectionpool.HTTPConnectionPool, 3 idle, keeps up to 10``."""
    words = [inside.class_path(type(thing))]
    kind, found = kind_of(thing), census(thing)
    if kind is not None and found is not None:
        words.append(f"{len(found.idle)} idle")
        if found.in_use is not None:
            words.append(f"{len(found.in_use)} in use")
        number = "any number" if found.bound is None else f"up to {found.bound}"
        words.append(f"keeps {number}" + (" in all" if kind.bounds == "all" else ""))
    return ", ".join(words)


def pools_of(thing: object) -> list[Any]:
    """Return the pools of a session, client, engine or manager; of a pool, itself."""
    found, depth = [thing], 0
    while depth < _MAX_DEPTH and any(_look_up(one).ways for one in found):
        found, depth = [below for one in found for below in _below(one)], depth + 1
    return [one for one in found if kind_of(one) is not None]


def _below(thing: object) -> list[Any]:
    ways = _look_up(thing).ways
    below: list[Any] = []
    for way in ways:
        value = inside.read(thing, *way)
        below += inside.items(value) if inside.isinstance_of(value, dict) else [value]
    return below if ways else [thing]


def _version_of(kind: PoolKind) -> str | None:
    if kind.library == "python":
        return sys.version
    version = inside.read(sys.modules.get(kind.classes[0].partition(".")[0]), "__version__")
    return version if type(version) is str else None


def _parts(version: str) -> tuple[int, ...]:
    """Return ``(2, 1)`` of ``2.1.0b1``: what a range looks at, without trailing zeros."""
    words = takewhile(str.isdecimal, re.split(r"[.\s]", version))
    numbers = [int(word) for word in words]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def _is_within(version: str | None, versions: str) -> bool:
    if version is None or not _parts(version):
        return False
    low, high = (_parts(bound.lstrip("<>=")) for bound in versions.split(","))
    return low <= _parts(version) < high
