"""Who works now in a pytest run: a test, or the fixture wider than it that is set up."""

from __future__ import annotations

from _thread import get_ident
from collections.abc import Callable, Generator
from typing import Any, Final

import pytest

from sockguard.owners import Lineage, Owner
from sockguard.pytest_options import Options, Settings, asking, settings_of
from sockguard.pytest_underway import is_alive, is_wide, known_fixtures, sets_names, underway

_END_OF_SETUP: Final = "sockguard_end_of_setup"
_SCOPES: Final = {"class": 1, "module": 2, "package": 3, "session": 4}


class Phases:
    """Follows the run from the moment it is registered.

    A run that opens no socket is not followed, and pays nothing: what is under way when the
    first one is opened is read from the stack.
    """

    def __init__(self, config: pytest.Config, options: Options) -> None:
        self._config = config
        self._always = options.always
        self._default = options.settings._replace(enabled=options.always)
        self._settings: dict[pytest.Item, Settings] = {}
        self._wrong: dict[pytest.Item, str] = {}
        self._session: pytest.Session | None = None
        self._thread = get_ident()
        self.outside = Owner("what runs outside of tests", key="outside")
        self.lineage = Lineage(self.outside)
        self.follows = False
        #: What was being set up when we came, the innermost last: no hook tells of its end.
        self._begun_before: list[tuple[Any, Owner]] = []
        self._came_in_setup = False
        #: Wider than a test, and alive.
        self._fixtures: dict[Any, Owner] = {}
        self._ended: list[Owner] = []
        #: Called as each test begins.
        self.at_begin: Callable[[], object] | None = None
        # -- of the test that runs:
        self.owner = self.outside
        self.settings = self._default
        #: So many leaks the test says that it has.
        self.expected: int | None = None

    # -- coming ------------------------------------------------------------------------

    def collected(self, session: pytest.Session) -> None:
        """Read what markers say. Raises ``pytest.UsageError`` for one that can't be used."""
        self._session = session
        enabled = self._default._replace(enabled=True)
        for item in asking(session.items):
            try:
                self._settings[item] = settings_of(item, enabled)
            except pytest.UsageError as error:
                if not hasattr(self._config, "workerinput"):
                    raise
                # xdist takes a worker that ends here for one that crashed.
                self._wrong[item] = str(error)
        # Which names a fixture sets can be told only by who saw them before.
        if not self._always or self._wrong or any(map(sets_names, known_fixtures(session))):
            self.follow()

    def follow(self) -> None:
        """Begin to follow the run, from what is under way. A second call does nothing."""
        if self.follows:
            return
        self.follows = True
        self._config.pluginmanager.register(self, "sockguard_phases")
        if self._session is None:
            return
        now = underway(self._session, self._thread)
        for fixturedef in filter(is_alive, known_fixtures(self._session)):
            self._own(fixturedef, self._owner_of(fixturedef))
        self._begun_before = [(known, self._owner_of(known)) for known in now.fixtures]
        if self._begun_before:
            self._came_in_setup = True
            self._config.pluginmanager.register(_EndOfSetup(self._go_on), _END_OF_SETUP)
        if now.item is not None:
            self._begin_test(now.item)
            self._go_on()

    def has_failed(self) -> bool:
        """Tell whether the test that runs has failed before, be it by no exception."""
        # A strict xfail that passes: no hook but one for every report of the run tells.
        return self._session is not None and underway(self._session, self._thread).has_failed

    def _go_on(self) -> None:
        """Have the innermost of what began before us work; or, once all have ended, the test."""
        while self._begun_before and self._begun_before[-1][0].cached_result is not None:
            fixturedef, owner = self._begun_before.pop()
            if is_alive(fixturedef):
                self._own(fixturedef, owner)
            else:
                self._ended.append(owner)
        owner = self._begun_before[-1][1] if self._begun_before else self.owner
        if get_ident() == self._thread:
            self.lineage.begin(owner)
        else:
            self.lineage.phase = owner

    # -- tests -------------------------------------------------------------------------

    def _begin_test(self, item: pytest.Item) -> None:
        self.settings = self._settings.get(item, self._default) if self._settings else self._default
        self.owner = Owner(item)
        self.owner.spared = not self.settings.enabled
        self.expected = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self._begin_test(item)
        if item.user_properties:  # of a run before this one: pytest-rerunfailures
            item.user_properties[:] = [p for p in item.user_properties if p[0] != "sockguard"]
        self.lineage.begin(self.owner)
        if self.at_begin is not None:
            self.at_begin()
        if self._wrong and item in self._wrong:
            pytest.fail(self._wrong[item], pytrace=False)

    def end_test(self) -> list[Owner]:
        """Return who has ended since the last test: it, and fixtures. Nobody works now."""
        if self._came_in_setup:
            self._came_in_setup = False
            self._go_on()
            self._config.pluginmanager.unregister(name=_END_OF_SETUP)
        self._ended.append(self.owner)
        if self._fixtures:
            self.end_fixtures()
        ended, self._ended = self._ended, []
        self.lineage.begin(self.outside)
        if self.lineage.threads:
            self.lineage.forget_ended_threads()
        return ended

    # -- fixtures ----------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: Any, request: Any
    ) -> Generator[None, object, object]:
        if self._begun_before:
            self._go_on()
        if not is_wide(fixturedef):  # it ends with its test: it is the test's
            return (yield)
        owner = self._owner_of(fixturedef)
        owner.spared = self.owner.spared and not self._always
        if (before := self._fixtures.pop(fixturedef, None)) is not None:  # another parameter
            self._ended.append(before)
        holder = getattr(request.node, "obj", None) if sets_names(fixturedef) else None
        names = {} if holder is None else dict(vars(holder))
        try:
            with self.lineage.working_for(owner):
                value = yield
        except BaseException:
            self._ended.append(owner)
            raise
        self._own(fixturedef, owner)
        if holder is not None:
            missing = object()
            kept = [n for n, v in vars(holder).items() if names.get(n, missing) is not v]
            owner.root = lambda: [vars(holder).get(n) for n in kept]
        return value

    @staticmethod
    def _owner_of(fixturedef: Any) -> Owner:
        name, scope = fixturedef.argname, fixturedef.scope
        return Owner(
            f"fixture {name} ({scope} scope)",
            key=f"fixture {fixturedef.baseid}::{name}",
            scope=_SCOPES[scope],
        )

    def _own(self, fixturedef: Any, owner: Owner) -> None:
        owner.root = lambda: (fixturedef.cached_result or (None,))[0]
        self._fixtures[fixturedef] = owner

    def end_fixtures(self) -> None:
        """Note which fixtures have been torn down."""
        for fixturedef, owner in list(self._fixtures.items()):
            if fixturedef.cached_result is None:
                del self._fixtures[fixturedef]
                self._ended.append(owner)

    def live(self) -> list[Owner]:
        """Return the fixtures that are alive, the widest first."""
        return sorted(self._fixtures.values(), key=lambda owner: -owner.scope)


class _EndOfSetup:
    """Registered for one test: it works as soon as what began before us has ended."""

    def __init__(self, go_on: Callable[[], None]) -> None:
        self._go_on = go_on

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self) -> None:
        self._go_on()
