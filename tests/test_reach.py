"""What a value reaches: as the collector sees it, bounded, and without a line of the program."""

from __future__ import annotations

import asyncio
import collections
import functools
import gc
import itertools
import socket
import ssl
import sys
import threading
import types
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme

from sockguard.reach import MAX_OBJECTS, reached

PATIENCE_S = 10.0


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket() as made:
        yield made


def reaches(root: object, sock: object) -> bool:
    found = reached(root, [sock])
    assert found <= {id(sock)}
    return bool(found)


class Plain:
    def __init__(self, held: object) -> None:
        self.held = held

    def method(self) -> None:
        """Do nothing."""


class Slots:
    __slots__ = ("held",)

    def __init__(self, held: object) -> None:
        self.held = held


def in_a_closure(held: object) -> Callable[[], object]:
    return lambda: held


def in_a_default(held: object) -> Callable[[], object]:
    def function(held: object = held, *, other: object = None) -> object:
        return held

    return function


def in_a_keyword_default(held: object) -> Callable[[], object]:
    def function(*, held: object = held) -> object:
        return held

    return function


def in_an_attribute_of_a_function(held: object) -> Callable[[], object]:
    def function() -> None:
        """Do nothing."""

    function.held = held  # type: ignore[attr-defined]
    return function


def in_a_generator(held: object) -> Iterator[object]:
    def generator() -> Iterator[object]:
        mine = held
        yield
        yield mine

    suspended = generator()
    next(suspended)
    return suspended


def in_a_cycle(held: object) -> list[object]:
    cycle: list[object] = []
    cycle.append({"cycle": cycle, "held": held})
    return cycle


HOLDERS: dict[str, Callable[[Any], object]] = {
    "itself": lambda sock: sock,
    "a list": lambda sock: [1, [2, [sock]]],
    "a tuple": lambda sock: (1, (2, sock)),
    "a dict's value": lambda sock: {"a": {"b": sock}},
    "a dict's key": lambda sock: {sock: 1},
    "a set": lambda sock: {sock},
    "a deque": lambda sock: collections.deque([sock]),
    "an instance": Plain,
    "slots": Slots,
    "a closure": in_a_closure,
    "a default": in_a_default,
    "a keyword default": in_a_keyword_default,
    "an attribute of a function": in_an_attribute_of_a_function,
    "a bound method": lambda sock: Plain(sock).method,
    "a socket's own method in Python": lambda sock: sock.accept,
    "a socket's own method in C": lambda sock: sock.getsockname,
    "a partial": lambda sock: functools.partial(print, sock),
    "a generator": in_a_generator,
    "an iterator": lambda sock: itertools.chain([1], map(id, [sock])),
    "a cycle": in_a_cycle,
    "a proxy of a dict": lambda sock: types.MappingProxyType({"a": sock}),
    "a simple namespace": lambda sock: types.SimpleNamespace(held=sock),
    "a cell": lambda sock: in_a_closure(sock).__closure__,
    "a makefile": lambda sock: sock.makefile("rb"),
    # Not of "rw": up to 3.11 the collector knows not what a BufferedRWPair holds.
    "a makefile for text": lambda sock: sock.makefile("r"),
}


@pytest.mark.parametrize("holder", HOLDERS.values(), ids=HOLDERS.keys())
def test_a_socket_is_reached_in(holder, sock):
    root = holder(sock)
    assert reaches(root, sock)
    assert reaches({"deep": [root]}, sock)
    if hasattr(root, "close"):
        root.close()


class OfAClass:
    held: object = None


HIDES: dict[str, Callable[[Any], object]] = {
    "nothing": lambda _: None,
    "a weak reference": weakref.ref,
    "a weak dictionary": lambda sock: weakref.WeakValueDictionary({1: sock}),
    "a weak set": lambda sock: weakref.WeakSet([sock]),
    "a class": lambda sock: _with(OfAClass, sock),
    "an instance of the class": lambda sock: _with(OfAClass, sock)(),
    "a module": lambda sock: _with(types.ModuleType("module"), sock),
    "the globals of a function": lambda sock: _with(sys.modules[__name__], sock).in_a_closure(1),
    "the globals of a generator": lambda sock: _with(sys.modules[__name__], sock).in_a_generator(1),
    "the globals of a method": lambda sock: _with(sys.modules[__name__], sock).Plain(1).method,
    "a number": id,
}


def _with(place: Any, held: object) -> Any:
    place.held = held
    return place


@pytest.mark.parametrize("holder", HIDES.values(), ids=HIDES.keys())
def test_a_socket_is_not_reached_through(holder, sock):
    root = holder(sock)
    try:
        assert not reaches([root], sock)
        assert not reaches(root, sock)  # whose fixture returns it
    finally:
        OfAClass.held = None
        vars(sys.modules[__name__]).pop("held", None)


def test_only_what_is_wanted_and_reached_is_told(sock):
    with socket.socket() as kept, socket.socket() as stray:
        assert reached([sock, {"a": kept}], [kept, stray]) == {id(kept)}
        assert reached([sock, {"a": kept}], [kept, sock]) == {id(kept), id(sock)}
        assert reached([sock, kept], []) == set()


# -- what is suspended -----------------------------------------------------------------


@types.coroutine
def a_pause() -> Iterator[None]:
    yield


@pytest.mark.parametrize("of", ["itself", "awaiting another"])
def test_a_suspended_coroutine_reaches_what_its_frames_hold(of, sock):
    async def inner(held: object) -> object:
        await a_pause()
        return held

    async def outer() -> object:
        return await inner(sock)

    job = inner(sock) if of == "itself" else outer()
    job.send(None)
    try:
        assert reaches([job], sock)
    finally:
        job.close()


def test_a_suspended_async_generator_reaches_what_its_frame_holds(sock):
    async def generator() -> AsyncIterator[object]:
        held = sock
        yield
        yield held

    suspended = generator()
    with pytest.raises(StopIteration):
        suspended.asend(None).send(None)
    assert reaches(suspended, sock)
    with pytest.raises(StopIteration):
        suspended.aclose().send(None)


def test_a_running_function_reaches_nothing_by_its_frame(sock):
    mine = sock
    assert not reaches([sys._getframe()], mine)


# -- asyncio ---------------------------------------------------------------------------


def test_a_transport_reaches_its_own_socket_and_a_loop_nobodys():
    async def check() -> None:
        loop = asyncio.get_running_loop()
        pairs = [socket.socketpair() for _ in range(2)]
        streams = [await asyncio.open_connection(sock=near) for near, _ in pairs]
        nears = [near for near, _ in pairs]
        waiting = [asyncio.create_task(reader.read()) for reader, _ in streams]
        await asyncio.sleep(0)
        for number, (reader, writer) in enumerate(streams):
            mine = {id(nears[number])}
            for root in (reader, writer, writer.transport, waiting[number], [{"a": writer}]):
                assert reached(root, nears) == mine
        for root in (loop, [loop], {"loop": loop}, loop.call_soon(int)):
            assert reached(root, nears) == set()
        for (_, far), (_, writer) in zip(pairs, streams, strict=True):
            far.close()
            writer.close()
            await writer.wait_closed()
        await asyncio.gather(*waiting)

    asyncio.run(check())


def test_a_server_of_asyncio_reaches_its_listener(sock):
    async def check() -> None:
        sock.bind(("127.0.0.1", 0))
        server = await asyncio.start_server(lambda *_: None, sock=sock)
        assert reaches(server, sock)
        server.close()

    asyncio.run(check())


# -- a pool ----------------------------------------------------------------------------


@contextmanager
def a_page_by_tls(folder: Path) -> Iterator[tuple[str, Path]]:
    """Serve one request, keep the connection until the end."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    ended = threading.Event()

    def serve() -> None:
        plain, _ = listener.accept()
        with context.wrap_socket(plain, server_side=True) as connection:
            connection.recv(10_000)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            assert ended.wait(PATIENCE_S)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE_S)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"https://localhost:{listener.getsockname()[1]}/", folder / "ca.pem"
        finally:
            ended.set()
            thread.join()


def test_a_session_of_requests_reaches_the_tls_socket_in_its_pool(tmp_path, sock):
    with a_page_by_tls(tmp_path) as (url, authority), requests.Session() as session:
        session.trust_env = False
        assert session.get(url, verify=str(authority), timeout=PATIENCE_S).text == "ok"
        (pool,) = session.adapters["https://"].poolmanager.pools._container.values()
        pooled = next(held.sock for held in pool.pool.queue if held is not None)
        assert isinstance(pooled, ssl.SSLSocket)
        assert reached(session, [pooled, sock]) == {id(pooled)}
        assert reached(functools.partial(session.get, url), [pooled, sock]) == {id(pooled)}


# -- it runs no code of the program ----------------------------------------------------

RAN: list[str] = []


def noisy(name: str) -> Callable[..., Any]:
    def method(*_: object, **__: object) -> Any:
        RAN.append(name)
        raise RuntimeError(name)

    return method


HOSTILE = [
    *("__getattr__", "__getattribute__", "__setattr__", "__eq__", "__hash__", "__bool__"),
    *("__len__", "__iter__", "__contains__", "__repr__", "__str__", "__sizeof__", "__call__"),
    *("__reduce_ex__", "__dir__"),
]


def with_an_attribute(hostile: Any, held: object) -> Any:
    object.__setattr__(hostile, "held", held)
    RAN.clear()
    return hostile


def test_no_method_of_an_object_runs(sock):
    members: dict[str, Any] = {name: noisy(name) for name in HOSTILE}
    members["__class__"] = property(noisy("__class__"))
    hostile = with_an_attribute(type("Hostile", (), members)(), sock)
    assert reaches([hostile], sock)
    assert reaches(hostile, sock)
    assert RAN == []


@pytest.mark.parametrize(
    "names",
    [
        [
            "__instancecheck__",
            "__subclasscheck__",
            "__getattr__",
            "__iter__",
            "__len__",
            "__repr__",
        ],
        ["__hash__"],
        ["__getattribute__"],
        ["__eq__", "__hash__"],
    ],
    ids=lambda names: names[0],
)
def test_no_method_of_the_class_of_a_class_runs(names, sock):
    meta: Any = type("Meta", (type,), {name: noisy(name) for name in names})
    hostile = with_an_attribute(object.__new__(meta("Hostile", (), {})), sock)
    assert reaches([hostile], sock)
    assert RAN == []


def test_no_method_of_the_name_of_a_module_runs(sock):
    class Name(str):
        __slots__ = ()
        startswith = noisy("startswith")
        __class__ = property(noisy("__class__"))  # type: ignore[assignment]

    hostile = with_an_attribute(type("Hostile", (), {"__module__": Name("a")})(), sock)
    assert reaches([hostile], sock)
    assert RAN == []


def test_a_class_that_can_not_be_hashed_is_walked_through(sock):
    class Meta(type):
        def __eq__(cls, other: object) -> bool:
            return cls is other

    class Unhashable(metaclass=Meta):
        def __init__(self, held: object) -> None:
            self.held = held

    assert Meta.__hash__ is None
    assert reaches([Unhashable(sock)], sock)


# -- it keeps nothing, and ends --------------------------------------------------------


def test_nothing_is_kept_afterwards(sock):
    held = Plain(sock)
    root = [held, {"a": held}, in_a_closure(held), in_a_generator(held)]
    gc.disable()
    try:
        before = [sys.getrefcount(thing) for thing in (sock, held, root)]
        assert reaches(root, sock)
        assert not reaches([root], object())
        assert [sys.getrefcount(thing) for thing in (sock, held, root)] == before
        known = weakref.ref(held)
        del held, root
        assert known() is None
    finally:
        gc.enable()


def a_chain(length: int, end: object) -> object:
    for _ in range(length):
        end = [end]
    return end


def test_the_way_may_be_long_but_not_longer_than_the_limit(sock):
    assert reached(a_chain(50, sock), [sock], limit=60)
    assert not reached(a_chain(50, sock), [sock], limit=40)


def test_what_is_met_again_is_not_walked_again(sock):
    end: object = sock
    for _ in range(40):
        end = [end, end]
    assert reached(end, [sock], limit=200)


def test_the_way_may_not_be_wider_than_the_limit(sock):
    wide: list[object] = [[] for _ in range(1000)]
    wide[500] = sock  # the collector may begin at either end
    assert reached(wide, [sock], limit=1100)
    assert not reached(wide, [sock], limit=300)


def test_what_can_not_hold_a_socket_counts_for_the_limit_too(sock):
    numbers = {float(number): str(number) for number in range(1000)}
    assert not reached([numbers, [[[[sock]]]]], [sock], limit=500)


def test_a_heap_is_walked_up_to_the_limit_and_not_to_its_end(sock):
    heap = [a_chain(5, number) for number in range(MAX_OBJECTS // 5)]
    assert not reaches([heap, a_chain(10, sock)], sock)
