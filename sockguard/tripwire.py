"""Waits for the first socket or thread of a process, and is gone then.

A pytest run that opens neither pays for nothing but this: no wrapt, no watcher, no records.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

from sockguard.native import socket_class
from sockguard.placement import Placement


class Tripwire:
    """Calls ``sprung`` once, in whatever thread makes the first socket or starts the first thread.

    It raises nothing, and takes no lock: a signal handler may open a socket. What another
    thread makes while ``sprung`` runs passes unnoticed. The first call's stack has a frame
    of this file.
    """

    def __init__(self, sprung: Callable[[], object]) -> None:
        self._sprung = [sprung]  # a list, because `pop` is atomic: only one gets to
        self._set()

    def _set(self) -> None:
        self._placement = Placement()
        for target, name in ((socket_class(), "__init__"), (threading.Thread, "start")):
            self._placement.place(target, name, functools.partial(self._stand_in, target, name))

    def _stand_in(self, target: type, name: str, original: Any) -> Any:
        @functools.wraps(original)
        def stand_in(self_: Any, /, *args: Any, **kwargs: Any) -> Any:
            outermost = vars(target).get(name) is stand_in
            self._spring()
            follow = getattr(target, name) if outermost else original
            return follow(self_, *args, **kwargs)

        return stand_in

    def _spring(self) -> None:
        self.remove()
        if self._sprung:
            try:
                sprung = self._sprung.pop()
            except IndexError:  # another thread was first
                return
            try:
                sprung()
            except BaseException:
                # The program's own: a time limit of its, or Ctrl-C. The next socket is the first.
                self._sprung.append(sprung)
                self._set()
                raise

    def remove(self) -> None:
        """Leave the classes as they were found, where nobody has put something on top."""
        self._placement.remove()
