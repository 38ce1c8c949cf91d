"""Placing the hooks in ``socket.socket``, in place, and taking them out again.

In place: ``isinstance``, ``ssl.SSLSocket`` and an earlier ``from socket import socket`` go
on working. wrapt places and removes; taking out leaves ``vars(socket.socket)`` as found.
"""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from sockguard.hooks import Method, Switch, finalizer_hook, init_hook
from sockguard.reads import METHODS, read_hook
from sockguard.registry import Registry


class Placement:
    """What is placed where, and how to take it out again. One thread at a time."""

    def __init__(self) -> None:
        self._placed: list[tuple[Any, str, Any]] = []
        #: For good: what is imported later finds nothing to do.
        self.removed = False

    def place(self, target: Any, name: str, make: Callable[[Method], object]) -> None:
        """Put what ``make`` returns in the place of ``target.name``, if there is one."""
        import wrapt  # costs 60 to 100 ms and 170 modules: not before it is wanted

        if hasattr(target, name):
            # A plain function, not wrapt's proxy: its bound call costs three times as much.
            hook: Any = wrapt.wrap_object(target, name, make)  # type: ignore[arg-type]
            self._placed.append((target, name, hook))

    def remove(self) -> None:
        """Take everything out, the last first. What somebody has wrapped stays in."""
        self.removed = True
        while self._placed:
            target, name, hook = self._placed.pop()
            import wrapt

            with suppress(wrapt.WrapperNotOutermostError):
                wrapt.unwrap_object(target, name, hook, missing_ok=True)


class Patch:
    """The hooks of one guard. Install and remove from one thread at a time."""

    def __init__(
        self,
        registry: Registry,
        *,
        depth: int,
        full: bool,
        finalizes: bool,
        last_words: Callable[[Any], tuple[bytes | None, Any]],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._registry = registry
        self._depth = depth
        self._full = full
        self._finalizes = full and finalizes
        self._last_words = last_words
        self._placement = Placement()
        self._switch: Final = Switch(on_failure)

    def place(self) -> None:
        """Put the hooks in. On failure takes out again what is in, and raises."""
        try:
            self._place_all()
        except BaseException:
            self.remove()
            raise

    def _place_all(self) -> None:
        registry, depth, switch = self._registry, self._depth, self._switch
        self._placement.place(
            socket.socket, "__init__", lambda method: init_hook(method, registry, depth, switch)
        )
        if not self._full:
            return
        for name in METHODS:
            self._placement.place(
                socket.socket,
                name,
                functools.partial(read_hook, name, registry=registry, depth=depth, switch=switch),
            )
        if self._finalizes:
            registry.notes_freed = True
            self._placement.place(
                socket.socket,
                "__del__",
                lambda method: finalizer_hook(method, registry, self._last_words, switch),
            )
        import wrapt

        wrapt.when_imported("ssl")(self._place_tls)

    def _place_tls(self, ssl: Any) -> None:
        # Called in the midst of the program's `import ssl`, maybe long after `remove`:
        # wrapt can't unregister, and an exception here would break that import.
        if self._switch.off:
            return
        tells_end = (ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
        try:
            self._placement.place(
                ssl.SSLSocket,
                "read",
                lambda method: read_hook(
                    "read", method, self._registry, self._depth, self._switch, tells_end
                ),
            )
        except Exception as error:
            self._switch.on_failure(error)

    def remove(self) -> None:
        """Take the hooks out. One that somebody has wrapped stays, and only passes through."""
        self._switch.off = True
        self._placement.remove()
