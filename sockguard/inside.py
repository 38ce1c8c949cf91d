"""Reading objects of the program without running any of its code.

No attribute is asked for, nothing is compared, hashed or put into words by the object:
``__getattr__``, ``__eq__``, ``__hash__``, ``__repr__``, properties and ``__iter__`` of the
program never run. Values come from instance dictionaries, slots and C members.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from types import (
    FrameType,
    GetSetDescriptorType,
    MemberDescriptorType,
)
from typing import Any, Final

#: Items of a container that are looked at.
MAX_ITEMS: Final = 100_000
# inspect.CO_OPTIMIZED: the locals are in slots, and ``f_locals`` is a snapshot of them.
_CO_OPTIMIZED: Final = 1
# Code that names one of these may have asked for its snapshot, and shares it with us.
_SNAPSHOT_TAKERS: Final = frozenset({"locals", "vars", "dir", "eval", "exec"})
# Up to 3.12 a look at ``f_locals`` leaves a snapshot in the frame. PEP 667
_HAS_SNAPSHOTS: Final = sys.version_info < (3, 13)
# References to a snapshot: the frame's, a variable's, an argument's.
_OURS: Final = 3

_members: Final[Any] = type.__dict__["__dict__"].__get__
_mro: Final[Any] = type.__dict__["__mro__"].__get__
_module: Final[Any] = type.__dict__["__module__"].__get__
_qualname: Final[Any] = type.__dict__["__qualname__"].__get__

# A module's is a member.
_DICT_DESCRIPTORS: Final = (GetSetDescriptorType, MemberDescriptorType)
_absent: Final = object()


def mro(thing: object) -> tuple[type, ...]:
    """Return the classes of ``thing``, its own first, past any metaclass."""
    found: tuple[type, ...] = _mro(type(thing))
    return found


def class_name(kind: type) -> str:
    """Return ``Connection``, as ``__qualname__`` has it."""
    return str(_qualname(kind))


def class_path(kind: type) -> str:
    """Return ``package.module.Class``."""
    own = _members(kind).get("__module__")
    module = _module(kind) if own is None else own
    name = class_name(kind)
    return f"{module}.{name}" if type(module) is str and module != "builtins" else name


def instance_dict(thing: object) -> dict[str, Any] | None:
    """Return the dictionary of attributes; ``None`` if the object has none.

    CPython makes one for an object that had none yet; what it holds does not change.
    """
    for kind in mro(thing):
        descriptor = _members(kind).get("__dict__")
        # A module's is a member.
        if is_one_of(type(descriptor), (GetSetDescriptorType, MemberDescriptorType)):
            try:
                found = descriptor.__get__(thing)
            except (AttributeError, TypeError):
                return None
            return found if isinstance(found, dict) else None
    return None


def slots(thing: object) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of filled slots and C members."""
    for kind in mro(thing):
        for name, descriptor in list(_members(kind).items()):
            if type(descriptor) is MemberDescriptorType and type(name) is str:
                try:
                    yield name, descriptor.__get__(thing)
                except (AttributeError, TypeError, SystemError):
                    continue


def attributes(thing: object) -> Iterator[tuple[str, Any]]:
    """Yield what an object itself has: its dictionary's entries, then its slots."""
    own = instance_dict(thing)
    if own is not None:
        for name, value in list(dict.items(own)):
            if type(name) is str:
                yield name, value
    yield from slots(thing)


def read(thing: object, *names: str) -> Any:
    """Follow attributes, in turn; ``None`` where one is missing.

    An attribute is looked for in the object's dictionary, its slots, then in its classes,
    where only what is no descriptor counts. A private name is given as the dictionary has
    it (``_Pool__idle``).
    """
    for name in names:
        thing = _read_one(thing, name)
        if thing is _absent:
            return None
    return thing


def _read_one(thing: object, name: str) -> Any:
    own = instance_dict(thing)
    if own is not None and (value := dict.get(own, name, _absent)) is not _absent:
        return value
    for kind in mro(thing):
        found = _members(kind).get(name, _absent)
        if type(found) is MemberDescriptorType:
            try:
                return found.__get__(thing)
            except (AttributeError, TypeError, SystemError):
                return _absent
        if found is not _absent:
            has_get = any("__get__" in _members(base) for base in mro(found))
            return _absent if has_get else found
    return _absent


def items(container: Any) -> list[Any]:
    """Return what a list, tuple, set, deque or the values of a dict hold, subclasses included."""
    for _ in range(3):  # another thread may change it meanwhile
        try:
            return _items(container)
        except RuntimeError:
            continue
    return []


def _items(container: Any) -> list[Any]:
    if isinstance_of(container, list):
        found: list[Any] = list.__getitem__(container, slice(MAX_ITEMS))
        return found
    if isinstance_of(container, tuple):
        return list(tuple.__getitem__(container, slice(MAX_ITEMS)))
    for kind in (set, frozenset, deque):
        if isinstance_of(container, kind):
            return list(islice(kind.__iter__(container), MAX_ITEMS))
    if isinstance_of(container, dict):
        return list(dict.values(container))[:MAX_ITEMS]
    return []


def isinstance_of(thing: object, kind: type) -> bool:
    """Tell an instance, past ``__class__`` and ``__instancecheck__`` of the program."""
    return any(base is kind for base in mro(thing))


def locals_of(frame: FrameType) -> dict[str, Any]:
    """Return a copy of a frame's local variables; empty where a look would be noticed.

    Up to Python 3.12 the look itself leaves a snapshot in the frame, which would keep
    alive what the function has let go of: it is cleared again. Frames that may use theirs
    (``locals()``, a debugger) are left out, and so are those of modules and classes.
    """
    code = frame.f_code
    if not code.co_flags & _CO_OPTIMIZED:
        return {}
    if not _HAS_SNAPSHOTS:
        return dict(frame.f_locals)
    if frame.f_trace is not None or not _SNAPSHOT_TAKERS.isdisjoint(code.co_names):
        return {}
    snapshot = frame.f_locals
    copy = dict(snapshot)
    if sys.getrefcount(snapshot) <= _OURS:  # else the program keeps it: as it was before us
        snapshot.clear()
    return copy


def local(frame: FrameType, name: str) -> Any:
    """Return one local variable of a frame; ``None`` if it has none of the name."""
    return locals_of(frame).get(name)


def text(value: object) -> str:
    """Return a text that is one, past subclasses of ``str``; ``?`` for anything else."""
    return str.__str__(value) if type(value) is str else "?"


def is_one_of(kind: type, kinds: Iterable[type]) -> bool:
    """Tell by identity: ``in`` would ask the metaclass for ``__eq__``."""
    return any(kind is each for each in kinds)
