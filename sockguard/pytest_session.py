"""A pytest run under guard: who works now, when a test is judged, what it comes to.

No thread runs. Until the first socket or thread, nothing of ours but this is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import pytest

from sockguard import baseline
from sockguard.baseline import BaselineError
from sockguard.owners import Lineage, Owner
from sockguard.pytest_options import Options, Settings, asking, is_controller, settings_of
from sockguard.pytest_report import Reporter, SocketLeak
from sockguard.tripwire import Tripwire

if TYPE_CHECKING:
    from sockguard.pytest_judge import Judge

_SCOPES: Final = {"class": 1, "module": 2, "package": 3, "session": 4}


class Session:
    """The plugin that is switched on. Its hooks cost a test without sockets some 15 µs."""

    def __init__(self, config: pytest.Config, options: Options) -> None:
        self._config = config
        self._options = options
        self._default = options.settings._replace(enabled=options.always)
        self._settings: dict[pytest.Item, Settings] = {}
        self._wrong: dict[pytest.Item, str] = {}
        self._reporter = Reporter(config, options)
        self._outside = Owner("what runs outside of tests", key="outside")
        self._lineage = Lineage(self._outside)
        self.owner = self._outside
        self.of_test = self._default
        #: So many leaks the test says that it has.
        self.expected: int | None = None
        self._failed = False
        #: Wider than a test, and alive.
        self._fixtures: dict[Any, Owner] = {}
        self._ended: list[Owner] = []
        self.judge: Judge | None = None
        self._tripwire: Tripwire | None = None
        self._read_baseline()
        self._remembers = options.update or bool(self._reporter.known)
        self._check_configuration()
        if is_controller(config):  # of xdist: the tests run elsewhere
            self._reporter.register()
            return
        if "sockguard.guard" in sys.modules:  # installed perhaps: its sockets are known
            self._begin()
        else:
            self._tripwire = Tripwire(self._begin)

    def _read_baseline(self) -> None:
        path, update = self._options.baseline, self._options.update
        if path is None:
            return
        self._reporter.register()  # at the end it tells of the file
        if update and not path.exists():
            return
        try:
            self._reporter.known = baseline.read(path)
        except BaselineError as error:
            raise pytest.UsageError(str(error)) from None

    def _check_configuration(self) -> None:
        from sockguard.config import ConfigError, configured_for_tests

        try:
            configured_for_tests()
        except ConfigError as error:
            raise pytest.UsageError(str(error)) from None

    def _begin(self) -> None:
        with self._border():
            from sockguard.pytest_judge import Judge

            self.judge = Judge(self._lineage, self._reporter, update=self._options.update)

    def pytest_unconfigure(self) -> None:
        if self._tripwire is not None:
            self._tripwire.remove()
        judge, self.judge = self.judge, None
        if judge is not None:
            judge.close()

    # -- who works now -----------------------------------------------------------------

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if self._tripwire is not None and self._config.pluginmanager.hasplugin("pytester"):
            # pytester forgets the modules that are loaded in its inner runs: load ours before.
            self._tripwire.remove()
            self._tripwire = None
            if self.judge is None:
                self._begin()
        enabled = self._default._replace(enabled=True)
        for item in asking(session.items):
            try:
                self._settings[item] = settings_of(item, enabled)
            except pytest.UsageError as error:
                if not hasattr(self._config, "workerinput"):
                    raise
                # xdist takes a worker that ends here for one that crashed.
                self._wrong[item] = str(error)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self.of_test = self._settings.get(item, self._default) if self._settings else self._default
        self.owner = owner = Owner(item)
        owner.spared = not self.of_test.enabled
        self._failed = False
        self.expected = None
        if item.user_properties:  # of a run before this one: pytest-rerunfailures
            item.user_properties[:] = [p for p in item.user_properties if p[0] != "sockguard"]
        self._lineage.begin(owner)
        if self._wrong and item in self._wrong:
            pytest.fail(self._wrong[item], pytrace=False)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: Any, request: Any
    ) -> Generator[None, object, object]:
        scope = fixturedef.scope
        if scope == "function":  # it ends with its test: it is the test's
            return (yield)
        name = fixturedef.argname
        owner = Owner(
            f"fixture {name} ({scope} scope)",
            key=f"fixture {fixturedef.baseid}::{name}",
            scope=_SCOPES[scope],
        )
        owner.spared = self.owner.spared and not self._options.always
        if (before := self._fixtures.pop(fixturedef, None)) is not None:  # another parameter
            self._end(before)
        # What `setup_module` and the like keep is not their value: they set it, by name.
        by_name = name.startswith(("_unittest_", "_xunit_"))
        holder = getattr(request.node, "obj", None) if by_name else None
        names = {} if holder is None else dict(vars(holder))
        try:
            with self._lineage.working_for(owner):
                value = yield
        except BaseException:
            self._end(owner)
            raise
        if holder is not None:
            missing = object()
            kept = [n for n, v in vars(holder).items() if names.get(n, missing) is not v]
            owner.root = lambda: [vars(holder).get(n) for n in kept]
        else:
            owner.root = lambda: (fixturedef.cached_result or (None,))[0]
        self._fixtures[fixturedef] = owner
        return value

    def _end(self, owner: Owner) -> None:
        owner.ended = True
        self._ended.append(owner)

    def _end_fixtures(self) -> None:
        for fixturedef, owner in list(self._fixtures.items()):
            if fixturedef.cached_result is None:
                del self._fixtures[fixturedef]
                self._end(owner)

    def live(self) -> list[Owner]:
        """Return the fixtures that are alive, the widest first."""
        return sorted(self._fixtures.values(), key=lambda owner: -owner.scope)

    def pytest_exception_interact(self, report: Any) -> None:
        if getattr(report, "when", None) in ("setup", "call"):
            self._failed = True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # A strict xfail that passes fails by its report alone: no exception tells.
        if report.outcome == "failed" and report.when != "teardown":
            self._failed = True

    # -- the end of a test -------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        try:
            value = yield
        except (KeyboardInterrupt, SystemExit, pytest.exit.Exception):
            raise
        except BaseException:
            self._judge_test(item, may_fail=False)
            raise
        if self.judge is not None or self._remembers or self.expected is not None:
            self._judge_test(item, may_fail=not self._failed)
        else:
            self._lineage.begin(self._outside)
        return value

    def _judge_test(self, item: pytest.Item, *, may_fail: bool) -> None:
        """Raise ``SocketLeak`` if ``item`` is to fail; or tell in a section, if it has failed."""
        leak = None
        stirred = None
        self._end(self.owner)
        if self._fixtures:
            self._end_fixtures()
        ended, self._ended = self._ended, []
        if self._remembers:
            self._reporter.judged.update(owner.key for owner in ended)
        self._lineage.begin(self._outside)
        judge = self.judge
        if judge is not None and (judge.has_sockets() or self.expected is not None):
            with self._border():
                found = judge.leaking(ended, self.live(), self.of_test.settle)
                if found or self.expected is not None:
                    leak = judge.verdict(found, self.owner, self.of_test, self.expected)
                stirred = judge.complaint()
        elif self.expected:
            leak = SocketLeak(f"0 sockets leaked, {self.expected} expected", ["none leaked"])
        if leak is not None:
            self.tell(item, leak)
            if may_fail:
                raise leak
            item.add_report_section("teardown", "socket leaks", str(leak))
        elif stirred is not None and may_fail:
            raise stirred

    def tell(self, item: pytest.Item, leak: SocketLeak) -> None:
        """Have the reports know of a leak."""
        self._reporter.register()
        item.user_properties.extend(("sockguard", line) for line in leak.sites)

    # -- the end of the run ------------------------------------------------------------

    # The innermost: behind whatever ends with the run, before the summary is written, and
    # before a worker of xdist sends what it found.
    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        value = yield
        if self.judge is not None:
            with self._border():
                self._end_fixtures()
                late = self.judge.late(self.live(), self._options.settings.settle)
                self._reporter.late += late
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            output["sockguard"] = self._reporter.for_controller()
            return value
        if self._reporter.late:
            self._reporter.register()
        try:
            self._reporter.write_baseline()
        except BaselineError as error:
            self._note(str(error))
            session.exitstatus = pytest.ExitCode.USAGE_ERROR
        return value

    @contextmanager
    def _border(self) -> Iterator[None]:
        """A failure of ours fails no test: we are switched off, and say so once."""
        try:
            yield
        except Exception as error:
            self._note(f"failed and is switched off: {error!r}")
            judge, self.judge = self.judge, None
            if judge is not None:
                with suppress(Exception):
                    judge.close()

    def _note(self, text: str) -> None:
        self._reporter.notes.append(text)
        self._reporter.register()
