"""sockguard finds the sockets that a live Python process forgot to close after their peers did.

Importing it costs next to nothing: whatever is asked for is loaded then.

PYTEST_DONT_REWRITE: under ``SOCKGUARD=1`` it is imported before pytest, which warns of that
otherwise, and where warnings are errors does not start.
"""

from __future__ import annotations

# Not from typing: `python -m sockguard` comes here with the working folder first on the
# path, and a typing.py in it is the program's.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sockguard.config import ConfigError
    from sockguard.findings import Finding
    from sockguard.guard import Guard, install, uninstall, watch

__all__ = ["ConfigError", "Finding", "Guard", "install", "uninstall", "watch"]
__version__ = "0.1.0"

_HOMES = {
    "ConfigError": "sockguard.config",
    "Finding": "sockguard.findings",
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
