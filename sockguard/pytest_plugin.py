"""``pytest --sockguard``: a test that leaks a socket whose peer has closed fails.

What every pytest run loads where sockguard is installed: options, the marker, the fixture.
It imports the standard library and pytest, until it is switched on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from sockguard.pytest_session import Handle

SETTLE_S: Final = 0.2
_ON: Final = "sockguard_switched_on"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What holds for one test: the options, and its marker over them."""

    enabled: bool = True
    settle: float = SETTLE_S
    ignore: tuple[re.Pattern[str], ...] = ()
    allow: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What holds for the run."""

    #: Every test is judged; else only one that asks, by marker or fixture.
    always: bool
    settings: Settings
    baseline: Path | None
    update: bool


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("sockguard", "sockets whose peer has closed")
    group.addoption(
        "--sockguard",
        action="store_true",
        default=None,
        help="fail a test that leaves a socket open whose peer has closed",
    )
    group.addoption(
        "--no-sockguard",
        action="store_false",
        dest="sockguard",
        help="switch sockguard off, also for tests that ask for it",
    )
    group.addoption(
        "--sockguard-settle",
        metavar="SECONDS",
        help=f"how long a test's sockets may take to be closed after it ({SETTLE_S})",
    )
    group.addoption(
        "--sockguard-baseline",
        metavar="FILE",
        help="leaks that are known: they fail no test while they are not more",
    )
    group.addoption(
        "--sockguard-update-baseline",
        action="store_true",
        help="write what leaks now into the baseline; no test fails of it",
    )
    parser.addini("sockguard", "judge every test, as --sockguard", type="bool", default=False)
    parser.addini("sockguard_settle", "as --sockguard-settle", default="")
    parser.addini("sockguard_baseline", "as --sockguard-baseline, from the ini-file", default="")


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
    for source, value in (
        ("--sockguard-settle", config.getoption("sockguard_settle")),
        ("sockguard_settle", config.getini("sockguard_settle")),
    ):
        if value not in (None, ""):
            settle = _seconds(value, source)
            break
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
            settings = replace(settings, enabled=value)
        elif name == "settle":
            try:
                settings = replace(settings, settle=_seconds(value, "settle"))
            except pytest.UsageError as error:
                raise ValueError(str(error)) from None
        elif name == "allow" and type(value) is int and value >= 0:
            settings = replace(settings, allow=value)
        elif name == "ignore" and isinstance(value, (list, tuple)):
            try:
                patterns = tuple(re.compile(pattern) for pattern in value)
            except (re.error, TypeError) as error:
                raise ValueError(f"ignore={value!r} has a bad pattern ({error})") from None
            settings = replace(settings, ignore=settings.ignore + patterns)
        else:
            raise ValueError(f"the marker sockguard can't have {name}={value!r}")
    return settings


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "sockguard(enabled=True, settle=SECONDS, ignore=[PATTERN], allow=N): fail this test if"
        " it leaves a socket open whose peer has closed",
    )
    if config.getoption("sockguard") is False:
        return
    options = read_options(config)
    if options.always:
        _switch_on(config, options)


def _switch_on(config: pytest.Config, options: Options) -> None:
    if config.pluginmanager.hasplugin(_ON):
        return
    from sockguard.pytest_session import Session

    config.pluginmanager.register(Session(config, options), _ON)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Switch on for tests that ask by marker or fixture, if nobody asked for all."""
    if config.getoption("sockguard") is False or config.pluginmanager.hasplugin(_ON):
        return
    if any(asks(item) for item in items):
        _switch_on(config, read_options(config))


def asks(item: pytest.Item) -> bool:
    """Tell a test that has the marker or the fixture."""
    if "sockguard" in getattr(item, "fixturenames", ()):
        return True
    # The keywords know the names of folders as well.
    return "sockguard" in item.keywords and item.get_closest_marker("sockguard") is not None


@pytest.fixture(name="sockguard")
def _sockguard(request: pytest.FixtureRequest) -> Handle:
    """What this test has leaked: ``leaks()``, ``check()``, ``expect(n)``, ``close_peers()``."""
    from sockguard.pytest_session import IdleHandle

    session = request.config.pluginmanager.getplugin(_ON)
    return IdleHandle() if session is None else session.handle()
