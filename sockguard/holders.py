"""Who holds a socket? A bounded walk from it to something with a name, against the references.

Level by level: one pass of the collector over the heap finds what refers to the objects of a
level (``gc.get_referrers``: 10 ns a memory block, under the GIL); running frames, which it
does not see, are looked at by themselves. No code of the program runs (``inside``), and
nothing is kept: a ``Search`` holds objects of the program while it lasts, its paths too.

https://docs.python.org/3/library/gc.html#gc.get_referrers
"""

from __future__ import annotations

import enum
import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from itertools import islice
from types import (
    AsyncGeneratorType,
    CoroutineType,
    FrameType,
    GeneratorType,
    ModuleType,
    TracebackType,
)
from typing import Any, Final, NamedTuple

from sockguard import inside
from sockguard.heap import MAX_WIDTH, Heap
from sockguard.native import original
from sockguard.running import Spot, running_locals
from sockguard.sites import is_package_file

#: Processor time of one group's search, all in all; of one pass over the heap.
MAX_SEARCH_NS: Final = 300_000_000
#: Levels, objects of a level, and paths that are looked at.
MAX_LEVELS: Final = 28
MAX_PATHS: Final = 8
# Behind the first name found, other holders are looked for so many levels further.
_FURTHER: Final = 2
# Of the objects that were met, so many are asked for weak references to them.
_NEAR: Final = 4
_PAUSE_S: Final = 0.0005
# A busy machine makes a search late, not dear: the clock may take so much longer.
_CLOCK_TO_CPU: Final = 3
# What a whole program refers to has many referrers: the time is looked at every so many.
_GLANCE: Final = 512
# The references to a local variable's object when `getrefcount` is asked.
_MINE: Final = 2

RESUMABLE: Final = (GeneratorType, CoroutineType, AsyncGeneratorType)
_sleep: Final = original("time", "sleep")


class RootKind(enum.Enum):
    """What a path ends in."""

    MODULE = "module"
    CLASS = "class"
    #: A local variable of a running frame.
    FRAME = "frame"
    #: An asyncio task's coroutine, suspended.
    TASK = "task"
    THREAD = "thread"
    LOOP = "loop"
    #: A test or a fixture of pytest's, while it lasts.
    TEST = "test"


class Node:
    """An object on the way. ``child``: the one that it refers to, nearer to the socket."""

    __slots__ = ("child", "thing")

    def __init__(self, thing: Any, child: Node | None) -> None:
        self.thing = thing
        self.child = child

    def chain(self) -> Iterator[Node]:
        """Yield this node and those nearer to the socket, which comes last."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.child


class Path(NamedTuple):
    """A way from a name to the socket. ``top`` is the outermost object."""

    kind: RootKind
    top: Node
    spot: Spot | None = None
    #: Of a module global.
    module: str | None = None

    @property
    def things(self) -> list[Any]:
        """The objects on the way, the outermost first, the socket last."""
        return [node.thing for node in self.top.chain()]

    @property
    def by_exception(self) -> bool:
        """Whether the way leads through the traceback of an exception."""
        return any(type(node.thing) is TracebackType for node in self.top.chain())


class Search:
    """What holds one object. ``run`` once; ``close`` when its paths are put into words."""

    def __init__(
        self,
        target: Callable[[], object],
        heap: Heap,
        *,
        most_ns: int = MAX_SEARCH_NS,
        gives_up: Callable[[], bool] = lambda: False,
    ) -> None:
        """``target`` returns the object, to which the caller has no reference: they are counted.

        ``gives_up`` is asked between the steps: a fork must not find us at work.
        """
        self.target = target()
        self.paths: list[Path] = []
        #: No name reaches it: the collector will free it.
        self.is_cycle = False
        #: The outermost object that is referred to by what no pass shows: C code, or the
        #: stack of a running frame.
        self.unseen: Node | None = None
        #: Why the search ended before its end, in words.
        self.cut: str | None = None
        #: Given up for a fork: what was found is not to be used.
        self.is_interrupted = False
        self._heap = heap
        self._gives_up = gives_up
        self._cpu_end = time.thread_time_ns() + most_ns
        self._clock_end = time.monotonic_ns() + _CLOCK_TO_CPU * most_ns
        self._is_narrowed = False
        self._nodes: dict[int, Node] = {}
        self._incoming: dict[int, int] = {}
        self._spots: dict[int, list[Spot]] = {}
        self._running: set[int] = set()
        self._modules: dict[int, str] = {}
        self._threads: set[int] = set()

    def run(self) -> None:
        if self.target is None:  # freed meanwhile
            self.cut = "the socket is gone"
            return
        self._spots, self._running = running_locals()
        self._modules = _module_dicts()
        active = threading._active  # type: ignore[attr-defined]  # noqa: SLF001
        self._threads = set(map(id, active.copy().values()))
        edge = [self._meet(self.target, None)]
        levels_left = MAX_LEVELS
        while edge and levels_left > 0 and len(self.paths) < MAX_PATHS:
            if not self._heap.allows_a_pass():
                self.cut = "the heap is too large to be searched"
                return
            if self._gives_up():
                self.is_interrupted = True
                return
            if len(edge) > (width := self._heap.width()):
                edge, self._is_narrowed = edge[:width], True
            if self._is_over(self._heap.pass_ns(len(edge))):
                self.cut = "the search ran out of time"
                return
            levels_left -= 1
            was_named = self._is_named()
            edge = self._level(edge)
            if self.cut is not None:
                return
            if self._is_named() and not was_named:
                levels_left = min(levels_left, _FURTHER)
            _sleep(_PAUSE_S)  # the GIL let go
        if edge and not self._is_named():
            self.cut = "no name within reach"
        elif not self.paths:
            self._weigh()
        elif all(path.by_exception for path in self.paths):
            self._weigh()
            is_all, self.is_cycle = self.is_cycle, False
            if not is_all:
                self.unseen = None
                self.cut = "something else refers to it that cannot be looked into"

    def _is_over(self, next_ns: int) -> bool:
        """Tell whether there is no time for a step that takes so long."""
        is_late = time.monotonic_ns() > self._clock_end
        return is_late or time.thread_time_ns() + next_ns > self._cpu_end

    def _is_named(self) -> bool:
        """Whether a name was found. What runs, and a traceback, prove nothing of being alone."""
        named = (RootKind.MODULE, RootKind.CLASS, RootKind.TEST)
        return any(path.kind in named and not path.by_exception for path in self.paths)

    def farthest(self) -> list[Any]:
        """Return the objects from the one farthest from the socket to the socket."""
        farthest = next(reversed(self._nodes.values()))
        return [node.thing for node in farthest.chain()]

    def weakly(self) -> list[Any]:
        """Return the weak references of the program to the socket and to what wraps it.

        They hold nothing. ``SocketRecord`` and those of our own are left out.
        """
        near = [node.thing for node in islice(self._nodes.values(), _NEAR)]
        found = []
        for thing in near:
            try:
                found += [ref for ref in weakref.getweakrefs(thing) if not _is_ours(ref)]
            except TypeError:
                continue
        return found

    def close(self) -> None:
        """Let go of every object of the program."""
        self.target = self.unseen = None
        # Whoever has a node yet, as an exception's traceback may, has nothing of the program.
        for node in (*self._nodes.values(), *(path.top for path in self.paths)):
            node.thing = node.child = None
        self.paths.clear()
        self._nodes.clear()

    def _meet(self, thing: Any, child: Node | None) -> Node:
        node = self._nodes[id(thing)] = Node(thing, child)
        for spot in self._spots.get(id(thing), ())[:MAX_PATHS]:
            self.paths.append(Path(RootKind.FRAME, node, spot))
        return node

    def _level(self, edge: list[Node]) -> list[Node]:
        things = [node.thing for node in edge]
        known = {id(node.thing): node for node in edge}
        began = time.thread_time_ns()
        referrers = gc.get_referrers(*things)
        if sys.version_info < (3, 12):
            referrers += _tasks()
        self._heap.learn(time.thread_time_ns() - began, len(things))
        hidden = {id(things), id(known), id(self._nodes), id(self.paths), id(self.__dict__)}
        found: list[Node] = []
        while referrers:
            if not len(referrers) % _GLANCE and self._is_over(0):
                self.cut = "the search ran out of time"
                break
            thing = referrers.pop()
            if id(thing) in hidden or thing is self or type(thing) is Node or type(thing) is Path:
                continue
            if type(thing) is FrameType and self._is_running(thing):
                continue
            if sys.getrefcount(thing) <= _MINE:  # on 3.13, the tuple of this call's arguments
                continue
            children = [known[id(item)] for item in gc.get_referents(thing) if id(item) in known]
            for child in children:
                key = id(child.thing)
                self._incoming[key] = self._incoming.get(key, 0) + 1
            if not children or id(thing) in self._nodes:
                continue
            child = _best_named(thing, children)
            if (path := self._root(thing, child)) is not None:
                self.paths.append(path)
            elif len(found) >= MAX_WIDTH:
                self._is_narrowed = True
            elif not _is_beside_the_point(thing):
                found.append(self._meet(thing, child))
        return found

    def _is_running(self, frame: FrameType) -> bool:
        return id(frame) in self._running or is_package_file(frame.f_code.co_filename)

    def _root(self, thing: Any, child: Node) -> Path | None:
        if (module := self._modules.get(id(thing))) is not None:
            return Path(RootKind.MODULE, Node(thing, child), module=module)
        if inside.isinstance_of(thing, type):
            return Path(RootKind.CLASS, Node(thing, child))
        if is_task(thing) and not is_done(thing):
            return Path(RootKind.TASK, Node(thing, child))
        if inside.isinstance_of(thing, threading.Thread) and id(thing) in self._threads:
            return Path(RootKind.THREAD, Node(thing, child))
        if _is_test(thing):
            return Path(RootKind.TEST, Node(thing, child))
        if _is_loop(thing):
            return Path(RootKind.LOOP, Node(thing, child))
        return None

    def _weigh(self) -> None:
        """No name was found: is every reference accounted for? Then it is a cycle."""
        for key, node in self._nodes.items():
            extra = _references(node) - self._incoming.get(key, 0)
            if node.thing is self.target:
                extra -= 1  # our attribute
            if extra > 0:
                self.unseen = node
        is_whole = self.unseen is None and not self._is_narrowed
        self.is_cycle = is_whole and len(self._nodes) > 1

    @property
    def things(self) -> list[Any]:
        """All objects that were met, the socket first."""
        return [node.thing for node in self._nodes.values()]


def _best_named(thing: Any, children: list[Node]) -> Node:
    """Return the child to go by: of a frame's, one whose variable is not called ``_``."""
    if len(children) > 1 and (inside.is_one_of(type(thing), RESUMABLE) or type(thing) is FrameType):
        frame = thing if type(thing) is FrameType else frame_of(thing)
        named = {} if frame is None else inside.locals_of(frame)
        known = {id(value) for name, value in named.items() if not name.startswith("_")}
        return next((child for child in children if id(child.thing) in known), children[0])
    return children[0]


def frame_of(thing: Any) -> FrameType | None:
    """Return the frame of a suspended generator or coroutine."""
    for name in ("gi_frame", "cr_frame", "ag_frame"):
        if hasattr(type(thing), name):
            frame: FrameType | None = getattr(thing, name)
            return frame
    return None


def _references(node: Node) -> int:
    """Return how many references there are to the node's object but our own."""
    return sys.getrefcount(node.thing) - _MINE


def is_task(thing: object) -> bool:
    """Tell an asyncio task, made in C or in Python."""
    asyncio = sys.modules.get("asyncio.tasks")
    kinds = (getattr(asyncio, "Task", None), getattr(asyncio, "_PyTask", None))
    return any(base is kind for base in inside.mro(thing) for kind in kinds)


def is_done(task: Any) -> bool:
    """Tell whether a task has ended: it is an object as any other then."""
    state = inside.read(task, "_state")
    if state is None:
        state = sys.modules["_asyncio"].Task.__dict__["_state"].__get__(task)
    return bool(state != "PENDING")


def _tasks() -> list[Any]:
    """Return all tasks: up to Python 3.11 no pass shows what one has as its result.

    TaskObj_traverse drops what FutureObj_traverse returns.
    """
    known = inside.read(sys.modules.get("asyncio.tasks"), "_all_tasks", "data")
    alive = (reference() for reference in list(known or ()))
    return [task for task in alive if task is not None]


def _is_loop(thing: object) -> bool:
    """Tell an event loop or its selector: they reach all that waits, and own none of it."""
    named = (("asyncio.events", "AbstractEventLoop"), ("selectors", "BaseSelector"))
    kinds = [getattr(sys.modules.get(module), name, None) for module, name in named]
    return any(base is kind for base in inside.mro(thing) for kind in kinds)


def _is_ours(reference: object) -> bool:
    return inside.class_path(type(reference)).startswith("sockguard.")


def _is_test(thing: object) -> bool:
    named = ("_pytest.nodes.Node", "_pytest.fixtures.FixtureDef")
    return any(inside.class_path(base) in named for base in inside.mro(thing))


def _is_beside_the_point(thing: object) -> bool:
    # Modules come as their dictionaries; what all modules are in is no holder. Nor is the
    # registry of `weakref.finalize`: it keeps its arguments for an object that lives.
    if thing is sys.modules or inside.isinstance_of(thing, ModuleType):
        return True
    path = inside.class_path(type(thing))
    return path == "weakref.finalize._Info" or path.startswith("sockguard.")


def _module_dicts() -> dict[int, str]:
    found = {}
    for name, module in sys.modules.copy().items():
        if type(name) is not str or name.partition(".")[0] == "sockguard":
            continue
        if inside.isinstance_of(module, ModuleType):
            own = inside.instance_dict(module)
            if own is not None and id(own) not in found:
                found[id(own)] = name
    return found
