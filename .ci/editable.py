"""Build hook: an editable install has the start-up files too, behind the one with the path."""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class EditableHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds ``sockguard.pth`` and ``sockguard.start`` to an editable wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            build_data["force_include_editable"] = {
                "sockguard/sockguard.pth": "sockguard.pth",
                "sockguard/sockguard.start": "sockguard.start",
            }
