"""Which handler of the program was an accepted connection given to?

The stack of an accepted socket often shows a library's accept loop and nothing else. What
holds the socket knows more: a row for each library says where it keeps the handler, the one
that runs now before the one that was configured. Without a row, the frames of the task or
thread tell: the program's function that the library called. Watcher thread; no code of the
program runs (``inside``) and nothing of it is kept.

Over 400 lines, since the rows and what reads a callable refer to each other.
"""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain as joined
from itertools import islice
from types import (
    AsyncGeneratorType,
    BuiltinFunctionType,
    CodeType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    MethodType,
    ModuleType,
)
from typing import Any, Final, NamedTuple

from sockguard import inside, stacks
from sockguard.sites import is_application
from sockguard.stacks import Frame

#: Steps from a thing to its handler, things of a chain, tasks, coroutines of one task.
MAX_STEPS: Final = 8
MAX_CHAIN: Final = 500
MAX_TASKS: Final = 1000
MAX_AWAITS: Final = 100
# A frame that holds what is further from the socket is not the connection's own.
_NEAR: Final = 4

_CALL: Final = ("__call__",)
_ASYNCIO: Final = ("data_received", "buffer_updated", "connection_made")
# What stands between a coroutine and the one that it waits for.
_AWAITING: Final = ("coroutine_wrapper", "async_generator_asend", "async_generator_athrow")
_TWISTED: Final = ("lineReceived", "stringReceived", "dataReceived", "connectionMade")
# Where middleware and decorators keep what they wrap: an attribute, or a closure's variable.
_WRAPPED: Final = ("app", "application", "wsgi_app", "asgi_app", "handler", "func", "fn")


class _Given(NamedTuple):
    """What a library calls for a connection, and by which of its methods."""

    thing: Any
    methods: tuple[str, ...] = _CALL


Row = Callable[[Any], Iterator[_Given]]

_members: Final[Any] = type.__dict__["__dict__"].__get__
_mro: Final[Any] = type.__dict__["__mro__"].__get__


def handler(chain: Sequence[object]) -> Frame | None:
    """Return the handler: file, line of its ``def`` and ``function`` or ``Class.method``.

    ``chain`` is what was found from the socket outward; running frames innermost first. A
    handler of the program comes before one of a library; ``None``: none is known. The line
    of a class (before 3.13) and of an application object is unknown. Some µs a thing.
    """
    chain = chain[:MAX_CHAIN]
    fallback = None
    for frame in joined(_by_rows(chain), _by_owners(chain)):
        if is_application(frame):
            return frame
        fallback = fallback or frame
    others = joined(_by_tasks(chain), _by_frames(chain), _by_jobs(chain))
    return next(filter(is_application, others), fallback)


def _by_rows(things: Sequence[object]) -> Iterator[Frame]:
    for thing in things:
        if (row := _row_of(thing, ROWS)) is not None:
            for given in row(thing):
                yield from _frames(given, MAX_STEPS)


def _by_owners(chain: Sequence[object]) -> Iterator[Frame]:
    """Ask the ``self`` of each running or suspended function."""
    for thing in chain:
        frame = thing if type(thing) is FrameType else _frame_of(thing)
        if frame is not None:
            yield from _by_rows([inside.local(frame, "self")])


def _by_tasks(chain: Sequence[object]) -> Iterator[Frame]:
    for thing in chain:
        if _is_task(thing):
            yield from _of_task(thing)
    # Without its task, the outermost of the coroutines is nearest to it.
    for thing in reversed(chain):
        if type(thing) is CoroutineType:
            yield from _of_awaits(thing)
    # An accept loop of a library's may still have it as a local variable, and what it calls.
    for thing in chain:
        if type(thing) is CoroutineType and (frame := _frame_of(thing)) is not None:
            variables = inside.locals_of(frame)
            for name in _WRAPPED:
                yield from _frames(_Given(variables.get(name)), MAX_STEPS)


def _by_frames(chain: Sequence[object]) -> Iterator[Frame]:
    """Yield the program's function to which a library handed the connection over."""
    near = [id(thing) for thing in chain[:_NEAR] if type(thing) is not FrameType]
    for frames in _stacks(chain):
        values = [{id(value) for value in inside.locals_of(frame).values()} for frame in frames]
        held = next((key for key in near if any(key in ids for ids in values)), None)
        if held is None:
            continue
        holder = max(index for index, ids in enumerate(values) if held in ids)
        named = [_of_frame(frame) for frame in frames]
        own = [is_application(frame) for frame in named]
        if not own[holder]:  # a library's: whom did it call, or else who called it?
            yield from (named[index] for index in range(holder - 1, -1, -1) if own[index])
            holder = next((i for i in range(holder, len(frames)) if own[i]), holder)
        outermost = holder
        while outermost + 1 < len(frames) and own[outermost + 1]:
            outermost += 1
        # A loop of the program's own, at the top of a script, is handed nothing.
        told = named[holder if named[outermost].function == "<module>" else outermost]
        if told.function != "<module>":
            yield told


def _stacks(chain: Sequence[object]) -> Iterator[list[FrameType]]:
    stack: list[FrameType] = []
    for thing in chain:
        if type(thing) is not FrameType:
            continue
        if stack and stack[-1].f_back is not thing:
            yield stack
            stack = []
        stack.append(thing)
    if stack:
        yield stack


def _by_jobs(chain: Sequence[object]) -> Iterator[Frame]:
    for thing in chain:
        if (row := _row_of(thing, JOBS)) is not None:
            for given in row(thing):
                yield from _frames(given, MAX_STEPS)
        elif type(thing) is MethodType or inside.isinstance_of(thing, functools.partial):
            yield from _frames(_Given(thing), MAX_STEPS)


# -- from what is called to a line -----------------------------------------------------


def _frames(given: _Given, steps: int) -> Iterator[Frame]:
    """Yield what names ``given``, the outermost wrapper last."""
    thing, methods = given
    if thing is None or steps <= 0:
        return
    kind = type(thing)
    if kind is Frame:
        yield thing
    elif kind is FunctionType:
        yield from _of_function(thing, None, steps)
    elif kind is MethodType:
        owner = thing.__self__
        if type(thing.__func__) is FunctionType:
            named = owner if inside.isinstance_of(owner, type) else type(owner)
            yield from _of_function(thing.__func__, named, steps)
        yield from _frames(_Given(owner, ()), steps - 1)
    elif inside.isinstance_of(thing, functools.partial):
        yield from _of_partial(thing, methods, steps)
    elif kind is str:
        yield from _of_import_string(thing, steps)
    elif inside.isinstance_of(thing, type):
        yield from _of_class(thing, methods)
    elif (row := _row_of(thing, ROWS)) is not None:
        for inner in row(thing):
            yield from _frames(inner, steps - 1)
        yield from filter(is_application, _of_class(kind, methods))
    else:
        yield from _of_instance(thing, methods, steps)


def _of_function(function: FunctionType, owner: type | None, steps: int) -> Iterator[Frame]:
    wrapped = dict.get(function.__dict__, "__wrapped__")
    if type(wrapped) is FunctionType and steps > 1:
        yield from _of_function(wrapped, owner, steps - 1)
    frame = _of_code(function.__code__, owner)
    yield frame
    if not is_application(frame):  # a wrapper that a library made
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
        for name, cell in cells:
            if name in _WRAPPED:
                try:
                    inner = cell.cell_contents
                except ValueError:  # it is empty
                    continue
                yield from _frames(_Given(inner), steps - 1)


def _of_partial(thing: Any, methods: tuple[str, ...], steps: int) -> Iterator[Frame]:
    called = inside.read(thing, "func")
    yield from _frames(_Given(called, methods), steps - 1)
    if type(called) is BuiltinFunctionType:  # asyncio.to_thread: context.run(function, …)
        yield from _frames(_Given(next(iter(inside.items(inside.read(thing, "args"))), None)), 2)


def _of_import_string(text: str, steps: int) -> Iterator[Frame]:
    """Read ``package.module:app``, ``module:make_app()``."""
    module_name, _, name = text.partition(":")
    module = sys.modules.get(module_name)
    if module is None or not name:
        return
    name = name.partition("(")[0]
    found = inside.read(module, name)
    if type(found) is FunctionType:
        yield from _of_function(found, None, steps - 1)
    elif found is not None and type(file := inside.read(module, "__file__")) is str:
        yield Frame(file, None, name)


def _of_class(kind: type, methods: tuple[str, ...]) -> Iterator[Frame]:
    library: list[Frame] = []
    for name in methods:
        function = _method(kind, name)
        if function is not None:
            for frame in _of_function(function, kind, 2):
                if is_application(frame):
                    yield frame
                else:
                    library.append(frame)
    module = _members(kind).get("__module__")
    file = inside.read(sys.modules.get(module), "__file__") if type(module) is str else None
    line = _members(kind).get("__firstlineno__")  # since 3.13
    if type(file) is str:
        own = Frame(file, line if type(line) is int else None, _name(kind))
        if is_application(own) or not library:
            yield own
    yield from library


def _of_instance(thing: Any, methods: tuple[str, ...], steps: int) -> Iterator[Frame]:
    """An application object: the program's class, or a library's that the program made."""
    frames = list(_of_class(type(thing), methods))
    yield from filter(is_application, frames)
    if (bound := _binding(thing)) is not None:
        yield bound
    for name in _WRAPPED:
        inner = inside.read(thing, name)
        if inner is not None and type(inner) is not str:
            yield from _frames(_Given(inner), steps - 1)
    if methods:
        yield from frames


def _binding(thing: object) -> Frame | None:
    """Return the global of the program's that is ``thing``: ``app`` of ``main.py``."""
    for module in list(sys.modules.values()):
        if not inside.isinstance_of(module, ModuleType):
            continue
        names = inside.instance_dict(module) or {}
        file = dict.get(names, "__file__")
        if type(file) is not str or not is_application(Frame(file, None, "")):
            continue
        for name, value in list(dict.items(names)):
            if value is thing and type(name) is str:
                return Frame(file, None, name)
    return None


def _of_code(code: CodeType, owner: type | None = None) -> Frame:
    file = stacks.resolve((code, 0))[0].file
    name = code.co_name if owner is None else f"{_name(owner)}.{code.co_name}"
    return Frame(file, code.co_firstlineno, name)


def _of_frame(frame: FrameType) -> Frame:
    """Name a running function; a method by the class of its ``self``."""
    code = frame.f_code
    if code.co_argcount and code.co_varnames[0] in ("self", "cls"):
        first = inside.local(frame, code.co_varnames[0])
        kind: type = first if inside.isinstance_of(first, type) else type(first)
        function = _method(kind, code.co_name)
        if function is not None and function.__code__ is code:
            return _of_code(code, kind)
    return _of_code(code)


def _name(kind: type) -> str:
    return inside.class_name(kind).rpartition(".")[2]


def _method(kind: type, name: str) -> FunctionType | None:
    for base in _mro(kind):
        if (found := _members(base).get(name)) is not None:
            if type(found) is staticmethod or type(found) is classmethod:
                found = found.__func__
            return found if type(found) is FunctionType else None
    return None


# -- coroutines and tasks --------------------------------------------------------------


def _frame_of(thing: object) -> FrameType | None:
    """Return the frame of a suspended coroutine or generator."""
    if type(thing) is CoroutineType:
        return thing.cr_frame
    if type(thing) is GeneratorType:
        return thing.gi_frame
    if type(thing) is AsyncGeneratorType:
        return thing.ag_frame
    return None


def _is_task(thing: object) -> bool:
    task = sys.modules.get("asyncio.tasks")
    kinds = (inside.read(task, "Task"), inside.read(task, "_PyTask"))
    return any(kind is known for kind in inside.mro(thing) for known in kinds)


def _coroutine(task: object) -> object:
    """Return the coroutine of an asyncio task made in C or in Python, of a finished one too."""
    own = inside.read(task, "_coro")
    made_in_c = inside.read(sys.modules.get("_asyncio"), "Task")
    if own is None and made_in_c is not None and inside.isinstance_of(task, made_in_c):
        own = made_in_c.get_coro(task)
    return own


def _of_task(task: object) -> Iterator[Frame]:
    if _is_task(task):
        yield from _of_awaits(_coroutine(task))


def _of_awaits(awaited: Any) -> Iterator[Frame]:
    """Yield a coroutine and those that it waits for, the outermost first."""
    for _ in range(MAX_AWAITS):
        kind = type(awaited)
        frame = _frame_of(awaited)
        if frame is not None:
            yield _of_frame(frame)
        if kind is CoroutineType:
            if frame is None:  # it has ended
                yield _of_code(awaited.cr_code)
            awaited = awaited.cr_await
        elif kind is GeneratorType:
            awaited = awaited.gi_yieldfrom
        elif kind is AsyncGeneratorType:
            awaited = awaited.ag_await
        elif inside.class_path(kind) in _AWAITING:
            awaited = next(iter(gc.get_referents(awaited)), None)
        else:
            return


def _running(tasks: object, *owners: object) -> Iterator[_Given]:
    """Yield the program's coroutine in each task whose outermost function is an owner's."""
    for task in islice(inside.items(tasks), MAX_TASKS):
        frame = _frame_of(_coroutine(task))
        if frame is None:
            continue
        owner = inside.local(frame, "self")
        if not owners or any(owner is one for one in owners if one is not None):
            yield from (_Given(own) for own in _of_task(task) if is_application(own))


# -- rows: where a library keeps the handler of a connection ---------------------------


def _row_of(thing: object, rows: dict[str, Row]) -> Row | None:
    for kind in inside.mro(thing):
        if (row := rows.get(inside.class_path(kind))) is not None:
            return row
    return None


def _at(*ways: str, methods: tuple[str, ...] = _CALL) -> Row:
    """Make a row of attribute paths, the best first."""
    names = [way.split(".") for way in ways]

    def row(thing: Any) -> Iterator[_Given]:
        for way in names:
            yield _Given(inside.read(thing, *way), methods)

    return row


def _of_http_method(thing: Any, method: object) -> _Given:
    named = (method.lower(),) if type(method) is str else ()
    return _Given(thing, (*named, "get", "post"))


def _request_handler(thing: Any) -> Iterator[_Given]:
    command = inside.read(thing, "command")
    methods = (f"do_{command}",) if type(command) is str else ()
    yield _Given(type(thing), (*methods, "handle", "do_GET", "do_POST"))


def _stream_protocol(protocol: Any) -> Iterator[_Given]:
    # Both stay until connection_lost, the task also when it has ended (3.10 to 3.13).
    yield _Given(inside.read(protocol, "_client_connected_cb"))
    yield from map(_Given, filter(is_application, _of_task(inside.read(protocol, "_task"))))


def _uvloop_transport(transport: Any) -> Iterator[_Given]:
    for thing in gc.get_referents(transport):  # made in C: no attribute to read
        if any(inside.class_path(k) == "asyncio.protocols.BaseProtocol" for k in inside.mro(thing)):
            yield _Given(thing, _ASYNCIO)


def _uvicorn(protocol: Any) -> Iterator[_Given]:
    yield from _running(inside.read(protocol, "tasks"), protocol, inside.read(protocol, "cycle"))
    yield _Given(inside.read(protocol, "config", "loaded_app"))
    yield _Given(inside.read(protocol, "config", "app"))


def _hypercorn(server: Any) -> Iterator[_Given]:
    yield from _running(inside.read(server, "_task_group", "_task_group", "_tasks"))
    yield _Given(inside.read(server, "app", "app"))
    yield _Given(inside.read(server, "config", "application_path"))


def _aiohttp(protocol: Any) -> Iterator[_Given]:
    request = inside.read(protocol, "_current_request")
    handling = inside.read(request, "_match_info", "_route", "_handler")
    yield _of_http_method(handling, inside.read(request, "_method"))
    yield _Given(inside.read(protocol, "_request_handler"))
    yield _Given(inside.read(protocol, "_manager", "request_handler"))


def _tornado_connection(connection: Any) -> Iterator[_Given]:
    serving = _frame_of(_coroutine(inside.read(connection, "_serving_future")))
    if serving is None:
        return
    delegate = inside.local(serving, "request_delegate")
    for _ in range(3):  # a routing delegate has the handler's, maybe behind a proxy's
        request = inside.read(delegate, "request", "method")
        yield _of_http_method(inside.read(delegate, "handler_class"), request)
        yield _Given(inside.read(delegate, "request_callback"))
        delegate = inside.read(delegate, "delegate")
    yield _Given(inside.read(inside.local(serving, "delegate"), "request_callback"))


def _tornado_handler(thing: Any) -> Iterator[_Given]:
    yield _of_http_method(type(thing), inside.read(thing, "request", "method"))


def _own_class(*methods: str) -> Row:
    def row(thing: Any) -> Iterator[_Given]:
        yield from map(_Given, filter(is_application, _of_class(type(thing), methods)))

    return row


def _twisted_server(transport: Any) -> Iterator[_Given]:
    protocol = inside.read(transport, "protocol")
    channel = inside.read(protocol, "_channel")  # HTTP: it chooses 1.1 or 2
    protocol = protocol if channel is None else channel
    request = next(iter(inside.items(inside.read(protocol, "requests"))), None)
    yield _Given(inside.read(request, "resource"), ("render", "render_GET", "render_POST"))
    yield _Given(inside.read(protocol, "site", "resource"), ("render", "render_GET", "getChild"))
    yield _Given(protocol, _TWISTED)
    yield _Given(inside.read(protocol, "factory"), ("buildProtocol",))


ROWS: Final[dict[str, Row]] = {
    "socketserver.BaseRequestHandler": _request_handler,
    "socketserver.BaseServer": _at("RequestHandlerClass", methods=("handle", "do_GET", "do_POST")),
    "wsgiref.simple_server.WSGIRequestHandler": _at("server.application"),
    "wsgiref.simple_server.WSGIServer": _at("application"),
    "werkzeug.serving.WSGIRequestHandler": _at("server.app"),
    "werkzeug.serving.BaseWSGIServer": _at("app"),
    "asyncio.transports.BaseTransport": _at("_protocol", methods=_ASYNCIO),
    "asyncio.sslproto.SSLProtocol": _at("_app_protocol", methods=_ASYNCIO),
    "asyncio.streams.StreamReaderProtocol": _stream_protocol,
    "asyncio.streams.StreamWriter": _at("_protocol", methods=_ASYNCIO),
    "uvloop.loop.UVBaseTransport": _uvloop_transport,
    "uvicorn.protocols.http.h11_impl.H11Protocol": _uvicorn,
    "uvicorn.protocols.http.httptools_impl.HttpToolsProtocol": _uvicorn,
    "uvicorn.protocols.websockets.websockets_impl.WebSocketProtocol": _uvicorn,
    "uvicorn.protocols.websockets.websockets_sansio_impl.WebSocketsSansIOProtocol": _uvicorn,
    "uvicorn.protocols.websockets.wsproto_impl.WSProtocol": _uvicorn,
    "hypercorn.asyncio.tcp_server.TCPServer": _hypercorn,
    "gunicorn.workers.base.Worker": _at("wsgi", "app.callable", "app.app_uri"),
    "waitress.channel.HTTPChannel": _at("server.application"),
    "waitress.server.BaseWSGIServer": _at("application"),
    "websockets.asyncio.server.ServerConnection": _at("server.handler"),
    "websockets.legacy.server.WebSocketServerProtocol": _at("ws_handler"),
    "aiohttp.web_protocol.RequestHandler": _aiohttp,
    "tornado.http1connection.HTTP1ServerConnection": _tornado_connection,
    "tornado.httpserver.HTTPServer": _at("request_callback"),
    "tornado.tcpserver.TCPServer": _own_class("handle_stream"),
    "tornado.web.RequestHandler": _tornado_handler,
    "twisted.internet.tcp.Server": _twisted_server,
    "gevent.pywsgi.WSGIHandler": _at("server.application"),
    "gevent.pywsgi.WSGIServer": _at("application"),
    "gevent.baseserver.BaseServer": _at("_handle"),
}

#: What runs a function of the program, whoever gave it: asked last.
JOBS: Final[dict[str, Row]] = {
    "concurrent.futures.thread._WorkItem": _at("fn"),
    "threading.Thread": lambda thread: iter(
        (_Given(inside.read(thread, "_target")), _Given(type(thread), ("run",)))
    ),
    "trio.lowlevel.Task": lambda task: map(_Given, _of_awaits(inside.read(task, "coro"))),
}
