"""Guarded processes of one user tell each other where a socket was made.

By datagrams between abstract AF_UNIX sockets, one a process, named by user and pid. The
kernel vouches for who sends (SCM_CREDENTIALS); another user's words are dropped unread.
Nobody waits: a question that gets lost, or comes to a stopped process, stays unanswered.
Linux only; elsewhere nothing is ever sent. unix(7)
"""

from __future__ import annotations

import _socket
import json
import os
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from sockguard.descriptors import Identity, identity, move_high
from sockguard.findings import Origin
from sockguard.stacks import Frame

#: Datagrams read in one turn. The kernel keeps 10 for us (net.unix.max_dgram_qlen).
MAX_TURN: Final = 16
#: Questions that may be open; the oldest is forgotten.
MAX_ASKED: Final = 256
#: Bytes of a datagram: stacks are cut to fit, outermost frames first.
MAX_BYTES: Final = 8192
# Four of them, each character at most 12 bytes of JSON, fit without any stack.
_MAX_WORD: Final = 128
_WORDS: Final = ("thread", "task", "trace_id", "span_id")
# So long after a failure to bind (the name is taken, a sandbox) it is tried again.
_RETRY_NS: Final = 10_000_000_000
_UCRED: Final = struct.Struct("=iII")
_ANCILLARY: Final = _socket.CMSG_SPACE(_UCRED.size) if hasattr(_socket, "CMSG_SPACE") else 0
_CAN: Final = sys.platform == "linux" and hasattr(_socket, "SO_PASSCRED")


class _Quiet(_socket.socket):
    """A socket that, when it is freed, neither closes its number nor warns.

    The number may be the program's by then; and at the end of the interpreter nobody is
    to read a ResourceWarning of ours.
    """

    __slots__ = ()

    def __del__(self) -> None:
        """Stand in the place of the closing finalizer."""


class Exchange:
    """This process's end. One thread at a time; raises nothing, waits for nothing.

    Its descriptor is made at first use, by each process its own, and again where the
    program has closed it.
    """

    def __init__(self) -> None:
        self._sock: _Quiet | None = None
        self._identity: Identity | None = None
        self._owner: tuple[int, int] | None = None
        self._namespace: int | None = None
        self._retry_ns = 0
        self._asked: dict[int, int] = {}
        self._answers: dict[int, Origin] = {}

    def answer_all(self, lookup: Callable[[int, int], Origin | None]) -> None:
        """Answer what others have asked, and take in what they have answered.

        ``lookup(inode, fd)`` returns where that socket of this process was made. At most
        ``MAX_TURN`` datagrams; with none, four system calls (5 µs).
        """
        sock = self._ready()
        if sock is None:
            return
        for _ in range(MAX_TURN):
            try:
                # Room for the credentials and no more: descriptors that a stranger sends
                # along don't fit, and the kernel drops them.
                mail = sock.recvmsg(MAX_BYTES, _ANCILLARY)
            except OSError:  # nothing more
                return
            data, ancillary, flags, address = mail
            pid = self._sender(ancillary, flags, address)
            message = None if pid is None else _decode(data)
            if pid is not None and message is not None:
                self._take(pid, message, lookup)

    def _take(
        self, pid: int, message: dict[str, Any], lookup: Callable[[int, int], Origin | None]
    ) -> None:
        inode = message["inode"]
        if "fd" in message:
            made = lookup(inode, message["fd"])
            if made is not None:
                self._send(pid, encode_answer(inode, made))
        elif self._asked.get(inode) == pid:
            answer = _decode_origin(message.get("created"))
            if answer is not None:
                del self._asked[inode]
                self._answers[inode] = answer

    def ask(self, pid: int, inode: int, fd: int) -> bool:
        """Ask ``pid`` where the socket ``inode`` was made, which it has as ``fd``.

        Tells whether the question is under way: not if that process is not guarded, is
        another user's, or has not read its earlier mail. Asking twice does no harm.
        """
        if not self._send(pid, json.dumps({"inode": inode, "fd": fd}).encode()):
            return False
        self._asked.pop(inode, None)
        self._asked[inode] = pid
        if len(self._asked) > MAX_ASKED:
            del self._asked[next(iter(self._asked))]
        return True

    def answers(self) -> dict[int, Origin]:
        """Return the answers that ``answer_all`` has taken in, by inode; each once."""
        answers, self._answers = self._answers, {}
        return answers

    def close(self) -> None:
        """Close the descriptor if it is still ours; leave it to its new owner if not."""
        sock, self._sock = self._sock, None
        if sock is not None:
            fd = sock.detach()
            if identity(fd) == self._identity:
                os.close(fd)

    # -- the socket --------------------------------------------------------------------

    def _ready(self) -> _Quiet | None:
        """Return our socket, made anew after a fork, a change of user or a ``closerange``."""
        if not _CAN:
            return None
        owner = (os.getpid(), os.getuid())
        if self._sock is not None:
            if self._owner == owner and identity(self._sock.fileno()) == self._identity:
                return self._sock
            self.close()
        if self._owner != owner:  # what the parent has asked is the parent's
            self._owner, self._retry_ns = owner, 0
            self._asked.clear()
            self._answers.clear()
        now_ns = time.monotonic_ns()
        if now_ns >= self._retry_ns:
            self._retry_ns = now_ns + _RETRY_NS
            self._open()
        return self._sock

    def _open(self) -> None:
        if os.getuid() != os.geteuid():
            return  # more may: the kernel vouches for the real user only
        # The system's limits, a sandbox, an audit hook of the program: then there is none.
        with suppress(Exception):
            # Containers that share a network have pids of their own: these must not meet.
            self._namespace = os.stat("/proc/self/ns/pid").st_ino
            low = _Quiet(_socket.AF_UNIX, _socket.SOCK_DGRAM)
            try:
                low.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)
                low.bind(self._name(os.getpid()))
            except BaseException:
                low.close()
                raise
            fd = move_high(low.detach())
            self._identity = identity(fd)
            self._sock = _Quiet(_socket.AF_UNIX, _socket.SOCK_DGRAM, 0, fd)
            self._sock.setblocking(False)
            self._retry_ns = 0

    def _name(self, pid: int) -> bytes:
        # The 1 is the protocol's version.
        return f"\0sockguard.1/{os.getuid()}/{self._namespace}/{pid}".encode()

    def _sender(self, ancillary: Any, flags: int, address: Any) -> int | None:
        """Return the pid of the sender of a whole datagram, if it is one of us."""
        if flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC):
            return None
        for level, kind, value in ancillary:
            if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_CREDENTIALS):
                pid, uid, _ = _UCRED.unpack(value)
                # By its own name: the answer goes there, and anybody may take any name.
                if uid == os.getuid() and pid > 0 and address == self._name(pid):
                    return int(pid)
        return None

    def _send(self, pid: int, data: bytes) -> bool:
        sock = self._ready()
        try:
            return sock is not None and sock.sendto(data, self._name(pid)) == len(data)
        except Exception:  # nobody has the name, a full queue, the program's audit hook
            return False


# -- what is said ----------------------------------------------------------------------


def encode_answer(inode: int, made: Origin) -> bytes:
    """Return the datagram that says where ``inode`` was made; its stack cut until it fits."""
    told: dict[str, Any] = {"trace_flags": made.trace_flags}
    for name in _WORDS:
        word = getattr(made, name)
        told[name] = None if word is None else word[:_MAX_WORD]
    told["stack"] = made.stack
    while True:
        data = json.dumps({"inode": inode, "created": told}).encode()
        if len(data) <= MAX_BYTES:
            return data
        told["stack"] = told["stack"][: len(told["stack"]) // 2]


def _decode(data: bytes) -> dict[str, Any] | None:
    """Return a datagram's object, if it has the numbers that it must have."""
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict) or type(message.get("inode")) is not int:
        return None
    return message if type(message.get("fd", 0)) is int else None


def _decode_origin(told: Any) -> Origin | None:
    """Return the origin that another process tells of, if it has the right shape."""
    if not isinstance(told, dict) or not isinstance(told.get("stack"), list):
        return None
    stack = []
    for entry in told["stack"]:
        match entry:
            case [str(file), int() | None as line, str(function)]:
                stack.append(Frame(file, line, function))
            case _:
                return None
    words = {name: told.get(name) for name in _WORDS}
    if not all(word is None or isinstance(word, str) for word in words.values()):
        return None
    flags = told.get("trace_flags")
    return Origin(stack=tuple(stack), trace_flags=flags if type(flags) is int else None, **words)
