"""The hooks alone: sockets are filed in a registry, and nobody looks at them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sockguard.patch import Patch
from sockguard.placement import WraptPlacement
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
        finalizes=True,
        placement=WraptPlacement(),
        on_failure=fail,
    )
    patch.place()
    try:
        yield registry
    finally:
        patch.remove()
