"""``opentelemetry-instrument`` finds this by its entry point: the service is guarded, too.

For who calls it: ``SockguardInstrumentor().instrument(logger_provider=…, meter_provider=…)``.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

from sockguard import guard
from sockguard.startup import install_from_environment
from sockguard.stderr import complain


class SockguardInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Puts the process under guard with the environment's options, as ``SOCKGUARD=1`` does.

    Where a guard is there already, that one goes on. ``SOCKGUARD=0`` and
    ``OTEL_SDK_DISABLED=true`` are obeyed; ``OTEL_PYTHON_DISABLED_INSTRUMENTATIONS`` by the
    caller. Raises nothing: an exception here would end all instrumentation.
    """

    _installed: Any = None

    def instrumentation_dependencies(self) -> Collection[str]:
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        """``logger_provider``, ``meter_provider``: instead of the global ones."""
        try:
            providers = {name: kwargs.get(name) for name in ("logger_provider", "meter_provider")}
            if _is_off("SOCKGUARD") or (_sdk_is_disabled() and not any(providers.values())):
                return
            before = guard.installed()
            if before is None:
                install_from_environment()
            now = guard.installed()
            self._installed = now if before is None else None
            if now is not None and any(providers.values()):
                now.tell_providers(**providers)
        except Exception as error:
            complain(f"could not be instrumented by OpenTelemetry: {error!r}")

    def _uninstrument(self, **kwargs: Any) -> None:
        """Take out the guard that ``instrument`` put in; another one tells the global providers."""
        try:
            now = guard.installed()
            if now is None:
                return
            if now is self._installed:
                guard.uninstall()
            else:
                now.tell_providers()
        except Exception as error:
            complain(f"could not be taken out by OpenTelemetry: {error!r}")


def _is_off(variable: str) -> bool:
    return os.environ.get(variable) in ("", "0")


def _sdk_is_disabled() -> bool:
    return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
