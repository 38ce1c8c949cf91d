"""Does a value reach a socket? A bounded walk over what the collector knows of objects.

No code of the program runs: references are followed as the garbage collector follows them.
"""

from __future__ import annotations

import gc
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from types import (
    CodeType,
    FrameType,
    FunctionType,
    ModuleType,
)
from typing import Any, Final

# Values of fixtures are small; who keeps a heap in one has its end cut off, not the test slowed.
MAX_OBJECTS: Final = 100_000
_BATCH: Final = 500

_OPAQUE: Final = (type, ModuleType, CodeType, str, bytes, int, float)
_HOSTS: Final = ("_pytest.", "pluggy.", "xdist.", "pytest_asyncio.", "anyio.pytest_plugin")


def _loops() -> tuple[type, ...]:
    # An event loop reaches whatever waits in it, and owns none of that.
    asyncio = sys.modules.get("asyncio")
    named = (getattr(asyncio, name, None) for name in ("AbstractEventLoop", "Runner"))
    return tuple(kind for kind in named if isinstance(kind, type))


# Past whatever a metaclass of the program overrides.
_mro: Final = type.__dict__["__mro__"].__get__
_members: Final = type.__dict__["__dict__"].__get__


def _is_opaque(thing: object, opaque: frozenset[int]) -> bool:
    kind = type(thing)
    if not opaque.isdisjoint(map(id, _mro(kind))):
        return True
    module = _members(kind).get("__module__")
    return type(module) is str and module.startswith(_HOSTS)


def _referents(things: Iterable[object]) -> Iterator[Any]:
    plain = []
    for thing in things:
        if type(thing) is FunctionType:  # its globals are the module's, not its own
            yield from (
                item
                for item in gc.get_referents(thing)
                if item is not thing.__globals__
                and item is not getattr(thing, "__builtins__", None)
            )
        elif type(thing) is FrameType:
            if thing.f_back is None:  # suspended: a generator's
                yield from (
                    item
                    for item in gc.get_referents(thing)
                    if item is not thing.f_globals and item is not thing.f_builtins
                )
        else:
            plain.append(thing)
    yield from gc.get_referents(*plain)


def reached(root: object, wanted: Iterable[object], limit: int = MAX_OBJECTS) -> set[int]:
    """Return the ``id`` of those of ``wanted`` that ``root`` keeps, directly or not.

    Breadth first, ``limit`` references at most, some 10 to 30 ms for all of them. Weak
    references, modules, classes, functions' globals, event loops and pytest's own objects
    are not followed. Any thread.
    """
    goals = {id(thing) for thing in wanted}
    opaque = frozenset(map(id, (*_OPAQUE, *_loops())))
    known = {id(root)}
    found = known & goals
    edge = deque() if _is_opaque(root, opaque) else deque([root])
    left = limit
    while edge and left > 0 and found != goals:
        batch = [edge.popleft() for _ in range(min(len(edge), _BATCH))]
        for thing in islice(_referents(batch), left):
            left -= 1
            key = id(thing)
            if thing is None or key in known or _is_opaque(thing, opaque):
                continue
            known.add(key)
            edge.append(thing)
            if key in goals:
                found.add(key)
    return found
