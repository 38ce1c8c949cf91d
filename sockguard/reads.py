"""The stand-ins for the reading methods (level `full`): was the program told of the end?"""

from __future__ import annotations

import _socket
import builtins
from collections.abc import Callable
from sys import _getframe
from time import monotonic_ns
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, cast

from sockguard.endpoints import plain
from sockguard.hooks import Method, Switch, dress, strip, task_name, thread_name
from sockguard.records import Eof
from sockguard.registry import Registry, fileno
from sockguard.stacks import capture

_type_of: Final = vars(_socket.socket)["type"].__get__


# What a read asked for, by its arguments: a request for no byte gets none at any time.
def _asked_bytes(bufsize: Any) -> bool:
    return bool(bufsize)


def _asked_into(buffer: Any) -> bool:
    return memoryview(buffer).nbytes > 0


def _asked_into_many(buffers: Any) -> bool:
    # Any other iterable has been used up by the call: nothing can be concluded.
    return isinstance(buffers, (list, tuple)) and any(map(_asked_into, buffers))


def _asked_tls(length: Any, buffer: Any) -> bool:
    return bool(length) and (buffer is None or _asked_into(buffer))


_ASKED: Final[dict[str, Callable[..., bool]]] = {
    "recv": _asked_bytes,
    "recvfrom": _asked_bytes,
    "recvmsg": _asked_bytes,
    "recv_into": _asked_into,
    "recvfrom_into": _asked_into,
    "recvmsg_into": _asked_into_many,
    "read": _asked_tls,
}


class EndOfStream:
    """What a stand-in tells: a read came back empty, or raised. Built once a method."""

    def __init__(
        self,
        name: str,
        registry: Registry,
        depth: int,
        switch: Switch,
        tells_end: tuple[type[BaseException], ...],
    ) -> None:
        self._asked = _ASKED[name]
        self._registry = registry
        self._depth = depth
        self._switch = switch
        self._tells_end = tells_end

    def empty(self, result: Any, sock: Any, *args: Any) -> Any:
        """Return ``result``; note the end if the read asked for bytes of a stream."""
        try:
            if (
                not self._switch.off
                and _type_of(plain(sock)) == _socket.SOCK_STREAM
                and self._asked(*args)
            ):
                self._note(sock)
        except Exception as error:
            if not self._switch.failed(error):
                raise
        return result

    def raised(self, sock: Any, error: BaseException) -> None:
        """Note the end if ``error`` tells of it. Takes the caller's frame out of it, too."""
        strip(error)
        try:
            if isinstance(error, self._tells_end) and not self._switch.off:
                self._note(sock)
        except Exception as failure:
            if not self._switch.failed(failure):
                raise

    def _note(self, sock: Any) -> None:
        record = self._registry.by_fd.get(fileno(sock))
        if record is None or record() is not sock or record.eof is not None:
            return
        frame = _getframe(3)  # past this method, its caller and the stand-in
        # A read inside socket.py or ssl.py (makefile, SSLSocket.recv) is its caller's.
        while frame.f_back is not None and frame.f_globals.get("__name__") in ("socket", "ssl"):
            frame = frame.f_back
        stack = capture(frame, self._depth)
        record.eof = Eof(monotonic_ns(), stack, thread_name(), task_name())


# The stand-ins. Each is a pattern: `read_hook` makes a function of its code whose globals are
# just these names, which is 10 ns cheaper than a closure. They have the methods' own
# parameters: passing *args and **kwargs on would cost 150 to 300 ns a call more
# (docs/design.md). `False` is an integer that no caller writes: left out, an argument is
# not passed on, for its parsing costs 20 to 40 ns. By identity, so that a wrong None or 0.0
# still reaches the method, and raises there.
# ruff: noqa: F821  # `original`, `empty` and `raised` are there when it runs
if TYPE_CHECKING:
    original: Method
    empty: Callable[..., Any]
    raised: Callable[..., None]


def _recv(self: Any, bufsize: Any, flags: Any = False, /) -> Any:
    try:
        if flags is False:
            return (data := original(self, bufsize)) or empty(data, self, bufsize)
        return (data := original(self, bufsize, flags)) or empty(data, self, bufsize)
    except BaseException as error:
        raised(self, error)
        raise


def _recv_into(self: Any, buffer: Any, nbytes: Any = False, flags: Any = False) -> Any:
    try:
        if nbytes is False and flags is False:
            return (count := original(self, buffer)) or empty(count, self, buffer)
        return (count := original(self, buffer, nbytes, flags)) or empty(count, self, buffer)
    except BaseException as error:
        raised(self, error)
        raise


def _recvfrom(self: Any, bufsize: Any, flags: Any = 0, /) -> Any:
    try:
        result = original(self, bufsize, flags)
        return result if result[0] else empty(result, self, bufsize)
    except BaseException as error:
        raised(self, error)
        raise


def _recvfrom_into(self: Any, buffer: Any, nbytes: Any = 0, flags: Any = 0) -> Any:
    try:
        result = original(self, buffer, nbytes, flags)
        return result if result[0] else empty(result, self, buffer)
    except BaseException as error:
        raised(self, error)
        raise


def _recvmsg(self: Any, bufsize: Any, ancbufsize: Any = 0, flags: Any = 0, /) -> Any:
    try:
        result = original(self, bufsize, ancbufsize, flags)
        # Ancillary data is no end.
        return result if result[0] or result[1] else empty(result, self, bufsize)
    except BaseException as error:
        raised(self, error)
        raise


def _read(self: Any, len: Any = 1024, buffer: Any = None) -> Any:
    try:
        return (data := original(self, len, buffer)) or empty(data, self, len, buffer)
    except BaseException as error:
        raised(self, error)
        raise


_PATTERNS: Final[dict[str, Callable[..., Any]]] = {
    "recv": _recv,
    "recv_into": _recv_into,
    "recvfrom": _recvfrom,
    "recvfrom_into": _recvfrom_into,
    "recvmsg": _recvmsg,
    "recvmsg_into": _recvmsg,
    "read": _read,
}
#: The reading methods of ``socket.socket``.
METHODS: Final = tuple(name for name in _PATTERNS if name != "read")


def read_hook(
    name: str,
    original: Method,
    registry: Registry,
    depth: int,
    switch: Switch,
    tells_end: tuple[type[BaseException], ...] = (ConnectionResetError,),
) -> FunctionType:
    """Return the stand-in for the reading method ``name``: it notes the end of the stream, once.

    The end is an empty result of a read that asked for bytes, or an exception of
    ``tells_end``. All else passes: see "a receive" in docs/benchmarks.md.
    """
    end = EndOfStream(name, registry, depth, switch, tells_end)
    names = {
        "__builtins__": builtins,
        "__name__": __name__,
        "original": original,
        "empty": end.empty,
        "raised": end.raised,
    }
    pattern = cast("FunctionType", _PATTERNS[name])
    hook = FunctionType(pattern.__code__, names, pattern.__name__, pattern.__defaults__)
    return dress(hook, original)
