"""What runs: the frames of threads and greenlets, and where objects stand in their variables."""

from __future__ import annotations

import gc
import sys
from _thread import get_ident
from itertools import islice
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

from sockguard import inside
from sockguard.sites import is_package_file

_MAX_FRAMES: Final = 2000


class Spot(NamedTuple):
    """A local variable of a running frame, in words and numbers: the frame is not kept."""

    thread: int
    code: CodeType
    module: str
    name: str
    #: It runs in the thread that asks: no proof that anything is stuck.
    is_asking: bool
    greenlet: bool = False


def running_locals() -> tuple[dict[int, list[Spot]], set[int]]:
    """Return where objects stand in local variables of running frames, by ``id``; the frames'.

    All threads, and suspended greenlets; 2 µs a frame. Keeps neither frame nor value.
    """
    spots: dict[int, list[Spot]] = {}
    running: set[int] = set()
    asking = get_ident()
    left = _MAX_FRAMES
    for ident, green, top in stacks():
        frame: FrameType | None = top
        while frame is not None and left > 0:
            left -= 1
            running.add(id(frame))
            code = frame.f_code
            if not is_package_file(code.co_filename):
                module = dict.get(frame.f_globals, "__name__")
                for name, value in inside.locals_of(frame).items():
                    spot = Spot(ident, code, inside.text(module), name, ident == asking, green)
                    spots.setdefault(id(value), []).append(spot)
            frame = frame.f_back
    return spots, running


def stacks() -> list[tuple[int, bool, FrameType]]:
    """Return all threads' identities and innermost frames, then those of suspended greenlets.

    Of the asking thread, the innermost frame that is not ours: a frame of ours that has
    itself in a variable would keep all that it has, and that its callers have, alive.
    """
    frames = sys._current_frames()  # noqa: SLF001
    ident = get_ident()
    own: FrameType | None = frames.pop(ident, None)
    while own is not None and is_package_file(own.f_code.co_filename):
        own = own.f_back
    found = [(other, False, frame) for other, frame in frames.items()]
    if own is not None:
        found.append((ident, False, own))
    for green in greenlets():
        frame = sys.modules["greenlet"].greenlet.gr_frame.__get__(green)
        if frame is not None:
            found.append((id(green), True, frame))
    return found


def greenlets() -> list[Any]:
    """Return the suspended greenlets of classes made in Python: gevent's, eventlet's."""
    greenlet = sys.modules.get("greenlet")
    base = getattr(greenlet, "greenlet", None)
    if base is None:
        return []
    kinds: list[Any] = list(type.__subclasses__(base))
    for kind in kinds:
        kinds += type.__subclasses__(kind)
    instances = gc.get_referrers(*kinds) if kinds else []
    return [thing for thing in islice(instances, _MAX_FRAMES) if inside.isinstance_of(thing, base)]
