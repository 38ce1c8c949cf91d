"""The options of a pytest run, and what markers make of them for one test."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

SETTLE_S: Final = 0.2


class Settings(NamedTuple):
    """What holds for one test: the options, and its marker over them."""

    enabled: bool = True
    settle: float = SETTLE_S
    ignore: tuple[re.Pattern[str], ...] = ()
    allow: int = 0


class Options(NamedTuple):
    """What holds for the run."""

    #: Every test is judged; else only one that asks, by marker or fixture.
    always: bool
    settings: Settings
    baseline: Path | None
    update: bool


def _seconds(value: object, source: str) -> float:
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        seconds = math.nan
    if isinstance(value, bool) or not 0 <= seconds <= 3600:
        raise pytest.UsageError(f"{source}={value}: give seconds from 0 to 3600, like 0.2")
    return seconds


def _baseline(config: pytest.Config) -> Path | None:
    given = config.getoption("sockguard_baseline")
    if given:
        return config.invocation_params.dir / str(given)
    ini = config.getini("sockguard_baseline")
    if not ini:
        return None
    return (config.inipath.parent if config.inipath else config.rootpath) / str(ini)


def read_options(config: pytest.Config) -> Options:
    """Return the run's options. Raises ``pytest.UsageError`` for what can't be used."""
    settle = SETTLE_S
    if (given := config.getoption("sockguard_settle")) is not None:
        settle = _seconds(given, "--sockguard-settle")
    elif ini := config.getini("sockguard_settle"):
        settle = _seconds(ini, "sockguard_settle")
    asked = config.getoption("sockguard")
    baseline, update = _baseline(config), config.getoption("sockguard_update_baseline")
    if update and baseline is None:
        raise pytest.UsageError(
            "--sockguard-update-baseline needs a file; name it with --sockguard-baseline FILE"
        )
    return Options(
        always=bool(config.getini("sockguard") if asked is None else asked),
        settings=Settings(settle=settle),
        baseline=baseline,
        update=update,
    )


_USE: Final = "@pytest.mark.sockguard(enabled=True, settle=0.2, ignore=['PATTERN'], allow=0)"


def settings_of(item: pytest.Item, defaults: Settings) -> Settings:
    """Return what holds for ``item``: its markers over ``defaults``, the closest first.

    Raises ``pytest.UsageError`` for a marker that can't be used.
    """
    settings = defaults
    for mark in reversed(list(item.iter_markers("sockguard"))):
        try:
            settings = _marked(settings, mark.args, mark.kwargs)
        except ValueError as error:
            raise pytest.UsageError(f"{item.nodeid}: {error}; use {_USE}") from None
    return settings


def _marked(settings: Settings, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Settings:
    if args:
        raise ValueError("the marker sockguard takes keywords only")
    for name, value in kwargs.items():
        if name == "enabled" and isinstance(value, bool):
            settings = settings._replace(enabled=value)
        elif name == "settle":
            try:
                settings = settings._replace(settle=_seconds(value, "settle"))
            except pytest.UsageError as error:
                raise ValueError(str(error)) from None
        elif name == "allow" and type(value) is int and value >= 0:
            settings = settings._replace(allow=value)
        elif name == "ignore" and isinstance(value, (list, tuple)):
            try:
                patterns = tuple(re.compile(pattern) for pattern in value)
            except (re.error, TypeError) as error:
                raise ValueError(f"ignore={value!r} has a bad pattern ({error})") from None
            settings = settings._replace(ignore=settings.ignore + patterns)
        else:
            raise ValueError(f"the marker sockguard can't have {name}={value!r}")
    return settings


def asking(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """Return the tests that have the marker or the fixture. 1 µs an item."""
    marked: dict[pytest.Collector | pytest.Item | None, bool] = {None: False}

    def is_marked(node: Any) -> bool:
        if node not in marked:
            marked[node] = any(mark.name == "sockguard" for mark in node.own_markers) or is_marked(
                node.parent
            )
        return marked[node]

    return [
        item
        for item in items
        if "sockguard" in getattr(item, "fixturenames", ())
        or any(mark.name == "sockguard" for mark in item.own_markers)
        or is_marked(item.parent)
    ]


def is_controller(config: pytest.Config) -> bool:
    """Tell the process of pytest-xdist that distributes the tests."""
    return getattr(config.option, "dist", "no") != "no" and not hasattr(config, "workerinput")
