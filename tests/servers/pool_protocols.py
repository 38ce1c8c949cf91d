"""Servers that speak just enough of a protocol for a client's pool to keep connections."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from typing import BinaryIO

# Nobody waits longer for a peer in a test.
PATIENCE_S = 20.0


class Server:
    """A listener on loopback with a thread for each connection, ended by `close`."""

    def __init__(self, speak: Callable[[BinaryIO], None], tls: ssl.SSLContext | None = None):
        self._speak = speak
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:  # closed
                return
            sock.settimeout(PATIENCE_S)
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            thread = threading.Thread(target=self._serve, args=(sock,))
            with self._lock:
                self._open.append(sock)
                self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        # Whatever the client does, the thread ends with the connection.
        with contextlib.suppress(OSError, EOFError, struct.error), sock:
            if isinstance(sock, ssl.SSLSocket):
                sock.do_handshake()
            with sock.makefile("rwb") as stream:
                self._speak(stream)

    def hang_up(self) -> None:
        """Send a FIN on every connection, and no more."""
        with self._lock:
            sockets, self._open = self._open, []
        for sock in sockets:
            # Past TLS: no alert, so that the FIN is all that the client gets.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """End the listener, the connections and the threads."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(PATIENCE_S)
        self.hang_up()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _say(stream: BinaryIO, data: bytes) -> None:
    stream.write(data)
    stream.flush()


def http(stream: BinaryIO) -> None:
    """Answer each GET; one of ``/part`` gets half of its body, and no more."""
    while line := stream.readline():
        while stream.readline() not in (b"\r\n", b""):
            pass
        body = b"half" if b"/part" in line else b"complete"
        _say(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n" + body)


_SETTINGS, _HEADERS, _DATA = 4, 1, 0


def http2(stream: BinaryIO) -> None:
    """Answer each request by headers and a body; without its end for a POST. RFC 9113"""
    _exactly(stream, len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))

    def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
        size = len(payload).to_bytes(3, "big")
        return size + struct.pack(">BBI", kind, flags, stream_id) + payload

    _say(stream, frame(_SETTINGS, 0, 0))
    while True:
        size = int.from_bytes(_exactly(stream, 3), "big")
        kind, flags, stream_id = struct.unpack(">BBI", _exactly(stream, 6))
        payload = _exactly(stream, size)
        if kind == _SETTINGS and not flags & 1:
            _say(stream, frame(_SETTINGS, 1, 0))
        elif kind == _HEADERS:
            # Of the static table: 0x82 is ":method: GET", 0x88 is ":status: 200". RFC 7541
            complete = payload[:1] == b"\x82"
            _say(stream, frame(_HEADERS, 4, stream_id, b"\x88"))
            _say(stream, frame(_DATA, 1 if complete else 0, stream_id, b"complete"))


def redis(stream: BinaryIO) -> None:
    """Answer commands as a Redis that is empty does."""
    while line := stream.readline():
        words = []
        for _ in range(int(line[1:])):
            size = int(stream.readline()[1:])
            words.append(_exactly(stream, size + 2)[:-2])
        answers = {
            b"PING": b"+PONG\r\n",
            b"GET": b"$-1\r\n",
            b"HELLO": b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n",
        }
        _say(stream, answers.get(words[0].upper(), b"+OK\r\n"))


def postgres(stream: BinaryIO) -> None:
    """Let anybody in, and answer any statement with no row."""

    def message(kind: bytes, payload: bytes = b"") -> bytes:
        return kind + struct.pack(">I", len(payload) + 4) + payload

    while True:
        (size,) = struct.unpack(">I", _exactly(stream, 4))
        (code,) = struct.unpack(">I", _exactly(stream, size - 4)[:4])
        if code != 80877103:  # SSLRequest
            break
        _say(stream, b"N")
    parameter = message(b"S", b"client_encoding\0UTF8\0")
    ready = message(b"Z", b"I")
    _say(stream, message(b"R", struct.pack(">I", 0)) + parameter + ready)
    answers = {
        b"P": message(b"1"),
        b"B": message(b"2"),
        b"D": message(b"t", struct.pack(">H", 0)) + message(b"n"),
        b"E": message(b"C", b"SELECT 0\0"),
        b"Q": message(b"C", b"SELECT 0\0") + ready,
        b"C": message(b"3"),
        b"S": ready,
    }
    while (kind := _exactly(stream, 1)) != b"X":
        (size,) = struct.unpack(">I", _exactly(stream, 4))
        what = _exactly(stream, size - 4)
        # A portal has no parameters to describe.
        answer = message(b"n") if kind == b"D" and what[:1] == b"P" else answers.get(kind, b"")
        _say(stream, answer)


def mysql(stream: BinaryIO) -> None:
    """Let anybody in, and answer any command with OK."""

    def packet(number: int, payload: bytes) -> bytes:
        return len(payload).to_bytes(3, "little") + bytes([number]) + payload

    # CLIENT_PROTOCOL_41, CLIENT_SECURE_CONNECTION, CLIENT_PLUGIN_AUTH
    low, high = 0x0200 | 0x8000 | 0x2000, 0x0008
    greeting = b"\x0a8.0.0\0" + struct.pack("<I", 1) + b"12345678\0" + struct.pack("<H", low)
    greeting += struct.pack("<BHH", 45, 2, high) + b"\x15" + b"\0" * 10 + b"123456789012\0"
    ok = b"\0\0\0" + struct.pack("<HH", 2, 0)
    _say(stream, packet(0, greeting + b"mysql_native_password\0"))
    while True:
        size = int.from_bytes(_exactly(stream, 3), "little")
        (number,) = _exactly(stream, 1)
        command = _exactly(stream, size)
        if command == b"\x01":  # COM_QUIT
            return
        _say(stream, packet(number + 1, ok))


def mongo(stream: BinaryIO) -> None:
    """Say that this is a primary; answer any command with OK."""
    import bson

    answer = bson.encode(
        {
            "ok": 1.0,
            "ismaster": True,
            "isWritablePrimary": True,
            "minWireVersion": 0,
            "maxWireVersion": 21,
            "maxBsonObjectSize": 16 * 1024 * 1024,
            "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000,
        }
    )
    op_query, op_reply, op_msg = 2004, 1, 2013
    while True:
        size, request, _, code = struct.unpack("<iiii", _exactly(stream, 16))
        _exactly(stream, size - 16)
        if code == op_query:
            head, reply = struct.pack("<iqii", 0, 0, 0, 1), op_reply
        else:
            head, reply = struct.pack("<IB", 0, 0), op_msg
        body = head + answer
        _say(stream, struct.pack("<iiii", 16 + len(body), 1, request, reply) + body)
