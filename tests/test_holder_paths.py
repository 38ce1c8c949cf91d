"""Who holds it? One program for each way of holding a socket; the path must be the real one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from situations.staging import (
    SITUATIONS as FOLDER,
)
from situations.staging import (
    Report,
    Situation,
    check,
    performances,
    rows,
    selected,
)
from support.ldjson import leaks, wait_for_leaks
from support.programs import guarded

OUT_OF_SIGHT = r".*(cannot be looked into|C code).*"

SITUATIONS = (
    Situation(
        program="global_dict",
        verdict="unread",
        held=(r"{app}\.CONNECTIONS\['billing'\]",),
    ),
    Situation(
        program="nested_containers",
        verdict="unread",
        held=(r"{app}\.TABLE\['eu'\]\['busy'\]\[1\]",),
    ),
    Situation(
        program="class_attribute",
        verdict="unread",
        held=(r"{app}\.Client\.shared -> Client\._sock",),
    ),
    Situation(
        program="slotted_instance",
        verdict="unread",
        held=(r"{app}\.CLIENTS\[0\] -> Slim\.sock",),
    ),
    Situation(
        program="bound_method",
        verdict="unread",
        held=(r"{app}\.CALLBACKS\[0\] -> method .*Client\.close.* -> Client\._sock",),
    ),
    Situation(
        program="partial_in_list",
        verdict="unread",
        held=(r"{app}\.JOBS\[0\] -> partial\.args\[0\]",),
    ),
    Situation(
        program="closure_in_list",
        verdict="unread",
        held=(
            r"{app}\.CALLBACKS\[0\] -> function {app}\.make\.<locals>\.callback: sock \(closure\)",
        ),
    ),
    Situation(
        program="cached_function",
        verdict="unread",
        held=(r"{app}\.connect \(lru_cache\)",),
    ),
    Situation(
        program="thread_local",
        verdict="unread",
        held=(r"{app}\.LOCAL \(threading\.local\)(: |\.)sock",),
    ),
    Situation(
        program="thread_local_of_worker",
        verdict="unread",
        held=(r"{app}\.LOCAL \(threading\.local\)(: |\.)sock",),
    ),
    Situation(
        program="generator_suspended",
        verdict="unread",
        held=(r"{app}\.ROWS\[0\] -> generator {app}\.rows: sock",),
    ),
    Situation(
        program="async_generator_suspended",
        verdict="unread",
        held=(r"{app}\.ROWS\[0\] -> async generator {app}\.rows: sock",),
    ),
    Situation(
        program="stream_writer_kept",
        verdict="eof_ignored",
        held=(
            r"{app}\.WRITERS\[0\] -> StreamWriter\._transport -> _SelectorSocketTransport\._sock",
        ),
    ),
    Situation(
        program="aiohttp_response",
        verdict="unread",
        held=(r"{app}\.RESPONSES\[0\] -> ClientResponse\..* -> _SelectorSocketTransport\._sock",),
        needs=("aiohttp",),
    ),
    Situation(
        program="exit_stack",
        verdict="unread",
        held=(r"{app}\.STACK -> ExitStack\._exit_callbacks\[0\].*",),
    ),
    Situation(
        program="tls_socket",
        verdict="unread",
        held=(r"{app}\.CONNECTIONS\['tls'\]",),
        needs=("trustme",),
    ),
    Situation(
        program="weak_values",
        verdict="unread",
        held=(r"{app}\.KEPT\[0\]",),
        never=r"(?!.*weak).*KNOWN.*",
    ),
    Situation(program="exit_callback", verdict="unread", held=(OUT_OF_SIGHT,)),
    Situation(program="object_without_gc", verdict="unread", held=(OUT_OF_SIGHT,)),
    Situation(program="numpy_array", verdict="unread", held=(OUT_OF_SIGHT,), needs=("numpy",)),
)

QUICK = {
    "global_dict",
    "class_attribute",
    "closure_in_list",
    "cached_function",
    "thread_local",
    "generator_suspended",
    "stream_writer_kept",
    "weak_values",
    "exit_callback",
}


@pytest.fixture(scope="module")
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Report]]]:
    with performances(selected(request), tmp_path_factory.mktemp("holders")) as futures:
        yield futures


@pytest.mark.parametrize("situation", rows(SITUATIONS, QUICK))
def test_the_path_is_the_real_one(situation: Situation, running: dict[str, Future[Report]]) -> None:
    check(situation, running)


def test_a_look_at_frames_keeps_nothing_alive(tmp_path: Path) -> None:
    output = tmp_path / "leaks.jsonl"
    with guarded(output, str(FOLDER / "frames_let_go.py"), explain="5") as program:
        fds = json.loads(" ".join(program.line()))["fds"]
        found = wait_for_leaks(output, len(fds))
        assert {line["fd"] for line in found} == set(fds.values())
        by_fd = {line["fd"]: line["holders"] for line in found}
        # Each was found where it stands: so the frames have been looked at.
        held = {kind: by_fd[fd] for kind, fd in fds.items() if kind != "own_snapshot"}
        assert all(paths and kind in paths[0] for kind, paths in held.items()), held
        program.tell("let go")
        said = json.loads(" ".join(program.line()))
        assert said["open"] == []
        assert said["freed"] == sorted(fds)
        assert len(said["alive"]) == len(fds), "a frame has ended: that proves nothing"
        assert (program.end(), program.errors()) == (0, "")


def test_hostile_objects_are_not_touched(tmp_path: Path) -> None:
    output = tmp_path / "leaks.jsonl"
    with guarded(output, str(FOLDER / "hostile.py"), explain="5") as program:
        fds = json.loads(" ".join(program.line()))["fds"]
        found = wait_for_leaks(output, len(fds))
        program.tell("count")
        said = json.loads(" ".join(program.line()))
        assert said == {"calls": {}}
        assert (program.end(), program.errors()) == (0, "")
    assert len(leaks(output)) == len(fds)
    by_fd = {line["fd"]: line["holders"] for line in found}
    wanted = {
        "attribute": r"hostile\.KEPT\[0\] -> Hostile\.sock",
        "slot": r"hostile\.KEPT\[1\] -> Slim\.sock",
        "value": r"hostile\.TABLE\[<Hostile>\]",
        "item": r"hostile\.ITEMS\[1\]",
        "member": r"hostile\.KEPT\[2\]\{…\}",
        # A function's module and name, a frame's module: no text that could be trusted.
        "function": r"hostile\.KEPT\[3\] -> function .*: sock \(closure\)",
        "exception": r"hostile\.KEPT\[4\] -> Error\.__traceback__ -> hostile\.fail: sock",
        "class": r"hostile\.Hostile\.shared",
        "frame": r"thread hostile in .*wait: holder -> Hostile\.sock",
    }
    for kind, pattern in wanted.items():
        assert re.fullmatch(pattern, by_fd[fds[kind]][0]), by_fd[fds[kind]]
