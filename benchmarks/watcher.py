"""The watcher: what 10,000 idle sockets cost it, and when and how truly it speaks.

* Idle: processor time a tick, as a share of one core at the default of one tick a second.
  The ticks are called one after the other, so that they find their caches warm; a few
  whole seconds with the real thread are told beside it.
* Real connections whose peers close at five moments of a tick, before and after the
  watcher adopts them: how long after the threshold each finding is published, and how far
  its age is from the truth.
"""

from __future__ import annotations

import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import sockguard
from benchmarks.measure import Row, row
from sockguard.findings import LEAK, Event, Summary

SOCKETS: Final = 10_000
NS_PER_S: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000
IDLE_BOUND: Final = 0.1
LATE_BOUND_MS: Final = 1000
AGE_BOUND_MS: Final = 50


def _room_for(sockets: int) -> int:
    """Raise the soft limit on descriptors; return how many of ``sockets`` it leaves room for."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = sockets + 1000
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return min(sockets, limit - 1000)


def _connected(listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    client = socket.create_connection(listener.getsockname())
    return client, listener.accept()[0]


@contextmanager
def idle_sockets(count: int) -> Iterator[list[socket.socket]]:
    """Hold ``count`` connected sockets, half of them AF_UNIX, half TCP on loopback."""
    with ExitStack() as stack:
        made: list[socket.socket] = []
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        while len(made) < count:
            pair = socket.socketpair() if len(made) % 4 else _connected(listener)
            made += map(stack.enter_context, pair)
        yield made


def _quarters(values: Sequence[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}


def _share(ns_a_tick: float) -> float:
    return 100 * ns_a_tick / NS_PER_S


def _tick_cost(watcher: Any) -> int:
    before = watcher.cpu_ns
    watcher.tick()
    return int(watcher.cpu_ns - before)


def _idle(observer: str, count: int, ticks: int) -> tuple[list[int], list[int]]:
    """Return what the ticks that adopt cost, and those after them; ns."""
    guard = sockguard.install(quiet=True, interval=3600, observer=observer)
    try:
        watcher = guard._the_engine().watcher
        with idle_sockets(count):
            adopting = [_tick_cost(watcher) for _ in range(2)]
            settled = [_tick_cost(watcher) for _ in range(ticks)]
        return adopting, settled
    finally:
        sockguard.uninstall()


def _idle_rows(count: int, ticks: int) -> list[Row]:
    adopting, settled = _idle("auto", count, ticks)
    _, portable = _idle("portable", count, 5)
    tracked = f"{count:,} tracked idle sockets"
    return [
        row(f"the watcher with {tracked}", "% of a core", list(map(_share, settled)),
            at_most=IDLE_BOUND),
        row(f"… adopting them, once ({tracked})", "ms",
            [max(adopting) / NS_PER_MS], note="in one tick"),
        row("… with the portable observer", "% of a core", list(map(_share, portable))),
    ]  # fmt: skip


def _real_seconds(count: int, seconds: int) -> Row:
    """Let the real thread tick by the clock, with nothing else going on."""
    guard = sockguard.install(quiet=True)
    try:
        watcher = guard._the_engine().watcher
        with idle_sockets(count):
            time.sleep(2.5)  # two ticks: adopted
            shares = []
            for _ in range(seconds):
                before = watcher.cpu_ns
                time.sleep(1)
                shares.append(_share(watcher.cpu_ns - before))
        return row("… by its own thread, in real seconds", "% of a core", shares,
                   at_most=IDLE_BOUND)  # fmt: skip
    finally:
        sockguard.uninstall()


_STILL = """
import socket, sys, sockguard, time
sockguard.install(quiet=True)
pair = socket.socketpair()
time.sleep(float(sys.argv[1]))
"""


def _system_calls(seconds: int) -> list[Row]:
    """Count what an idle tick asks of the kernel, where ``strace`` is there to tell."""
    strace = shutil.which("strace")
    if strace is None:
        return []
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace")
        command = [strace, "-f", "-o", str(trace), sys.executable, "-c", _STILL, str(seconds + 3)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            return []
        lines = [line.split(None, 1) for line in trace.read_text().splitlines()]
    # The last thread to start is the watcher's; each of its ticks ends with a wait.
    main = lines[0][0]
    calls = [text for task, text in lines if task != main]
    waits = [at for at, text in enumerate(calls) if "ETIMEDOUT" in text]
    a_tick = [later - earlier for earlier, later in pairwise(waits)]
    # The first two adopt the pair.
    return [row("system calls of an idle tick, its wait included", "", a_tick[2:])]


class _Ear:
    """An exporter that keeps what it is told, and when."""

    name = "ear"

    def __init__(self) -> None:
        self.heard: list[tuple[int, Event]] = []

    def export(self, events: Sequence[Event]) -> None:
        now = time.monotonic_ns()
        self.heard += [(now, event) for event in events if event.name == LEAK]

    def summarize(self, summary: Summary) -> None:
        """Nothing to keep."""

    def close(self) -> None:
        """Nothing is held."""


def _truth(rounds: int) -> tuple[list[float], list[float]]:
    """Return how late findings were after the threshold, and how wrong their age; ms."""
    threshold = 1.0
    guard = sockguard.install(quiet=True, threshold=threshold)
    ear = _Ear()
    guard._the_engine().exporters.append(ear)
    fin_ns: dict[int, int] = {}
    try:
        with ExitStack() as stack:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            for moment in range(5 * rounds):
                # The five differ in their place between two ticks.
                client, accepted = map(stack.enter_context, _connected(listener))
                if moment % 2:
                    time.sleep(2.2)  # adopted before its FIN
                fin_ns[accepted.fileno()] = time.monotonic_ns()
                client.close()
                time.sleep(0.3)
            deadline = time.monotonic() + threshold + 3
            while len(ear.heard) < len(fin_ns) and time.monotonic() < deadline:
                time.sleep(0.05)
    finally:
        sockguard.uninstall()
    late, wrong = [], []
    for heard_ns, event in ear.heard:
        began = fin_ns[event.finding.fd]
        late.append((heard_ns - began) / NS_PER_MS - threshold * 1000)
        true_age_ns = event.finding.at_ns - began
        wrong.append(abs(event.finding.since_fin_ns - true_age_ns) / NS_PER_MS)
    # The group has said enough after five events: the counts go on, the events thin out.
    assert len(late) >= 5
    return late, wrong


def rows(*, quick: bool) -> list[Row]:
    count = _room_for(SOCKETS)
    table = _idle_rows(count, 60 if quick else 300)
    if not quick:
        table.append(_real_seconds(count, 8))
        table += _system_calls(4)
    late, wrong = _truth(1)
    return [
        *table,
        # The promise is about each finding and each age: the worst one is judged.
        row("the latest finding, after its threshold", "ms", [max(late)], at_most=LATE_BOUND_MS),
        row("… all of them", "ms", late),
        row("age since the FIN, the worst, off by", "ms", [max(wrong)], at_most=AGE_BOUND_MS),
        row("… all of them", "ms", wrong),
    ]  # fmt: skip
