"""sockguard finds the sockets that a live Python process forgot to close after their peers did.

Importing it costs next to nothing: whatever is asked for is loaded then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sockguard.config import ConfigError
    from sockguard.guard import Guard, install, uninstall, watch
    from sockguard.records import Finding

__all__ = ["ConfigError", "Finding", "Guard", "install", "uninstall", "watch"]
__version__ = "0.1.0"

_HOMES = {
    "ConfigError": "sockguard.config",
    "Finding": "sockguard.records",
    "Guard": "sockguard.guard",
    "install": "sockguard.guard",
    "uninstall": "sockguard.guard",
    "watch": "sockguard.guard",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
