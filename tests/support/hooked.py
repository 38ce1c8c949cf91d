"""The hooks alone: sockets are filed in a registry, and nobody looks at them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sockguard import endpoints
from sockguard.observers import tcp_info
from sockguard.patch import Patch
from sockguard.registry import Registry


@contextlib.contextmanager
def hooks(*, full: bool = False, depth: int = 32) -> Iterator[Registry]:
    """Put the hooks of a level in, for the block. A failure of ours is raised."""
    registry = Registry()

    def fail(error: BaseException) -> None:
        raise error

    patch = Patch(
        registry,
        depth=depth,
        full=full,
        last_words=lambda sock: (tcp_info.read(sock), endpoints.raw_local(sock)),
        finalizes=True,
        on_failure=fail,
    )
    patch.place()
    try:
        yield registry
    finally:
        patch.remove()
