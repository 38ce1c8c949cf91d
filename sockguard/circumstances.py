"""What the paths to a socket say: what kind of thing holds it, where that waits, in which queue."""

from __future__ import annotations

from types import FrameType
from typing import Any, Final

from sockguard import inside, paths
from sockguard.findings import HeldBy, Origin
from sockguard.holders import RESUMABLE, Path, RootKind, Search, frame_of
from sockguard.running import Spot
from sockguard.running import stacks as running_stacks
from sockguard.sites import is_library_module, is_ours
from sockguard.stacks import capture, resolve

_QUEUES: Final = frozenset(
    {
        "queue.Queue",
        "_queue.SimpleQueue",
        "asyncio.queues.Queue",
        "concurrent.futures.thread._WorkItem",
    }
)
_LIVE: Final = frozenset({RootKind.FRAME, RootKind.TASK, RootKind.THREAD})


def _is_asking(path: Path) -> bool:
    return path.spot is not None and path.spot.is_asking


def is_live(path: Path) -> bool:
    """Tell whether what runs has the socket itself, or what wraps it: not in a collection."""
    if path.kind not in _LIVE or _is_asking(path):
        return False
    things = path.things
    begin = 0
    if path.kind is RootKind.TASK:
        inner = [
            index for index, thing in enumerate(things) if inside.is_one_of(type(thing), RESUMABLE)
        ]
        begin = inner[-1] + 1 if inner else 1
        begin += type(things[begin]) is FrameType  # Python 3.10
    elif path.kind is RootKind.THREAD:  # its attributes, and the arguments of its target
        begin = next((i + 1 for i, thing in enumerate(things) if type(thing) is tuple), 1)
    return not paths.is_container(things[min(begin, len(things) - 1)])


def rank(path: Path) -> tuple[int, ...]:
    """Return by what paths are sorted: the program's own and short ones first."""
    module = path.module if path.spot is None else path.spot.module
    library = path.kind is RootKind.THREAD or (module is not None and is_library_module(module))
    return (
        path.kind is RootKind.LOOP,
        _is_asking(path),
        path.by_exception,
        library,
        len(path.things),
    )


def held_by(search: Search, found: list[Path]) -> HeldBy:
    """Return what kind of thing keeps the socket, by all paths to it."""
    if search.is_cycle:
        return HeldBy.CYCLE
    strong = [path for path in found if path.kind is not RootKind.LOOP]
    if not strong:
        return HeldBy.NAME if found else HeldBy.UNKNOWN
    if all(path.by_exception for path in strong):
        return HeldBy.EXCEPTION
    if all(map(is_live, strong)):
        return HeldBy.LIVE
    return HeldBy.NAME


def queue(found: list[Path]) -> str | None:
    """Return the way through a queue of work, in words, if there is one."""
    for path in found:
        for thing in path.things[:-1]:
            if any(inside.class_path(kind) in _QUEUES for kind in inside.mro(thing)):
                return paths.in_words(path)
    return None


def is_paused(thing: Any) -> bool:
    """Tell an asyncio transport that was told not to read."""
    names = {inside.class_path(kind) for kind in inside.mro(thing)}
    return "asyncio.transports.ReadTransport" in names and inside.read(thing, "_paused") is True


def chain(found: list[Path]) -> list[Any]:
    """Return what is on the way from the socket outward, running frames included."""
    chain: list[Any] = []
    for path in found:
        chain += reversed(path.things)
        if path.spot is not None:
            chain += _frames_of(path.spot)
    return chain


def _frames_of(spot: Spot) -> list[FrameType]:
    for ident, green, top in running_stacks():
        if ident == spot.thread and green == spot.greenlet:
            frame: FrameType | None = top
            frames = []
            while frame is not None:
                frames.append(frame)
                frame = frame.f_back
            return frames
    return []


def present(path: Path, depth: int) -> Origin | None:
    """Return where the thread, task or greenlet that holds the socket is now."""
    if path.kind is RootKind.TASK:
        return _task_now(path.top.thing, depth)
    ident = path.spot.thread if path.spot is not None else inside.read(path.top.thing, "_ident")
    green = path.spot is not None and path.spot.greenlet
    for running, is_green, top in running_stacks():
        if running == ident and is_green == green:
            stack = resolve(capture(top, depth))
            name = None if green else paths.thread_name(ident)
            return Origin(stack=tuple(f for f in stack if not is_ours(f)), thread=name)
    return None


def _task_now(task: Any, depth: int) -> Origin | None:
    coroutine = paths.coroutine_of(task)
    stack: list[Any] = []
    while inside.is_one_of(type(coroutine), RESUMABLE) and len(stack) < depth:
        frame = frame_of(coroutine)
        if frame is None:
            break
        stack += resolve(capture(frame, 1))[:1]
        coroutine = paths.awaited_by(coroutine)
    return Origin(stack=tuple(reversed(stack)), task=paths.task_name(task)) if stack else None
