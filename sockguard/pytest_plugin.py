"""``pytest --sockguard``: a test that leaks a socket whose peer has closed fails.

What every pytest run loads where sockguard is installed: options, the marker, the fixture.
It imports the standard library and pytest, until it is switched on.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Final

import pytest

from sockguard.pytest_options import SETTLE_S, Options, asking, is_controller, read_options

if TYPE_CHECKING:
    from sockguard.pytest_handle import Handle

_ON: Final = "sockguard_switched_on"


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


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "sockguard(enabled=True, settle=SECONDS, ignore=[PATTERN], allow=N): fail this test if"
        " it leaves a socket open whose peer has closed",
    )
    if config.getoption("sockguard") is False:
        return
    options = read_options(config)
    # A controller of xdist collects nothing: it can't know whether a test asks.
    if options.always or is_controller(config):
        _switch_on(config, options)


def _forget_stale() -> None:
    """Have our modules be loaded all anew, or none.

    pytester takes what its inner run has loaded out of ``sys.modules`` again, not out of the
    package: the next inner run would get some modules old, others new.
    """
    package = sys.modules["sockguard"]
    for name, thing in list(vars(package).items()):
        if isinstance(thing, ModuleType) and sys.modules.get(thing.__name__) is not thing:
            delattr(package, name)


def _switch_on(config: pytest.Config, options: Options) -> None:
    if config.pluginmanager.hasplugin(_ON):
        return
    _forget_stale()
    from sockguard.pytest_session import Session

    config.pluginmanager.register(Session(config, options), _ON)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Switch on for tests that ask by marker or fixture, if nobody asked for all."""
    if config.getoption("sockguard") is False or config.pluginmanager.hasplugin(_ON):
        return
    if asking(items):
        _switch_on(config, read_options(config))


@pytest.fixture(name="sockguard")
def _sockguard(request: pytest.FixtureRequest) -> Handle:
    """What this test has leaked: ``leaks()``, ``check()``, ``expect(n)``, ``close_peers()``."""
    from sockguard.pytest_handle import Handle

    session = request.config.pluginmanager.getplugin(_ON)
    if session is not None:
        session.start()
    return Handle(session, request.node)
