"""What the program's thread notes of a socket."""

from __future__ import annotations

import socket
import weakref
from typing import TYPE_CHECKING, Any, Final

from sockguard.stacks import Stack

if TYPE_CHECKING:
    _SocketRef = weakref.ref[socket.socket]
else:
    _SocketRef = weakref.ref


class Eof:
    """The moment the program was told that the peer is gone: an empty read, or ECONNRESET."""

    __slots__ = ("at_ns", "stack", "task", "thread")

    def __init__(self, at_ns: int, stack: Stack, thread: str | None, task: str | None) -> None:
        self.at_ns = at_ns
        self.stack = stack
        self.thread = thread
        self.task = task


#: In ``span``: made while telemetry is exported, which is no business of the program's.
TELEMETRY: Final = "telemetry"


class SocketRecord(_SocketRef):
    """One tracked socket: a weak reference to it, with what was noted when it was made.

    The application's thread fills ``fd`` to ``stack``; a slot that nobody has set reads
    as ``None``, so that the hot path pays for no default. All times are monotonic
    nanoseconds. It holds neither the socket nor a frame, thread or task.
    """

    __slots__ = (
        "accepted",  # bool: made by accept()
        "created_ns",
        "eof",  # Eof: level `full`
        "fd",
        "peer",  # str: as last seen connected; a reset erases it in the kernel
        "previous",  # SocketRecord: another object on the same descriptor, made before
        "seen",  # bool: the watcher has adopted it, or found it gone
        "serial",
        "span",  # OpenTelemetry's SpanContext, or TELEMETRY
        "stack",
        "task",
        "thread",
    )

    accepted: bool | None
    created_ns: int
    eof: Eof | None
    fd: int
    peer: str | None
    previous: SocketRecord | None
    seen: bool | None
    serial: int
    span: Any
    stack: Stack
    task: str | None
    thread: str | None

    # Identity, not the referent's: a program's __eq__ or __hash__ must never run here.
    __eq__ = object.__eq__
    __ne__ = object.__ne__
    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> None:
        if name in SocketRecord.__slots__:
            return
        raise AttributeError(name)
