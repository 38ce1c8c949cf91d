"""Which hooks stand in ``socket.socket`` and ``ssl.SSLSocket``, by the level."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, Final

from sockguard.hooks import Capture, Switch, finalizer_hook, init_hook
from sockguard.native import socket_class
from sockguard.placement import Placement
from sockguard.reads import METHODS, read_hook
from sockguard.registry import Registry
from sockguard.stacks import capture


class Patch:
    """The hooks of one guard. Install and remove from one thread at a time."""

    def __init__(
        self,
        registry: Registry,
        *,
        depth: int,
        full: bool,
        finalizes: bool,
        on_failure: Callable[[BaseException], None],
        placement: Placement,
        take: Capture = capture,
    ) -> None:
        self._take = take
        self._registry = registry
        self._depth = depth
        self._full = full
        self._finalizes = full and finalizes
        self._placement = placement
        self._tls = False
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
        target = socket_class()
        self._placement.place(
            target,
            "__init__",
            lambda method: init_hook(
                method,
                registry,
                depth,
                switch,
                take=self._take,
                inherited=self._place_tls if self._full else None,
            ),
        )
        if not self._full:
            return
        for name in METHODS:
            self._placement.place(
                target,
                name,
                functools.partial(read_hook, name, registry=registry, depth=depth, switch=switch),
            )
        if self._finalizes:
            # Not later: in a finalizer there may be no descriptor left to load it with.
            from sockguard.observers.tcp_info import last_words

            registry.notes_freed = True
            self._placement.place(
                target,
                "__del__",
                lambda method: finalizer_hook(method, registry, last_words, switch),
            )
        self._place_tls()

    def _place_tls(self) -> None:
        """Follow the reads of TLS, where it is loaded by now. Called as its sockets are made."""
        ssl: Any = sys.modules.get("ssl")
        if self._tls or not hasattr(ssl, "SSLSocket") or self._placement.removed:
            return
        self._tls = True
        tells_end = (ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
        try:
            self._placement.place(
                ssl.SSLSocket,
                "read",
                lambda method: read_hook(
                    "read", method, self._registry, self._depth, self._switch, tells_end
                ),
            )
        except Exception as error:  # all else works without
            self._switch.on_failure(error)

    def remove(self) -> None:
        """Take the hooks out. One that somebody has wrapped stays, and only passes through."""
        self._switch.off = True
        self._placement.remove()
