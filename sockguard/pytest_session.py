"""A pytest run under guard: when sockets are known, when a test is judged, what it comes to.

No thread runs. Until the first socket or thread, nothing of ours but this is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from sockguard import baseline
from sockguard.baseline import BaselineError
from sockguard.pytest_options import Options, is_controller
from sockguard.pytest_phases import Phases
from sockguard.pytest_report import Reporter, SocketLeak
from sockguard.tripwire import Tripwire

if TYPE_CHECKING:
    from sockguard.config import Config
    from sockguard.pytest_judge import Judge
    from sockguard.pytest_sockets import Sockets


class Session:
    """The plugin that is switched on. One hook a test, until the first socket or thread."""

    def __init__(self, config: pytest.Config, options: Options) -> None:
        self._config = config
        self._options = options
        self._reporter = Reporter(config, options)
        self.phases = Phases(config, options)
        #: The test that runs has failed already.
        self._has_failed = False
        self._sockets: Sockets | None = None
        self._judge: Judge | None = None
        self._started = False
        self._tripwire: Tripwire | None = None
        self._read_baseline()
        self._remembers = options.update or bool(self._reporter.known)
        self._configuration = self._configured()
        if is_controller(config):  # of xdist: the tests run elsewhere
            self._reporter.register()
            return
        if self._remembers:  # which tests have been judged
            self.phases.follow()
        if "sockguard.guard" in sys.modules:  # installed perhaps: its sockets are known
            self.start()
        else:
            self._tripwire = Tripwire(self.start)

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

    def _configured(self) -> Config:
        from sockguard.config import ConfigError, configured_for_tests

        try:
            return configured_for_tests()
        except ConfigError as error:
            raise pytest.UsageError(str(error)) from None

    def start(self) -> None:
        """Know each socket from here on. A second call does nothing."""
        if self._started:
            return
        if self._tripwire is not None:
            self._tripwire.remove()
        with self._border():
            from sockguard.pytest_sockets import Sockets

            self._sockets = Sockets(self._configuration, self.phases.lineage)
            self.phases.at_begin = self._sockets.starters.catch_up
            self.phases.follow()
        self._started = True

    def pytest_unconfigure(self) -> None:
        if self._tripwire is not None:
            self._tripwire.remove()
        self._close()
        if self._judge is not None:
            self._judge.end()

    def _close(self) -> None:
        sockets, self._sockets = self._sockets, None
        self.phases.at_begin = None
        if sockets is not None:
            sockets.close()

    @property
    def looks(self) -> bool:
        """Sockets are known, and we have not been switched off."""
        return self._sockets is not None

    def the_judge(self) -> Judge:
        """Return who looks at the sockets that are left open."""
        if self._judge is None:
            from sockguard.pytest_judge import Judge

            assert self._sockets is not None
            self._judge = Judge(self._sockets, self._reporter, update=self._options.update)
        return self._judge

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if self._tripwire is not None and self._config.pluginmanager.hasplugin("pytester"):
            # pytester forgets the modules that are loaded in its inner runs: load ours before.
            self.start()
            with self._border():
                self.the_judge()
        self.phases.collected(session)

    # -- the end of a test -------------------------------------------------------------

    def pytest_exception_interact(self, report: Any) -> None:
        if getattr(report, "when", None) in ("setup", "call"):
            self._has_failed = True

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        try:
            value = yield
        except (KeyboardInterrupt, SystemExit, pytest.exit.Exception):
            raise
        except BaseException:
            self._judge_test(item, may_fail=False)
            raise
        self._judge_test(item, may_fail=True)
        return value

    def _judge_test(self, item: pytest.Item, *, may_fail: bool) -> None:
        """Raise ``SocketLeak`` if ``item`` is to fail; or tell in a section, if it has failed."""
        has_failed, self._has_failed = self._has_failed, False
        phases = self.phases
        if not phases.follows:
            return
        leak = stirred = None
        ended = phases.end_test()
        if self._remembers:
            self._reporter.judged.update(owner.key for owner in ended)
        expected = phases.expected
        if self._sockets is not None and (self._sockets.ledger or expected is not None):
            with self._border():
                judge = self.the_judge()
                found = judge.leaking(ended, phases.live(), phases.settings.settle)
                if found or expected is not None:
                    leak = judge.verdict(found, phases.owner, phases.settings, expected)
                stirred = judge.complaint()
        if leak is None and stirred is None:
            return
        may_fail = may_fail and not (has_failed or phases.has_failed())
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
        if self._sockets is not None and self._sockets.ledger:
            with self._border():
                self.phases.end_fixtures()
                late = self.the_judge().late(self.phases.live(), self._options.settings.settle)
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
            with suppress(Exception):
                self._close()

    def _note(self, text: str) -> None:
        self._reporter.notes.append(text)
        self._reporter.register()
