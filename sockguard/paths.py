"""The way from a name to a socket, in words: ``app.POOL -> Pool._idle[2] -> Connection._sock``."""

from __future__ import annotations

import gc
import sys
from collections import deque
from collections.abc import Sequence
from types import (
    CellType,
    CodeType,
    FrameType,
    FunctionType,
    MethodType,
    TracebackType,
)
from typing import Any, Final

from sockguard import inside
from sockguard.holders import RESUMABLE, Path, RootKind, frame_of, is_task
from sockguard.sites import module_name

#: Characters of a key, of a path.
MAX_KEY: Final = 40
MAX_PATH: Final = 400
_PLAIN_KEYS: Final = (str, bytes, int, bool, float, type(None))
_SEQUENCES: Final = (list, tuple, deque)
_SETS: Final = (set, frozenset)


def in_words(path: Path) -> str:
    """Return the path as a person reads it, from the name to the socket. Runs no program code."""
    things = path.things
    if path.kind is RootKind.MODULE:
        text = module_title(path.module or "?") + _key_of(things[0], things[1], ".")
        rest = things[1:]
    elif path.kind is RootKind.CLASS:
        skip = 2 if type(things[1]) is dict else 1
        key = _key_of(things[1], things[2], ".") if skip == 2 else ""
        text = inside.class_path(things[0]).replace("__main__", module_title("__main__")) + key
        rest = things[skip:]
    elif path.kind is RootKind.FRAME and path.spot is not None:
        spot = path.spot
        who = "greenlet" if spot.greenlet else f"thread {thread_name(spot.thread)}"
        text = f"{who} in {function_title(spot.module, spot.code)}: {spot.name}"
        rest = things
    elif path.kind is RootKind.TASK:
        text, rest = _of_task(things)
    elif path.kind is RootKind.THREAD:
        text = f"thread {inside.read(things[0], '_name')}"
        rest = things
    elif path.kind is RootKind.TEST:
        fixture = inside.read(things[0], "argname")
        name = inside.text(fixture or inside.read(things[0], "name"))
        text = f"fixture {name}" if fixture is not None else f"test {name}"
        rest = things
    else:
        text = "the event loop"
        rest = things
    text += "".join(_hops(rest))
    return text if len(text) <= MAX_PATH else text[: MAX_PATH - 1] + "…"


def cycle_in_words(things: Sequence[Any]) -> str:
    """Return a way through a cycle that nothing else reaches."""
    return "a cycle: " + "".join(_hops(things)).removeprefix(" -> ")


def unseen_in_words(things: Sequence[Any]) -> str:
    """Return the way from what can't be looked into: C code, or a running frame's stack."""
    return "something that cannot be looked into (C code, or a frame's stack)" + "".join(
        _hops(things)
    )


def _of_task(things: list[Any]) -> tuple[str, list[Any]]:
    name = inside.read(things[0], "_name") if _has_dict(things[0]) else task_name(things[0])
    inner = 1
    for index, thing in enumerate(things):
        if inside.is_one_of(type(thing), RESUMABLE):
            inner = index
    coroutine = things[inner]
    if not inside.is_one_of(type(coroutine), RESUMABLE):
        return f"task {name}", things
    text = f"task {name} in {_title(coroutine)}"
    following = things[inner + 1]
    if type(following) is FrameType and inner + 2 < len(things):  # Python 3.10
        return text + _local_of(following, things[inner + 2]), things[inner + 2 :]
    return text + _local_of(frame_of(coroutine), following), things[inner + 1 :]


def task_name(task: Any) -> str:
    """Return the name that a task made in C was given."""
    try:
        return str(sys.modules["_asyncio"].Task.get_name(task))
    except (KeyError, TypeError):
        return "?"


def thread_name(ident: int) -> str:
    thread = sys.modules["threading"]._active.get(ident)  # noqa: SLF001
    return "?" if thread is None else str(thread._name)  # noqa: SLF001


def _has_dict(thing: object) -> bool:
    return inside.instance_dict(thing) is not None


def module_title(name: str) -> str:
    """Return a module's name; of ``__main__``, that of its file."""
    if name != "__main__":
        return name
    own = inside.instance_dict(sys.modules.get(name)) or {}
    spec_name = inside.read(own.get("__spec__"), "name")
    if type(spec_name) is str:
        return spec_name.removesuffix(".__main__")
    file = own.get("__file__")
    return module_name(file) if type(file) is str else name


def function_title(module: str, code: CodeType) -> str:
    """Return ``app.Pool.get``; up to Python 3.10 code does not know its class."""
    return f"{module_title(module)}.{getattr(code, 'co_qualname', code.co_name)}"


def _hops(things: Sequence[Any]) -> list[str]:
    parts: list[str] = []
    index = 0
    while index < len(things) - 1:
        text, used = _hop(things, index)
        parts.append(text)
        index += used
    return parts


def _hop(things: Sequence[Any], index: int) -> tuple[str, int]:
    """Return the text of the step from ``things[index]`` on, and how many objects it takes."""
    thing, child = things[index], things[index + 1]
    further = things[index + 2] if index + 2 < len(things) else None
    kind = type(thing)
    if inside.isinstance_of(thing, FunctionType):
        return _of_function(things, index)
    if inside.is_one_of(kind, RESUMABLE):
        if inside.is_one_of(type(child), RESUMABLE):
            return "", 1  # it awaits that one
        if type(child) is FrameType and further is not None:  # Python 3.10
            return f" -> {_resumable(thing)}{_local_of(child, further)}", 2
        return f" -> {_resumable(thing)}{_local_of(frame_of(thing), child)}", 1
    if kind is FrameType:
        return f" -> {_title(thing)}{_local_of(thing, child)}", 1
    if kind is TracebackType:
        return "", 1
    if kind is MethodType:
        return f" -> method {_function_name(thing.__func__)}.__self__", 1
    if inside.class_path(kind) == "functools._lru_cache_wrapper":
        return " (lru_cache)", 1
    if any(inside.class_name(base) == "_local" for base in inside.mro(thing)):
        if further is not None and type(child) is type(further) is dict and index + 3 < len(things):
            # Its table of threads, a thread's variables.
            return f" (threading.local){_key_of(further, things[index + 3], '.')}", 3
        return " (threading.local)", 1
    if kind is CellType:
        return " (closure)", 1
    if is_container(thing):
        return _key_of(thing, child, None), 1
    if further is not None and child is inside.instance_dict(thing):
        return f" -> {_name(thing)}{_key_of(child, further, '.')}", 2
    attribute = next((n for n, value in inside.attributes(thing) if value is child), None)
    if attribute is None and inside.isinstance_of(thing, BaseException):
        attribute = "__traceback__" if type(child) is TracebackType else _cause(thing, child)
    if attribute is None and is_task(thing):
        attribute = "result()"
    if attribute is None:
        return f" ({_name(thing)})", 1
    return f" -> {_name(thing)}.{attribute}", 1


def _cause(error: BaseException, child: Any) -> str | None:
    for name in ("__context__", "__cause__", "args"):
        if BaseException.__dict__[name].__get__(error) is child:
            return name
    return None


def _of_function(things: Sequence[Any], index: int) -> tuple[str, int]:
    function, child = things[index], things[index + 1]
    title = f" -> function {_function_name(function)}"
    closure = function.__closure__
    if closure is not None and child is closure and index + 3 < len(things):
        cell = things[index + 2]
        for name, other in zip(function.__code__.co_freevars, closure, strict=False):
            if other is cell:
                return f"{title}: {name} (closure)", 3
    if child is function.__defaults__ or child is function.__kwdefaults__:
        return f"{title}: default", 1
    return title, 1


def _function_name(function: Any) -> str:
    if not inside.isinstance_of(function, FunctionType):
        return _name(function)
    return f"{module_title(inside.text(function.__module__))}.{inside.text(function.__qualname__)}"


def _resumable(thing: Any) -> str:
    kind = {"async_generator": "async generator"}.get(type(thing).__name__, type(thing).__name__)
    return f"{kind} {_title(thing)}"


def coroutine_of(task: Any) -> Any:
    """Return what a task runs."""
    if _has_dict(task):
        return inside.read(task, "_coro")
    return sys.modules["_asyncio"].Task.get_coro(task)


def awaited_by(resumable: Any) -> Any:
    """Return what a coroutine, generator or async generator waits for; ``None`` if for nothing."""
    for name in ("cr_await", "gi_yieldfrom", "ag_await"):
        if hasattr(type(resumable), name):
            awaited = getattr(resumable, name)
            if inside.is_one_of(type(awaited), RESUMABLE) or awaited is None:
                return awaited
            inner = (
                item
                for item in gc.get_referents(awaited)
                if inside.is_one_of(type(item), RESUMABLE)
            )
            return next(inner, None)  # an async generator's next item
    return None


def _title(thing: Any) -> str:
    frame = thing if inside.isinstance_of(thing, FrameType) else frame_of(thing)
    if frame is None:
        return inside.text(thing.__qualname__)
    return function_title(inside.text(dict.get(frame.f_globals, "__name__")), frame.f_code)


def _local_of(frame: FrameType | None, child: Any) -> str:
    if frame is None:
        return ""
    found = (name for name, value in inside.locals_of(frame).items() if value is child)
    name = next(found, None)
    return "" if name is None else f": {name}"


def is_container(thing: Any) -> bool:
    """Tell a list, tuple, deque, set or dict, subclasses included."""
    return any(inside.is_one_of(base, (*_SEQUENCES, *_SETS, dict)) for base in inside.mro(thing))


def _name(thing: Any) -> str:
    return inside.class_name(type(thing))


def _key_of(container: Any, child: Any, attribute: str | None) -> str:
    """Return under what ``child`` stands: ``[2]``, ``['key']``, ``.name``, ``{…}``."""
    for base in inside.mro(container):
        if base is dict:
            return _dict_key(container, child, attribute)
        if inside.is_one_of(base, _SEQUENCES):
            for index, item in enumerate(inside.items(container)):
                if item is child:
                    return f"[{index}]"
            return "[…]"
        if inside.is_one_of(base, _SETS):
            return "{…}"
    return ""


def _dict_key(container: Any, child: Any, attribute: str | None) -> str:
    try:
        for key, value in dict.items(container):
            if value is child:
                if attribute is not None and type(key) is str:
                    return attribute + key
                return f"[{_key(key)}]"
    except RuntimeError:  # it changed meanwhile
        pass
    return "[…]"


def _key(key: Any) -> str:
    if inside.is_one_of(type(key), _PLAIN_KEYS):
        text = repr(key)
        return text if len(text) <= MAX_KEY else text[: MAX_KEY - 1] + "…"
    if type(key) is tuple:
        return "(" + ", ".join(_key(item) for item in key[:4]) + ")"
    return f"<{_name(key)}>"
