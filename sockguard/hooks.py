"""The functions that stand in for methods of ``socket.socket``: the hot path.

Each is built once with all it needs and decides nothing. None takes a lock: a signal
handler, a finalizer or a weak-reference callback may open a socket at any instruction.
An exception of the method itself leaves without a frame of ours in its traceback.
"""

from __future__ import annotations

import _socket
import sys
import threading
from _thread import get_ident
from collections.abc import Callable, Sized
from importlib import import_module
from sys import _getframe
from time import monotonic_ns
from types import FrameType, FunctionType
from typing import Any, Final

from sockguard.interrupts import deliver_later, is_programs
from sockguard.native import socket_class
from sockguard.records import TELEMETRY, SocketRecord
from sockguard.registry import Collected, Registry, fileno
from sockguard.stacks import Stack, capture

Method = Callable[..., Any]
#: Takes a stack from a frame outwards, so many frames of it.
Capture = Callable[[FrameType | None, int], Stack]

_modules: Final = sys.modules
# Loaded at once: when it is needed, there may be no descriptor left to load it with.
_ctypes: Any = import_module("ctypes") if sys.version_info < (3, 11) else None


class Switch:
    """Ends a hook that could not be taken out (somebody wrapped it), or that failed."""

    __slots__ = ("off", "on_failure")

    def __init__(self, on_failure: Callable[[BaseException], None]) -> None:
        self.off = False
        self.on_failure = on_failure

    def failed(self, error: Exception) -> bool:
        """Tell whether ``error`` was ours, to be swallowed; switch off if it was a bug.

        Too deep a recursion or too little memory makes us miss one socket, no more.
        """
        if is_programs(error):
            return False
        if not isinstance(error, (RecursionError, MemoryError)):
            self.off = True
            self.on_failure(error)
        return True


def dress(hook: FunctionType, original: Method) -> FunctionType:
    """Give ``hook`` the name, documentation and place of ``original``; return it.

    ``__wrapped__`` carries the signature for ``inspect``, and the original for wrapt.
    """
    name = getattr(original, "__name__", hook.__name__)
    hook.__name__ = name
    # What is written in C says less of itself.
    hook.__qualname__ = getattr(original, "__qualname__", f"socket.{name}")
    hook.__module__ = getattr(original, "__module__", None) or "socket"
    hook.__doc__ = getattr(original, "__doc__", None)
    hook.__wrapped__ = original  # type: ignore[attr-defined]
    return hook


def task_name() -> str | None:
    """Return the name of the asyncio task that runs in this thread, if one does."""
    if "asyncio.events" not in _modules or _running_loop() is None:
        return None
    task = _modules["asyncio.tasks"].current_task()
    return None if task is None else task.get_name()


def _running_loop() -> Any:
    # Another thread may be in the midst of importing asyncio.
    running = getattr(_modules.get("asyncio.events"), "_get_running_loop", None)
    return None if running is None else running()


def running_tasks() -> Sized:
    """Return what is empty while no asyncio task runs in any thread, as far as one can tell.

    Cheaper to look at than to ask for the running loop of this thread: 40 ns alone, and 200
    in the midst of making a socket.
    """
    # Importing wrapt loads asyncio, which makes the tasks of each loop known there.
    # From 3.14 on each thread keeps its own out of sight.
    known = getattr(_modules.get("asyncio.tasks"), "_current_tasks", None)
    return known if isinstance(known, dict) and sys.version_info < (3, 14) else ("unknown",)


def thread_name() -> str | None:
    """Return this thread's name; ``current_thread()`` would make a dummy in a raw thread."""
    thread = threading._active.get(get_ident())  # type: ignore[attr-defined]  # noqa: SLF001
    return None if thread is None else thread._name  # noqa: SLF001


#: What is asked for the span of now, once OpenTelemetry is loaded.
_telemetry: tuple[Callable[[], Any], object, object] | None = None


def _meet_telemetry() -> tuple[Callable[[], Any], object, object] | None:
    global _telemetry
    api, trace = _modules.get("opentelemetry.context"), _modules.get("opentelemetry.trace")
    get_current = getattr(api, "get_current", None)
    # In the midst of their import they have none of these.
    if get_current is None or not hasattr(trace, "get_current_span"):
        return None
    # Not `get_current_span()`: to look both things up in one context is 300 ns less.
    in_context = getattr(_modules.get("opentelemetry.trace.propagation"), "_SPAN_KEY", None)
    _telemetry = (get_current, getattr(api, "_SUPPRESS_INSTRUMENTATION_KEY", None), in_context)
    return _telemetry


def span_context() -> Any:
    """Return the active span's context, where OpenTelemetry is loaded and a span is active.

    ``TELEMETRY`` where an SDK exports: it says so, that its own calls be not traced.
    """
    known = _telemetry or _meet_telemetry()
    if known is None:
        return None
    get_current, suppressed, in_context = known
    try:
        context = get_current()
        if not context:
            return None
        if context.get(suppressed):
            return TELEMETRY
        if (span := context.get(in_context)) is None:
            return None
        span_context = span.get_span_context()
        return span_context if span_context.is_valid else None
    except Exception as error:  # a span of somebody's own: its bug costs the span only
        if is_programs(error):
            raise
        return None


def strip(error: BaseException) -> None:
    """Take the frame that called this out of ``error``'s traceback.

    A bare ``raise`` behind it adds none: the program's traceback is the one that it has
    without us.
    """
    if error.__traceback__ is not None:
        error.__traceback__ = error.__traceback__.tb_next
        if sys.version_info < (3, 11) and not isinstance(error, BlockingIOError):
            _strip_raised(error)


def _strip_raised(error: BaseException) -> None:
    """Make a bare ``raise`` on 3.10 use the traceback of ``error`` as it is now.

    There it restores the one that was kept when ``except`` began. 4 µs: not for the
    BlockingIOError of an event loop, which nobody prints.
    """
    ctypes, rest = _ctypes, error.__traceback__
    api = ctypes.pythonapi
    for kept in (type(error), error, rest):  # PyErr_SetExcInfo takes a reference of each
        api.Py_IncRef(ctypes.py_object(kept))
    api.PyErr_SetExcInfo(
        ctypes.py_object(type(error)),
        ctypes.py_object(error),
        None if rest is None else ctypes.py_object(rest),
    )


def fileno_method() -> Callable[[Any], int]:
    """Return ``fileno``, as the method in C where ``socket.socket`` has it: one call less."""
    return _socket.socket.fileno if issubclass(socket_class(), _socket.socket) else fileno


def init_hook(
    original: Method,
    registry: Registry,
    depth: int,
    switch: Switch,
    *,
    take: Capture = capture,
    inherited: Callable[[], object] | None = None,
) -> FunctionType:
    """Return the stand-in for ``__init__``: files a record of every new socket.

    ``take`` takes the creation stack. ``inherited`` is called when a socket takes the place of
    another one on its descriptor, as a TLS socket does.

    Cost: see "creating a socket" in docs/benchmarks.md. Memory: one record and one stack.
    """
    by_fd = registry.by_fd
    filed = by_fd.get
    fileno_of = fileno_method()
    told = registry.told
    latest = registry.latest
    serial = registry.next_serial
    its_accept = socket_class().accept
    accept = getattr(its_accept, "__code__", None)
    # By the module's names: cheaper to compare than a file name.
    socket_module = getattr(its_accept, "__globals__", None)
    active = threading._active.get  # type: ignore[attr-defined]  # noqa: SLF001
    modules = _modules
    tasks = running_tasks()
    get_span = span_context
    get_task = task_name

    def __init__(  # noqa: N807
        self: Any, family: Any = -1, type: Any = -1, proto: Any = -1, fileno: Any = None
    ) -> None:
        try:
            original(self, family, type, proto, fileno)
        except BaseException as error:
            strip(error)
            raise
        if switch.off:
            return
        try:
            fd = fileno_of(self)
            record = SocketRecord(self)
            record.fd = fd
            record.serial = serial()
            # Asked for at every accept, and a look at an unset slot costs 1 to 2 µs.
            record.previous = None
            if (
                fileno is not None
                and (holder := filed(fd) or registry.inherited.get(fd)) is not None
                # Mostly it was closed and freed: then there is no need to look further.
                and (holder() is not None or holder.previous is not None)
                and (before := same_socket(holder, fd)) is not None
            ):
                inherit(record, before)
                if inherited is not None:
                    inherited()
            else:
                record.created_ns = monotonic_ns()
                frame = _getframe(1)
                while frame.f_globals is socket_module and frame.f_back is not None:
                    if frame.f_code is accept:
                        record.accepted = True
                    frame = frame.f_back
                record.stack = take(frame, depth)
                thread = active(get_ident())
                if thread is not None:
                    record.thread = thread._name  # noqa: SLF001
                if tasks:
                    record.task = get_task()
                if "opentelemetry.trace" in modules:
                    record.span = get_span()
            by_fd[fd] = record
            latest[0] = record
            if told:
                for listener in tuple(told):
                    listener(record)
        except Exception as error:
            if not switch.failed(error):
                raise

    def same_socket(before: SocketRecord | None, fd: int) -> SocketRecord | None:
        # TLS: SSLSocket is made on the descriptor before the plain socket lets go of it.
        while before is not None:
            sock = before()
            if sock is not None and fileno_of(sock) == fd:
                return before
            before = before.previous
        return None

    def inherit(record: SocketRecord, before: SocketRecord) -> None:
        record.created_ns = before.created_ns
        record.stack = before.stack
        record.thread = before.thread
        record.task = before.task
        record.span = before.span
        record.peer = before.peer
        record.eof = before.eof
        record.previous = before
        if before.accepted:
            record.accepted = True

    return dress(__init__, original)  # type: ignore[arg-type]


def finalizer_hook(
    original: Any,
    registry: Registry,
    last_words: Callable[[Any], tuple[bytes | None, Any]],
    switch: Switch,
) -> object:
    """Return the stand-in for ``__del__`` (level `full`): was the socket freed without a close?

    A descriptor, not a function: CPython asks it for the bound method, we note, and it
    then calls the original with no frame of ours below. So the ResourceWarning for an
    unclosed socket names the program's line. A mere look at ``sock.__del__`` notes too;
    the watcher drops what is still alive. A weak-reference callback would not do: the
    descriptor is gone by then either way. ``last_words`` asks the kernel for TCP_INFO and
    the local address.
    """
    fileno_of = fileno_method()
    bind = original.__get__
    by_fd = registry.by_fd
    # CPython's own does nothing for a closed socket: nor does `nothing`, cheaper.
    nothing: Final = [].clear
    is_cpythons = original is vars(_socket.socket).get("__del__")
    lowest: Final = 0 if is_cpythons else -1  # a closed socket's descriptor is -1

    def note(sock: Any, fd: int) -> None:
        record = by_fd.get(fd)
        # Freed by the cycle collector, its weak references are dead already.
        if record is not None and ((known := record()) is None or known is sock):
            info, local = last_words(sock)
            registry.collected.append(Collected(record, info, local, monotonic_ns()))

    class Finalizer:
        """The descriptor. Its names are a closure's: half the price of attributes."""

        __wrapped__: Any

        def __get__(self, sock: Any, owner: type) -> Any:
            try:
                if (fd := fileno_of(sock)) < lowest:
                    return nothing
                if fd >= 0 and not switch.off:
                    note(sock, fd)
            except BaseException as error:
                # Asked of the class, there is no socket.
                if sock is not None and not (isinstance(error, Exception) and switch.failed(error)):
                    original(sock)
                    return deliver_later(error)
            return bind(sock, owner)

    finalizer = Finalizer()
    finalizer.__wrapped__ = original
    return finalizer
