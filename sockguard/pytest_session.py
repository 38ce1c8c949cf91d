"""A pytest run under guard: whose socket is it, was it left open, and who is to blame.

No thread runs. Sockets are noted with whoever they are made for; when a test has ended,
with all of its fixtures, those of its sockets that are still open are looked at.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
import time
import traceback
import warnings
from _thread import allocate_lock
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Final

import pytest

from sockguard import baseline, guard, peers
from sockguard.baseline import BaselineError, Known
from sockguard.config import ConfigError, load, working_folder
from sockguard.exporters import wording
from sockguard.hooks import Method, dress, strip
from sockguard.ledger import Entry, Ledger
from sockguard.narrate import is_ignored
from sockguard.owners import Lineage, Owner
from sockguard.patch import Placement
from sockguard.pytest_plugin import Options, Settings, asks, settings_of
from sockguard.pytest_report import Reporter, SocketLeak
from sockguard.reach import reached
from sockguard.records import LEAK, Event, Finding
from sockguard.sites import culprit, module_name

_SCOPES: Final = {"function": 0, "class": 1, "module": 2, "package": 3, "session": 4}
# Nobody tells of a descriptor that is closed by its number alone: so often we look again.
_LOOK_AGAIN_S: Final = 0.02

Found = list[tuple[Entry, Finding]]


class Session:
    """The plugin that is switched on. Its hooks cost a test without sockets some 5 µs."""

    def __init__(self, config: pytest.Config, options: Options) -> None:
        self._config = config
        self._options = options
        self._default = replace(options.settings, enabled=options.always)
        self._settings: dict[pytest.Item, Settings] = {}
        self._reporter = Reporter(config, options)
        self._outside = Owner("what runs outside of tests", key="outside")
        self._lineage = Lineage(self._outside)
        self._ledger = Ledger(self._lineage.current)
        self._owner = self._outside
        self._of_test = self._default
        self._failed = False
        self._expected: int | None = None
        #: Wider than a test, and alive.
        self._fixtures: dict[Any, Owner] = {}
        self._ended: list[Owner] = []
        #: What objects complained of when our collection freed them.
        self._stirred: list[str] = []
        self._guard: guard.Guard | None = None
        self._give_back: Callable[[], None] | None = None
        self._read_baseline()
        if is_controller(config):  # of xdist: the tests run elsewhere
            self._reporter.register()
        else:
            self._install()

    def _read_baseline(self) -> None:
        path, update = self._options.baseline, self._options.update
        if path is None or (update and not path.exists()):
            return
        try:
            self._reporter.known = baseline.read(path)
        except BaselineError as error:
            raise pytest.UsageError(str(error)) from None
        self._reporter.register()

    def _install(self) -> None:
        try:
            config = load(environ=os.environ, folder=working_folder(), level="full")
        except ConfigError as error:
            raise pytest.UsageError(str(error)) from None
        self._guard, self._give_back = guard.borrow(config, self._ledger.note)
        self._lineage.install()

    def pytest_unconfigure(self) -> None:
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            self._lineage.uninstall()
            give_back()

    # -- who works now -----------------------------------------------------------------

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        enabled = replace(self._default, enabled=True)
        for item in session.items:
            if asks(item):
                self._settings[item] = settings_of(item, enabled)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self._of_test = self._settings.get(item, self._default)
        self._owner = owner = Owner(item.nodeid)
        owner.spared = not self._of_test.enabled
        self._failed = False
        self._expected = None
        self._lineage.begin(owner)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: Any, request: Any
    ) -> Generator[None, object, object]:
        if fixturedef.scope == "function":  # it ends with its test: it is the test's
            return (yield)
        scope, name = fixturedef.scope, fixturedef.argname
        owner = Owner(
            f"fixture {name} ({scope} scope)",
            key=f"fixture {fixturedef.baseid}::{name}",
            scope=_SCOPES[scope],
        )
        owner.spared = self._owner.spared and not self._options.always
        if (before := self._fixtures.pop(fixturedef, None)) is not None:  # another parameter
            self._end(before)
        try:
            with self._lineage.working_for(owner):
                value = yield
        except BaseException:
            self._end(owner)
            raise
        holder = request.cls or request.module if name.startswith(("_unittest_", "_xunit_")) else 0
        owner.root = (
            (lambda: vars(holder)) if holder else (lambda: (fixturedef.cached_result or (None,))[0])
        )
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

    def pytest_exception_interact(self, report: Any) -> None:
        if getattr(report, "when", None) in ("setup", "call"):
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
        self._judge_test(item, may_fail=not self._failed)
        return value

    def _judge_test(self, item: pytest.Item, *, may_fail: bool) -> None:
        """Raise ``SocketLeak`` if ``item`` is to fail; or tell in a section, if it has failed."""
        leak = None
        self._end(self._owner)
        self._lineage.begin(self._outside)
        with self._border():
            self._end_fixtures()
            owners = {id(owner) for owner in self._ended}
            if self._reporter.known or self._options.update:
                self._reporter.judged.update(owner.key for owner in self._ended)
            self._ended.clear()
            if self._ledger or self._expected is not None:
                mine = [entry for entry in self._ledger.open() if id(entry.owner) in owners]
                leak = self._verdict(self._leaking(mine, self._of_test.settle))
                self._lineage.forget_ended_threads()
        stirred = _warn(self._stirred)
        if leak is None:
            if stirred is not None and may_fail:
                raise stirred
            return
        self._reporter.register()
        item.user_properties.extend(("sockguard", site) for site in leak.sites)
        if may_fail:
            raise leak
        item.add_report_section("teardown", "socket leaks", str(leak))

    def _leaking(self, entries: list[Entry], settle: float) -> Found:
        """Return what of ``entries`` stays open; what a live fixture keeps is given to it."""
        found = self._examine(entries)
        found = self._give_to_fixtures(found)
        if found:
            if self._config.pluginmanager.hasplugin("unraisableexception"):
                _collect(self._stirred)
            else:
                gc.collect()
            found = self._settle([entry for entry, _ in found], settle)
        return found

    def _examine(self, entries: Iterable[Entry]) -> Found:
        by_serial = {entry.record.serial: entry for entry in entries if not entry.owner.spared}
        if not by_serial or self._guard is None:
            return []
        findings = self._guard.examine(entry.record for entry in by_serial.values())
        return [(by_serial[finding.serial], finding) for finding in findings]

    def _give_to_fixtures(self, found: Found) -> Found:
        live = sorted(self._fixtures.values(), key=lambda owner: -owner.scope)
        for owner in live if found else ():
            socks = {id(sock): entry for entry, _ in found if (sock := entry.record()) is not None}
            wanted = [entry.record() for entry in socks.values()]
            kept = reached(owner.root() if owner.root is not None else None, wanted)
            for key in kept:
                socks[key].owner = owner
            found = [pair for pair in found if pair[0].owner is not owner]
        return found

    def _settle(self, entries: list[Entry], seconds: float) -> Found:
        """Wait until ``entries`` are closed, at most ``seconds``; return those that are not."""
        deadline = time.monotonic() + seconds
        with _closing() as wait_for_a_close:
            while found := self._examine(entries):
                left = deadline - time.monotonic()
                if left <= 0:
                    return found
                wait_for_a_close(min(left, _LOOK_AGAIN_S))
        return []

    def _verdict(self, found: Found) -> SocketLeak | None:
        """Count what was found; return what fails the test, if anything does."""
        self._ledger.forget([entry for entry, _ in found])
        patterns = self._of_test.ignore
        found = [pair for pair in found if not is_ignored(pair[1], patterns)]
        groups: dict[tuple[Owner, str], list[Finding]] = defaultdict(list)
        for entry, finding in found:
            groups[entry.owner, finding.fingerprint].append(finding)
        blocks: list[str] = []
        sites: list[str] = []
        of_test = 0
        for (owner, fingerprint), findings in groups.items():
            known = self._count(owner, fingerprint, findings)
            if owner is self._owner:
                of_test += len(findings)
            if not self._options.update and len(findings) > known:
                blocks.append(_report(owner, findings, known, self._owner))
                sites.append(_site(findings))
        if self._expected is not None:
            if of_test == self._expected and all(owner is self._owner for owner, _ in groups):
                return None
            blocks.insert(0, f"{of_test} sockets leaked, {self._expected} were expected")
            sites = sites or [blocks[0]]
        elif sum(len(findings) for findings in groups.values()) <= self._of_test.allow:
            return None
        return SocketLeak("\n\n".join(blocks), sites) if blocks else None

    def _count(self, owner: Owner, fingerprint: str, findings: list[Finding]) -> int:
        """Note the leaks for the baseline; return how many of them it knows."""
        frame = culprit(findings[0].created.stack)
        # Without the line: the file is not to change with every edit above it.
        site = "unknown" if frame is None else f"{frame.function}, {module_name(frame.file)}"
        self._reporter.count(owner.key, fingerprint, Known(count=len(findings), site=site))
        known = self._reporter.known.get(owner.key, {}).get(fingerprint)
        return 0 if known is None else known.count

    # -- the end of the run ------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        value = yield
        with self._border():
            self._end_fixtures()
            found = self._leaking(self._ledger.open(), self._options.settings.settle)
            for entry, finding in found:
                self._reporter.late.append(f"{entry.owner.name}: {_site([finding])}")
            self._ledger.forget([entry for entry, _ in found])
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
            self._options = replace(self._options, always=False)
            self._default = replace(self._default, enabled=False)
            self._settings.clear()
            self._guard = None

    def _note(self, text: str) -> None:
        self._reporter.notes.append(text)
        self._reporter.register()

    # -- the fixture -------------------------------------------------------------------

    def handle(self) -> Handle:
        return Handle(self)

    def leaks_now(self, settle: float | None = None) -> Found:
        """Return what the running test leaks at this moment."""
        mine = [entry for entry in self._ledger.open() if entry.owner is self._owner]
        if settle is None:
            found = self._give_to_fixtures(self._examine(mine))
        else:
            found = self._leaking(mine, settle)
        return [pair for pair in found if not is_ignored(pair[1], self._of_test.ignore)]

    def check_now(self) -> None:
        found = self.leaks_now(self._of_test.settle)
        expected, self._expected = self._expected, None
        leak = self._verdict(found)
        self._expected = expected
        if leak is not None:
            self._reporter.register()
            raise leak

    def expect(self, count: int) -> None:
        self._expected = count

    def close_peers(self) -> int:
        if self._guard is None:
            return 0
        mine = [entry.record for entry in self._ledger.open() if entry.owner is self._owner]
        pairs = peers.far_sides(mine, self._guard.records())
        for _, far in pairs:
            peers.close(far)
        return len(pairs)


class Handle:
    """The fixture ``sockguard``: asks about the sockets of the running test."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def leaks(self) -> list[Finding]:
        """Return the test's open sockets whose peer has closed, as they are at this moment."""
        return [finding for _, finding in self._session.leaks_now()]

    def check(self) -> None:
        """Fail now, as at the end of the test: after a collection and the settle time."""
        self._session.check_now()

    def expect(self, count: int) -> None:
        """Have the test pass with just ``count`` leaks at its end, and fail with any other."""
        if type(count) is not int or count < 0:
            raise ValueError(f"expect({count!r}): give the number of leaks, 0 or more")
        self._session.expect(count)

    def close_peers(self) -> int:
        """Close the far side of the test's connections, where it lives in this process.

        In production the peer closes at its own time, in a test it often outlives the test.
        Each far side gets ``shutdown(SHUT_RDWR)``: the near one receives a FIN. Where both
        ends are the test's, the one that was accepted is the far one; of a socket pair, the
        second. Returns how many connections that were.
        """
        return self._session.close_peers()


class IdleHandle(Handle):
    """With ``--no-sockguard``: nothing is looked at."""

    def __init__(self) -> None:
        """Without a session."""

    def leaks(self) -> list[Finding]:
        return []

    def check(self) -> None:
        """Nothing is known."""

    def expect(self, count: int) -> None:
        """Nothing is known."""

    def close_peers(self) -> int:
        return 0


def is_controller(config: pytest.Config) -> bool:
    """Tell the process of pytest-xdist that distributes the tests."""
    return getattr(config.option, "dist", "no") != "no" and not hasattr(config, "workerinput")


def _site(findings: list[Finding]) -> str:
    frame = culprit(findings[0].created.stack)
    where = "at an unknown place" if frame is None else f"at {wording.place(frame)}"
    return f"{wording.plural(len(findings), 'socket')} leaked, opened {where}"


def _report(owner: Owner, findings: list[Finding], known: int, test: Owner) -> str:
    oldest = max(findings, key=lambda finding: finding.since_fin_ns)
    count = len(findings)
    event = Event(
        name=LEAK, finding=oldest, at_ns=oldest.at_ns, group_count=count, group_open=count
    )
    lines = wording.leak(event, count, None)
    if owner is not test:
        lines.insert(1, f"  {'of':<8} {owner.name}, which ended with this test")
    if known:
        lines.insert(1, f"  {'known':<8} {known} of them, by the baseline")
    return "\n".join(lines)


@contextmanager
def _closing() -> Iterator[Callable[[float], object]]:
    """Yield a function that waits until a socket is closed somewhere, or a time is up."""
    closed = allocate_lock()
    closed.acquire()

    def hook(original: Method) -> Any:
        def _real_close(self: Any, *args: Any, **kwargs: Any) -> None:
            try:
                original(self, *args, **kwargs)
            except BaseException as error:
                strip(error)
                raise
            with suppress(RuntimeError):  # it is told already
                closed.release()

        return dress(_real_close, original)  # type: ignore[arg-type]

    placement = Placement()
    placement.place(socket.socket, "_real_close", hook)
    try:
        yield lambda seconds: closed.acquire(timeout=seconds)
    finally:
        placement.remove()


def _collect(stirred: list[str]) -> None:
    """Collect garbage; put what objects complain of at their end into ``stirred``.

    pytest would tell it of the next test, where it fails under ``-W error``.
    """

    def note(unraisable: Any) -> None:
        told = traceback.format_exception(
            unraisable.exc_type, unraisable.exc_value, unraisable.exc_traceback
        )
        head = unraisable.err_msg or "Exception ignored in"
        stirred.append(f"{head}: {unraisable.object!r}\n\n{''.join(told)}")

    before, sys.unraisablehook = sys.unraisablehook, note
    try:
        gc.collect()
    finally:
        sys.unraisablehook = before


def _warn(stirred: list[str]) -> pytest.PytestWarning | None:
    """Give out as pytest does what a collection stirred up; return it where that is an error."""
    failure = None
    while stirred:
        try:
            warnings.warn(pytest.PytestUnraisableExceptionWarning(stirred.pop(0)), stacklevel=2)
        except pytest.PytestWarning as error:
            failure = failure or error
    return failure
