"""HTTP on real servers: keep-alive at least 0.99 of the requests/s, a connection each 0.97.

Told by the processor time that the server takes for a request: as busy as this one is, its
requests/s are one over that. By the clock, which counts every other program's turn as well,
the same is told beside it. One pair differs by a few per cent from the next where nothing
has changed: the bounds ask for one, so there are many pairs, none is left out, and a row
says how sure its median is. Server and client have a core each: threads that wander
between cores and wait for the interpreter's lock there cost half as much again.

The server runs in a process of its own, ``http.server`` with threads and uvicorn if it is
installed; the client is here. The guard is switched in the running server from one short
run to the next, with its watcher's thread: this is all that it costs, the kernel's price of
a second thread included.

The client keeps several connections busy, so that the server is what is waited for. Where
the server has closed, the client answers with a reset, which no program sees: none of some
10,000 connections leaves a TIME_WAIT.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from benchmarks.measure import LEVELS, Pair, Row, sure_rate

KEEP_ALIVE: Final = 0.99
CONNECTION_EACH: Final = 0.97
_AT_ONCE: Final = 8
_RESET: Final = struct.pack("ii", 1, 0)


class Spent(NamedTuple):
    """What a round of requests took: the server's processor time, and by the clock; ns."""

    server: float
    clock: float


class Server:
    """A server in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self.port = int(process.stdout.readline())
        # The processor time of a process, its threads that have ended included.
        # clock_getcpuclockid(3); MAKE_PROCESS_CPUCLOCK in the kernel
        self._clock = (~process.pid << 3) | 2
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) > 1:
            for task in os.listdir(f"/proc/{process.pid}/task"):
                os.sched_setaffinity(int(task), cores[-1:])
            os.sched_setaffinity(0, cores[:-1])

    def spent(self) -> Spent:
        return Spent(time.clock_gettime_ns(self._clock), time.perf_counter_ns())

    def per_round(self, act: Callable[[], None], rounds: int) -> Spent:
        """Return what one round of ``act`` takes. Some go before, uncounted."""
        for _ in range(rounds // 4):
            act()
        began = self.spent()
        for _ in range(rounds):
            act()
        ended = self.spent()
        return Spent(*((to - since) / rounds for since, to in zip(began, ended, strict=True)))


@contextmanager
def running(kind: str) -> Iterator[Server]:
    """Run the server ``kind`` until the end of the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.served", kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        try:
            yield Server(process)
        finally:
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def _request(path: str, how: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: {how}\r\n\r\n".encode()


def _read_answer(sock: socket.socket) -> None:
    answer = b""
    while not answer.endswith(b"\r\n\r\nhello, world\n"):
        part = sock.recv(4096)
        if not part:
            raise ConnectionError(f"the server said {answer!r} and no more")
        answer += part


def _connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=30)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _end(sock: socket.socket) -> None:
    """Wait for the server to close, then close without a TIME_WAIT."""
    if sock.recv(1):
        raise ConnectionError("the server said more than the answer")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()


def _switch(port: int, level: str) -> None:
    with _connect(port) as sock:
        sock.sendall(_request(f"/guard/{level}", "close"))
        _read_answer(sock)
        _end(sock)


def _exchange(socks: list[socket.socket], request: bytes) -> None:
    for sock in socks:
        sock.sendall(request)
    for sock in socks:
        _read_answer(sock)


def _keep_alive(server: Server) -> Spent:
    """Measure requests on connections that stay."""
    request = _request("/", "keep-alive")
    socks = [_connect(server.port) for _ in range(_AT_ONCE)]
    try:
        return server.per_round(lambda: _exchange(socks, request), 20)
    finally:
        for sock in socks:
            sock.close()


def _connection_each(server: Server) -> Spent:
    """Measure requests that have a connection each."""
    request = _request("/", "close")

    def act() -> None:
        socks = [_connect(server.port) for _ in range(_AT_ONCE)]
        try:
            _exchange(socks, request)
            for sock in socks:
                _end(sock)
        finally:
            for sock in socks:
                sock.close()

    return server.per_round(act, 12)


def _alternate(
    server: Server, work: Callable[[Server], Spent], level: str, pairs: int
) -> list[tuple[Spent, Spent]]:
    """Switch the guard off and on, in turn; return what both took. The first pair is lost."""
    spent: dict[str, list[Spent]] = {"off": [], level: []}
    for number in range(pairs + 1):
        # A B, B A, A B …: what drifts one way favours neither.
        for state in ("off", level) if number % 2 else (level, "off"):
            _switch(server.port, state)
            spent[state].append(work(server))
    return list(zip(spent["off"], spent[level], strict=True))[1:]


def _rows_of(kind: str, pairs: dict[Callable[[Server], Spent], int]) -> Iterator[Row]:
    measured: dict[tuple[Callable[[Server], Spent], str], list[tuple[Spent, Spent]]] = {}
    for _ in range(_PROCESSES):
        with running(kind) as server:
            for work, count in pairs.items():
                for level in LEVELS:
                    some = _alternate(server, work, level, count // _PROCESSES)
                    measured.setdefault((work, level), []).extend(some)
    for (work, level), spent in measured.items():
        what, at_least = _WORKS[work]
        by_server = [Pair(plain.server, guarded.server) for plain, guarded in spent]
        by_clock = [Pair(plain.clock, guarded.clock) for plain, guarded in spent]
        yield sure_rate(f"{kind}: {what}, {level}", by_server, at_least=at_least)
        yield sure_rate("… by the clock", by_clock)


# Where its code and data lie makes a process faster or slower by a per cent, guarded or not.
_PROCESSES: Final = 5
# A bound of three per cent on a cost of two and a half takes more of them.
_PAIRS: Final = {_keep_alive: 400, _connection_each: 1000}
_FEW: Final = {_keep_alive: 25, _connection_each: 25}
_WORKS: Final = {
    _keep_alive: ("keep-alive requests/s", KEEP_ALIVE),
    _connection_each: ("requests/s, a connection each", CONNECTION_EACH),
}


def rows(*, quick: bool) -> list[Row]:
    kinds = ["http.server"]
    if importlib.util.find_spec("uvicorn"):
        kinds.append("uvicorn")
    return [row for kind in kinds for row in _rows_of(kind, _FEW if quick else _PAIRS)]
