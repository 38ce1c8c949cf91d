"""What a socket object tells of itself: its kind, its addresses, the bytes that wait in it.

Asked of the C class, never through the object: a subclass of the program's may override
any method, and no code of the program may run here.
"""

from __future__ import annotations

import _socket
import struct
from typing import Any, Final

from sockguard.native import socket_class

try:
    import fcntl
    import termios

    _FIONREAD: Final = termios.FIONREAD
except ImportError:  # not POSIX
    fcntl = None  # type: ignore[assignment]

_INET: Final = {int(_socket.AF_INET), int(_socket.AF_INET6)}
_members: Final = vars(_socket.socket)


def plain(sock: Any) -> Any:
    """Return the ``_socket.socket`` in ``sock``: itself, or what a green socket wraps.

    ``None`` if there is none. eventlet keeps it in ``fd``, gevent in ``_sock``.
    """
    if isinstance(sock, _socket.socket):
        return sock
    held = (getattr(sock, "fd", None), getattr(sock, "_sock", None))
    return next((inner for inner in held if isinstance(inner, _socket.socket)), None)


def family(sock: Any) -> int:
    """Return the address family as a plain number, past any property of a subclass."""
    said = int(_members["family"].__get__(sock))
    if said != getattr(_socket, "AF_UNIX", None) or not hasattr(_socket, "SO_DOMAIN"):
        return said
    # uvicorn --fd calls its TCP listener AF_UNIX; the kernel knows better. socket(7)
    try:
        return int(_socket.socket.getsockopt(sock, _socket.SOL_SOCKET, _socket.SO_DOMAIN))
    except OSError:
        return said


def kind(sock: Any) -> int:
    """Return the socket type as a plain number."""
    return int(_members["type"].__get__(sock))


def is_stream(sock: Any) -> bool:
    """Tell a TCP or an AF_UNIX stream: what sockguard judges."""
    number = family(sock)
    if kind(sock) != _socket.SOCK_STREAM:
        return False
    if number in _INET:
        return int(_members["proto"].__get__(sock)) in (0, _socket.IPPROTO_TCP)
    return is_unix(sock)


def is_unix(sock: Any) -> bool:
    """Tell an AF_UNIX socket."""
    return family(sock) == getattr(_socket, "AF_UNIX", -1)


def render(address: Any) -> str | None:
    """Put an address into words: ``127.0.0.1:80``, ``[::1]:80``, a path, ``@abstract``."""
    if isinstance(address, tuple) and len(address) > 1:
        host, port = str(address[0]), address[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if isinstance(address, bytes):
        return "@" + address[1:].decode("utf-8", "backslashreplace") if address else None
    return address if isinstance(address, str) and address else None


def raw_local(sock: Any) -> Any:
    """Return the address that ``sock`` is bound to, ``None`` if it is closed."""
    try:
        return _socket.socket.getsockname(sock)
    except OSError:
        return None


def raw_peer(sock: Any) -> Any:
    """Return the address that ``sock`` is connected to; ``None`` if it is not (any more)."""
    try:
        return _socket.socket.getpeername(sock)
    except OSError:
        return None


def is_listening(sock: Any) -> bool:
    """Tell a listening socket. SO_ACCEPTCONN, socket(7)"""
    try:
        return bool(_socket.socket.getsockopt(sock, _socket.SOL_SOCKET, _socket.SO_ACCEPTCONN))
    except (OSError, AttributeError):
        return False


def unread_bytes(fd: int) -> int | None:
    """Return how many bytes wait to be read on ``fd``; a FIN is none."""
    if fcntl is None:
        return None
    try:
        answer = fcntl.ioctl(fd, _FIONREAD, b"\0\0\0\0")
    except OSError:
        return None
    return int(struct.unpack("=i", answer)[0])


def closed_by_program(sock: Any) -> bool:
    """Tell whether ``close()`` was called and a ``makefile()`` object keeps the descriptor."""
    members = vars(socket_class())
    try:
        return bool(members["_closed"].__get__(sock)) and members["_io_refs"].__get__(sock) > 0
    except (KeyError, AttributeError, TypeError):
        return False
