"""Healthy services by the hundred: no idle connection of their pools is called a leak.

Real clients whose servers hang up after a short keep-alive; then, in the same process, a
session a request, which is one.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from support import ldjson
from support.programs import OPTIONS, SERVERS, Program, clean_environment, guarded, running

PROGRAM = "pool_traffic.py"
KEEP_ALIVE_S = "0.1"
POOLED = "sockguard.socket.pooled"
INTERVAL_S = float(OPTIONS["interval"])

for library in ("requests", "httpx", "redis"):
    pytest.importorskip(library)


class Traffic(NamedTuple):
    """How many destinations, for how long, how often a second; and the guard's threshold."""

    http: int
    redis: int
    seconds: float
    a_second: float
    threshold_s: float = 0.3


A_LITTLE = Traffic(http=8, redis=4, seconds=2.5, a_second=30)
# Of a threshold, the searches for holders may take their share: two hundredths of a second.
AN_HOUR = Traffic(http=134, redis=66, seconds=70, a_second=40, threshold_s=1)

amounts = pytest.mark.parametrize(
    "traffic",
    [
        pytest.param(A_LITTLE, id="a little"),
        pytest.param(AN_HOUR, id="200 services", marks=pytest.mark.long),
    ],
)


class Scene(NamedTuple):
    """A program that has been healthy so far, and the servers that it asks."""

    program: Program
    servers: Program
    output: Path


@contextmanager
def traded(folder: Path, traffic: Traffic, level: str, **options: str) -> Iterator[Scene]:
    """Have services ask for a while; yield when all are idle, with what was recorded."""
    output, apart = folder / "found.jsonl", folder / "servers"
    apart.mkdir()
    serve = [sys.executable, SERVERS / PROGRAM, "serve", KEEP_ALIVE_S]
    serve += [str(traffic.http), str(traffic.redis)]
    trade = ["trade", str(traffic.seconds), str(traffic.a_second), str(traffic.http)]
    with (
        running(serve, apart, clean_environment()) as servers,
        guarded(
            output, PROGRAM, *trade, level=level, threshold=str(traffic.threshold_s), **options
        ) as program,
    ):
        program.tell(" ".join(servers.line()))
        while (said := program.line())[0] == "trading":
            pass
        assert said[0] == "healthy"
        assert int(said[1]) > traffic.seconds * traffic.a_second / 4, "next to no traffic"
        yield Scene(program, servers, output)
        assert servers.end() == 0


def fields(line: ldjson.Line) -> str:
    """Return what tells why a socket is accused."""
    names = ("kind", "verdict", "why", "holders", "created", "since_fin_s", "peer")
    return json.dumps({name: line[name] for name in names}, indent=1)


@amounts
@pytest.mark.parametrize("level", ["light", "full"])
def test_healthy_services_are_told_as_pooled_and_never_as_a_leak(
    tmp_path: Path, traffic: Traffic, level: str
) -> None:
    with traded(tmp_path, traffic, level, **{"exit-code": "9"}) as scene:
        assert scene.program.end() == 0, scene.program.errors()
    accused = [fields(line) for line in ldjson.leaks(scene.output)]
    assert not accused, accused[0]
    (summary,) = ldjson.lines(scene.output, ldjson.SUMMARY)
    assert (summary["leaked"], summary["groups"]) == (0, [])
    functions = {line["site"]["function"] for line in summary["pooled"]}
    assert functions == {"ask"}
    told = {line["why"].partition("(")[0] for line in ldjson.lines(scene.output, POOLED)}
    libraries = ("urllib3.", "httpcore.", "redis.")
    assert all(any(library in why for why in told) for library in libraries), told


def unix_time(text: str) -> float:
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


@amounts
def test_a_session_a_request_is_a_leak_within_two_thresholds_of_the_fifth_hang_up(
    tmp_path: Path, traffic: Traffic
) -> None:
    with traded(tmp_path, traffic, "full") as scene:
        assert not ldjson.leaks(scene.output)
        scene.program.tell("5")
        assert scene.program.line() == ["kept", "5"]
        hung_up = [float(word) for word in scene.servers.line()]
        leak = ldjson.wait_for_leaks(scene.output, 1)[0]
        assert scene.program.end() == 0
    assert leak["site"]["function"] == "answer_with_a_session_of_its_own"
    assert leak["verdict"] == "pooled"
    late_s = unix_time(leak["time"]) - max(hung_up)
    assert late_s <= 2 * traffic.threshold_s + 2 * INTERVAL_S, late_s
