"""The stand-ins for the reading methods (level `full`): was the program told of the end?"""

from __future__ import annotations

import _socket
from collections.abc import Callable
from sys import _getframe
from time import monotonic_ns
from types import FunctionType
from typing import Any, Final

from sockguard.endpoints import plain
from sockguard.hooks import Method, Switch, dress, strip, task_name, thread_name
from sockguard.records import Eof
from sockguard.registry import Registry, fileno
from sockguard.stacks import capture

_type_of: Final = vars(_socket.socket)["type"].__get__


# Left out or this very object: passing it on would cost its parsing, 20 to 40 ns. By identity,
# so that a wrong None or 0.0 still reaches the method, and raises there.
_ZERO: Final = 0


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

    def empty(self, sock: Any, *args: Any) -> None:
        """Note the end if the read asked for bytes and the socket is a stream."""
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


# The stand-ins have the methods' own parameters: passing *args and **kwargs on would cost
# 150 to 300 ns a call more (docs/design.md).


def _recv(original: Method, end: EndOfStream) -> Method:
    def recv(self: Any, bufsize: Any, flags: Any = 0, /) -> Any:
        try:
            data = original(self, bufsize, flags) if flags is not _ZERO else original(self, bufsize)
        except BaseException as error:
            end.raised(self, error)
            raise
        if not data:
            end.empty(self, bufsize)
        return data

    return recv


def _recvfrom(original: Method, end: EndOfStream) -> Method:
    def recvfrom(self: Any, bufsize: Any, flags: Any = 0, /) -> Any:
        try:
            result = original(self, bufsize, flags)
        except BaseException as error:
            end.raised(self, error)
            raise
        if not result[0]:
            end.empty(self, bufsize)
        return result

    return recvfrom


def _recv_into(original: Method, end: EndOfStream) -> Method:
    def recv_into(self: Any, buffer: Any, nbytes: Any = 0, flags: Any = 0) -> Any:
        try:
            if nbytes is _ZERO and flags is _ZERO:
                count = original(self, buffer)
            else:
                count = original(self, buffer, nbytes, flags)
        except BaseException as error:
            end.raised(self, error)
            raise
        if not count:
            end.empty(self, buffer)
        return count

    return recv_into


def _recvfrom_into(original: Method, end: EndOfStream) -> Method:
    def recvfrom_into(self: Any, buffer: Any, nbytes: Any = 0, flags: Any = 0) -> Any:
        try:
            if nbytes is _ZERO and flags is _ZERO:
                result = original(self, buffer)
            else:
                result = original(self, buffer, nbytes, flags)
        except BaseException as error:
            end.raised(self, error)
            raise
        if not result[0]:
            end.empty(self, buffer)
        return result

    return recvfrom_into


def _recvmsg(original: Method, end: EndOfStream) -> Method:
    def recvmsg(self: Any, bufsize: Any, ancbufsize: Any = 0, flags: Any = 0, /) -> Any:
        try:
            result = original(self, bufsize, ancbufsize, flags)
        except BaseException as error:
            end.raised(self, error)
            raise
        if not result[0] and not result[1]:  # ancillary data is no end
            end.empty(self, bufsize)
        return result

    return recvmsg


def _read(original: Method, end: EndOfStream) -> Method:
    def read(self: Any, len: Any = 1024, buffer: Any = None) -> Any:
        try:
            data = original(self, len, buffer)
        except BaseException as error:
            end.raised(self, error)
            raise
        if not data:
            end.empty(self, len, buffer)
        return data

    return read


_MAKERS: Final[dict[str, Callable[[Method, EndOfStream], Method]]] = {
    "recv": _recv,
    "recv_into": _recv_into,
    "recvfrom": _recvfrom,
    "recvfrom_into": _recvfrom_into,
    "recvmsg": _recvmsg,
    "recvmsg_into": _recvmsg,
    "read": _read,
}
#: The reading methods of ``socket.socket``.
METHODS: Final = tuple(name for name in _MAKERS if name != "read")


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
    hook = _MAKERS[name](original, end)
    return dress(hook, original)  # type: ignore[arg-type]
