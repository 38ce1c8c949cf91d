"""The stand-ins for the reading methods (level `full`): was the program told of the end?"""

from __future__ import annotations

import _socket
from collections.abc import Callable
from sys import _getframe
from time import monotonic_ns
from types import FunctionType
from typing import Any, Final

from sockguard.hooks import Method, Switch, dress, strip, task_name, thread_name
from sockguard.records import Eof
from sockguard.registry import Registry, fileno
from sockguard.stacks import capture

#: Methods of ``socket.socket`` whose result is the bytes, or their number.
PLAIN: Final = ("recv", "recv_into")
#: Methods whose result is a tuple that begins with the bytes, or their number.
TUPLE: Final = ("recvfrom", "recvfrom_into", "recvmsg", "recvmsg_into")

_type_of: Final = vars(_socket.socket)["type"].__get__
_Arguments = tuple[Any, ...]


def _size(buffer: Any) -> int:
    return memoryview(buffer).nbytes


# What a read asked for, by its arguments: a request for no byte gets none at any time.
def _asked_recv(args: _Arguments, kwargs: dict[str, Any]) -> bool:
    return bool(args and args[0])


def _asked_into(args: _Arguments, kwargs: dict[str, Any]) -> bool:
    return _size(args[0] if args else kwargs["buffer"]) > 0


def _asked_recvmsg_into(args: _Arguments, kwargs: dict[str, Any]) -> bool:
    # Any other iterable has been used up by the call: nothing can be concluded.
    return isinstance(args[0], (list, tuple)) and any(map(_size, args[0]))


def _asked_tls(args: _Arguments, kwargs: dict[str, Any]) -> bool:
    length = args[0] if args else kwargs.get("len", 1024)
    buffer = args[1] if len(args) > 1 else kwargs.get("buffer")
    return bool(length) and (buffer is None or _size(buffer) > 0)


_ASKED: Final[dict[str, Callable[[_Arguments, dict[str, Any]], bool]]] = {
    "recv": _asked_recv,
    "recvfrom": _asked_recv,
    "recvmsg": _asked_recv,
    "recv_into": _asked_into,
    "recvfrom_into": _asked_into,
    "recvmsg_into": _asked_recvmsg_into,
    "read": _asked_tls,
}


def _note(registry: Registry, sock: Any, depth: int) -> None:
    record = registry.by_fd.get(fileno(sock))
    if record is None or record() is not sock or record.eof is not None:
        return
    frame = _getframe(3)  # past this function, its caller and the hook
    # A read inside socket.py or ssl.py (makefile, SSLSocket.recv) is its caller's.
    while frame.f_back is not None and frame.f_globals.get("__name__") in ("socket", "ssl"):
        frame = frame.f_back
    record.eof = Eof(monotonic_ns(), capture(frame, depth), thread_name(), task_name())


def read_hook(
    original: Method,
    registry: Registry,
    depth: int,
    switch: Switch,
    tells_end: tuple[type[BaseException], ...] = (ConnectionResetError,),
) -> FunctionType:
    """Return the stand-in for a reading method: it notes the end of the stream, once.

    The end is an empty result of a read that asked for bytes, or an exception of
    ``tells_end``. All else passes: see "a receive" in docs/benchmarks.md.
    """
    name = original.__name__
    asked = _ASKED[name]

    def ended(sock: Any, args: _Arguments, kwargs: dict[str, Any]) -> None:
        try:
            if not switch.off and _type_of(sock) == _socket.SOCK_STREAM and asked(args, kwargs):
                _note(registry, sock, depth)
        except Exception as error:
            if not switch.failed(error):
                raise

    def raised(sock: Any, error: BaseException) -> None:
        try:
            if not switch.off and isinstance(error, tells_end):
                _note(registry, sock, depth)
        except Exception as failure:
            if not switch.failed(failure):
                raise

    def plain(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            result = original(self, *args, **kwargs)
        except BaseException as error:
            strip(error)
            raised(self, error)
            raise
        if not result:
            ended(self, args, kwargs)
        return result

    def in_tuple(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            result = original(self, *args, **kwargs)
        except BaseException as error:
            strip(error)
            raised(self, error)
            raise
        if not result[0] and not (len(result) == 4 and result[1]):  # ancillary data: no end
            ended(self, args, kwargs)
        return result

    return dress(in_tuple if name in TUPLE else plain, original)  # type: ignore[arg-type]
