"""How a run tells of leaks: an outcome of its own, a section, and what came too late."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from typing import Any, Final

import pytest
from _pytest.outcomes import Failed  # pytest.fail.Exception, by a name that can be checked

from sockguard import baseline
from sockguard.baseline import Known, Leaks

OUTCOME: Final = "socket leak"
SECTION: Final = "socket leaks"
_MARK: Final = "sockguard"


class SocketLeak(Failed):
    """Fails the test. ``sites``: a line for each place that leaked."""

    def __init__(self, text: str, sites: Sequence[str]) -> None:
        super().__init__(text, pytrace=False)
        self.sites = list(sites)


class Reporter:
    """Gathers what the run found, from this process or, with xdist, from the workers.

    Registered when there is something to tell: until then it costs a test nothing.
    """

    def __init__(self, config: pytest.Config, options: Any) -> None:
        self._config = config
        self._options = options
        self.known: Leaks = {}
        self.found: Leaks = {}
        self.judged: set[str] = set()
        self.late: list[str] = []
        self.notes: list[str] = []
        self._registered = False
        self._written = False

    def register(self) -> None:
        if not self._registered:
            self._registered = True
            self._config.pluginmanager.register(self, "sockguard_reporter")

    def count(self, key: str, fingerprint: str, known: Known) -> None:
        baseline.merge(self.found, {key: {fingerprint: known}})

    # -- between processes -------------------------------------------------------------

    def for_controller(self) -> str:
        """Return, as JSON, what a worker of xdist found."""
        return json.dumps(
            {
                "found": {
                    key: {name: [known.count, known.site] for name, known in of_it.items()}
                    for key, of_it in self.found.items()
                },
                "judged": sorted(self.judged),
                "late": self.late,
                "notes": self.notes,
            }
        )

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        told = getattr(node, "workeroutput", {}).get(_MARK)
        if told is None:  # it crashed
            return
        content = json.loads(told)
        for key, of_it in content["found"].items():
            for name, (count, site) in of_it.items():
                self.count(key, name, Known(count=count, site=site))
        self.judged.update(content["judged"])
        self.late += content["late"]
        self.notes += [note for note in content["notes"] if note not in self.notes]

    # -- one test ----------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[Any]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        error = None if call.excinfo is None else call.excinfo.value
        if isinstance(error, SocketLeak):
            setattr(report, _MARK, error.sites)
            # An expected failure is one of the test's own; this is not what was expected.
            report.outcome = "failed"
            vars(report).pop("wasxfail", None)
            report.longrepr = str(error)
        return report

    def pytest_report_teststatus(self, report: Any) -> Any:
        if report.outcome == "failed" and getattr(report, _MARK, None):
            return OUTCOME, "L", ("SOCKET LEAK", {"red": True})
        return None

    # -- the end -----------------------------------------------------------------------

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        write = terminalreporter
        reports = write.stats.get(OUTCOME, [])
        self._tell_of_setup_errors(write)
        if reports:
            write.stats.setdefault("error", [])  # the last line is to be red
            if self._config.getoption("tbstyle", "auto") != "no":
                write.section("SOCKET LEAKS", sep="=", red=True, bold=True)
                for report in reports:
                    write.section(report.head_line or report.nodeid, sep="_", red=True, bold=True)
                    write.line(report.longreprtext)
            write.section("socket leak summary", sep="=")
            for report in reports:
                for site in getattr(report, _MARK):
                    write.write("SOCKET LEAK", red=True)
                    write.line(f" {report.nodeid} - {site}")
        if self.late:
            write.section("sockets that leaked after their test had been judged", sep="=")
            for line in self.late:
                write.line(line)
        if self._options is not None and self._options.baseline is not None:
            self._tell_baseline(write)
        for note in self.notes:
            write.line(f"sockguard: {note}", yellow=True)

    def _tell_of_setup_errors(self, write: Any) -> None:
        """Write the sections that pytest leaves out: those of a teardown behind a failed setup."""
        if self._config.getoption("tbstyle", "auto") == "no":
            return
        broken = {r.nodeid for r in write.stats.get("error", []) if r.when == "setup"}
        for report in write.stats.get("", []):
            if report.nodeid in broken and report.when == "teardown":
                for title, text in report.sections:
                    if SECTION in title:
                        write.section(f"{title} of {report.head_line or report.nodeid}", sep="-")
                        write.line(text)

    def _tell_baseline(self, write: Any) -> None:
        path = self._options.baseline
        if self._options.update:
            if not self._written:
                return  # a note says why
            leaks = baseline.updated(self.known, self.found, self.judged)
            count = sum(known.count for of_it in leaks.values() for known in of_it.values())
            write.line(f"sockguard: {path} written: {count} sockets are known to leak")
            return
        gone = baseline.gone(self.known, self.found, self.judged)
        if gone:
            write.section("gone from the baseline: --sockguard-update-baseline", sep="=")
            for line in gone:
                write.line(line)

    def write_baseline(self) -> None:
        """Carry out ``--sockguard-update-baseline``. Raises ``BaselineError``."""
        if self._options.update and self._options.baseline is not None:
            leaks = baseline.updated(self.known, self.found, self.judged)
            baseline.write(self._options.baseline, leaks)
            self._written = True
