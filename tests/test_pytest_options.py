"""The options of ``pytest --sockguard``: wrong values are usage errors, known leaks are a file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from support.programs import clean_environment

PATIENCE_S = 60.0
USAGE_ERROR = 4
# By name, and nothing else that may be installed: a start costs a third.
COMMAND = ["-q", "-p", "no:cacheprovider", "-p", "sockguard.pytest_plugin"]
XDIST = ["-p", "xdist", "-n", "2"]

SUITE = """
    import os
    import socket

    KEPT = []

    def leak():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            KEPT.append(socket.create_connection(listener.getsockname()))
            listener.accept()[0].close()

    def test_a():
        for _ in range(int(os.environ.get("LEAKS_OF_A", "1"))):
            leak()

    def test_b():
        for _ in range(int(os.environ.get("LEAKS_OF_B", "0"))):
            leak()
"""


@dataclass(frozen=True)
class Outcome:
    code: int
    text: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.text.splitlines() if line.startswith("ERROR: ")]


def run(folder: Path, *arguments: str | Path, **environ: str) -> Outcome:
    """Run ``python -m pytest`` in ``folder``."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *COMMAND, *map(str, arguments)],
        cwd=folder,
        env=clean_environment(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", **environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return Outcome(done.returncode, done.stdout)


def a_suite(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in {"test_suite.py": SUITE, **files}.items():
        (folder / name).write_text(dedent(text))
    (folder / "pytest.ini").touch()
    return folder


# -- wrong values ----------------------------------------------------------------------

SECONDS = "give seconds from 0 to 3600, like 0.2"
BAD_SECONDS = ("soon", "-1", "nan", "inf", "3601", "0,2", "0.2s", "true", "")
MARK = "@pytest.mark.sockguard(enabled=True, settle=0.2, ignore=['PATTERN'], allow=0)"
CURE = "mend it, or write it anew with --sockguard-update-baseline"

#: By what is written in the marker: what is complained of.
BAD_MARKERS = {
    "5": "the marker sockguard takes keywords only",
    "enabled=1": "the marker sockguard can't have enabled=1",
    "enabled=None": "the marker sockguard can't have enabled=None",
    "settle='soon'": f"settle=soon: {SECONDS}",
    "settle=-0.1": f"settle=-0.1: {SECONDS}",
    "settle=True": f"settle=True: {SECONDS}",
    "settle=None": f"settle=None: {SECONDS}",
    "settle=[1]": f"settle=[1]: {SECONDS}",
    "allow=-1": "the marker sockguard can't have allow=-1",
    "allow=True": "the marker sockguard can't have allow=True",
    "allow='1'": "the marker sockguard can't have allow='1'",
    "ignore='a'": "the marker sockguard can't have ignore='a'",
    "ignore=['(']": "ignore=['('] has a bad pattern"
    " (missing ), unterminated subpattern at position 0)",
    "ignore=[1]": "ignore=[1] has a bad pattern"
    " (first argument must be string or compiled pattern)",
    "depth=3": "the marker sockguard can't have depth=3",
}

BAD_FILES = {
    "garbage.json": "is no baseline of sockguard; " + CURE,
    "version.json": "has version 2, this sockguard reads 1; "
    "write it anew with --sockguard-update-baseline",
    "missing.json": "does not exist; create it with --sockguard-update-baseline",
}


@dataclass(frozen=True)
class Case:
    """Arguments and environment of a run, and the one sentence that it ends with."""

    arguments: tuple[str, ...]
    complaint: str
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return " ".join(
            [*(f"{name}={value}" for name, value in self.environ.items()), *self.arguments]
        )


ON = ("--sockguard", "test_suite.py")
UPDATE = "--sockguard-update-baseline"
BAD_LEVEL = "SOCKGUARD_LEVEL=nonsense: give light or full"

CASES = [
    *(
        Case((f"--sockguard-settle={value}", *ON), f"--sockguard-settle={value}: {SECONDS}")
        for value in BAD_SECONDS
    ),
    *(
        Case(("-o", f"sockguard_settle={value}", *ON), f"sockguard_settle={value}: {SECONDS}")
        for value in BAD_SECONDS
        if value
    ),
    *(
        Case((*flags, *ON), f"baseline FOLDER/{name} {said}")
        for name, said in BAD_FILES.items()
        for flags in (("--sockguard-baseline", name), ("-o", f"sockguard_baseline={name}"))
    ),
    Case(
        ("--sockguard-baseline=.", *ON),
        f"baseline FOLDER can't be read ([Errno 21] Is a directory: 'FOLDER'); {CURE}",
    ),
    *(
        Case((f"test_marker_{number}.py",), f"test_marker_{number}.py::test_a: {said}; use {MARK}")
        for number, said in enumerate(BAD_MARKERS.values())
    ),
    Case(
        ("--sockguard-baseline=garbage.json", UPDATE, *ON),
        f"baseline FOLDER/garbage.json {BAD_FILES['garbage.json']}",
    ),
    Case((UPDATE, *ON), f"{UPDATE} needs a file; name it with --sockguard-baseline FILE"),
    Case(ON, BAD_LEVEL, {"SOCKGUARD_LEVEL": "nonsense"}),
    Case(("test_asks.py",), BAD_LEVEL, {"SOCKGUARD_LEVEL": "nonsense"}),
]

DRIVER = """
import contextlib, io, json, os, sys
import pytest

outcomes = []
for arguments, environ in json.load(sys.stdin):
    os.environ.update(environ)
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
        code = pytest.main(arguments)
    for name in environ:
        del os.environ[name]
    outcomes.append((int(code), said.getvalue()))
print(json.dumps(outcomes))
"""

ASKS = """
    def test_a(sockguard):
        assert sockguard.leaks() == []
"""


def a_marked(marker: str) -> str:
    return f"""
    import pytest

    @pytest.mark.sockguard({marker})
    def test_a():
        pass
    """


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    markers = {f"test_marker_{number}.py": a_marked(m) for number, m in enumerate(BAD_MARKERS)}
    files = {
        "garbage.json": "{",
        "version.json": '{"version": 2, "leaks": {}}',
        "test_asks.py": ASKS,
    }
    return a_suite(tmp_path_factory.mktemp("broken"), **markers, **files)


@pytest.fixture(scope="module")
def outcomes(broken: Path) -> list[Outcome]:
    """Run all cases by ``pytest.main`` in one process: a start takes longer than a run."""
    told = json.dumps([([*COMMAND, *case.arguments], case.environ) for case in CASES])
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        cwd=broken,
        env=clean_environment(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"),
        input=told,
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    return [Outcome(code, said) for code, said in json.loads(done.stdout.splitlines()[-1])]


def assert_one_sentence(outcome: Outcome, complaint: str) -> None:
    assert outcome.errors == [f"ERROR: {complaint}"], outcome.text
    assert outcome.code == USAGE_ERROR
    for word in ("Traceback", "INTERNALERROR", "passed", "failed"):
        assert word not in outcome.text


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.name for case in CASES])
def test_a_wrong_value_is_one_sentence_with_the_culprit_and_the_cure(number, outcomes, broken):
    complaint = CASES[number].complaint.replace("FOLDER", str(broken))
    assert_one_sentence(outcomes[number], complaint)


#: Some of them as people run them, and with workers.
REAL = {
    "an option": Case(("--sockguard-settle=soon", *ON), f"--sockguard-settle=soon: {SECONDS}"),
    "a file, with workers": Case(
        (*XDIST, "--sockguard-baseline=garbage.json", *ON),
        f"baseline FOLDER/garbage.json {BAD_FILES['garbage.json']}",
    ),
    "the environment, with workers": Case(
        (*XDIST, *ON), BAD_LEVEL, {"SOCKGUARD_LEVEL": "nonsense"}
    ),
}


@pytest.mark.parametrize("case", REAL.values(), ids=REAL.keys())
def test_a_wrong_value_ends_a_real_run(case, broken):
    outcome = run(broken, *case.arguments, **case.environ)
    assert_one_sentence(outcome, case.complaint.replace("FOLDER", str(broken)))


def test_a_wrong_marker_ends_a_run_with_workers_too(broken):
    outcome = run(broken, *XDIST, "test_marker_0.py")
    said = f"test_marker_0.py::test_a: {BAD_MARKERS['5']}; use {MARK}"
    assert said in outcome.text
    assert "INTERNALERROR" not in outcome.text
    assert "Traceback" not in outcome.text
    assert outcome.code not in (0, 3)


def test_what_is_switched_off_is_not_read(broken):
    wrong = ["--sockguard-settle=soon", "--sockguard-baseline=garbage.json"]
    outcome = run(broken, "--no-sockguard", *wrong, "test_marker_0.py", SOCKGUARD_LEVEL="nonsense")
    assert (outcome.code, outcome.errors) == (0, [])


# -- the life of a baseline ------------------------------------------------------------


def written(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text("utf-8"))
    assert content["version"] == 1
    leaks: dict[str, Any] = content["leaks"]
    return leaks


def counts(outcome: Outcome) -> str:
    return outcome.text.splitlines()[-1].partition(" in ")[0]


def leaking(suite: Path, a: int, b: int, *arguments: str) -> Outcome:
    options = ["--sockguard", "--sockguard-settle=0", "--sockguard-baseline=known.json"]
    return run(suite, *options, *arguments, LEAKS_OF_A=str(a), LEAKS_OF_B=str(b))


def gone_lines(outcome: Outcome) -> list[str]:
    return [line for line in outcome.text.splitlines() if "instead of" in line]


def test_known_leaks_pass_more_fail_and_gone_ones_are_named(tmp_path):
    suite = a_suite(tmp_path)
    known = suite / "known.json"
    known.write_text('{"version": 1, "leaks": {}}')
    new = leaking(suite, 1, 0)
    assert (new.code, counts(new)) == (1, "2 passed, 1 socket leak")
    assert "by the baseline" not in new.text
    known.unlink()

    made = leaking(suite, 1, 3, UPDATE)
    assert made.code == 0, made.text
    assert f"{known} written: 4 sockets are known to leak" in made.text
    leaks = written(known)
    ((fingerprint, of_a),) = leaks["test_suite.py::test_a"].items()
    ((same, of_b),) = leaks["test_suite.py::test_b"].items()
    assert of_a == {"count": 1, "site": "leak, test_suite"}
    assert of_b == {"count": 3, "site": "leak, test_suite"}

    same_again = leaking(suite, 1, 3)
    assert (same_again.code, counts(same_again)) == (0, "2 passed")
    assert "baseline" not in same_again.text

    more = leaking(suite, 2, 3)
    assert (more.code, counts(more)) == (1, "2 passed, 1 socket leak")
    assert "2 sockets leaked here" in more.text
    assert "known    1 of them, by the baseline" in more.text
    assert gone_lines(more) == []

    fewer = leaking(suite, 0, 1)
    assert fewer.code == 0, fewer.text
    assert "gone from the baseline: --sockguard-update-baseline" in fewer.text
    assert gone_lines(fewer) == [
        f"test_suite.py::test_a: [{fingerprint}] leak, test_suite: 0 instead of 1",
        f"test_suite.py::test_b: [{same}] leak, test_suite: 1 instead of 3",
    ]
    assert written(known) == leaks

    shrunk = leaking(suite, 0, 1, UPDATE)
    assert shrunk.code == 0
    assert "1 sockets are known to leak" in shrunk.text
    assert written(known) == {"test_suite.py::test_b": {same: {**of_b, "count": 1}}}


def test_workers_share_a_baseline(tmp_path):
    suite = a_suite(tmp_path)
    known = suite / "known.json"
    made = leaking(suite, 1, 3, UPDATE, *XDIST)
    assert made.code == 0, made.text
    assert f"{known} written: 4 sockets are known to leak" in made.text
    leaks = written(known)
    counted = {key: [each["count"] for each in of_it.values()] for key, of_it in leaks.items()}
    assert counted == {"test_suite.py::test_a": [1], "test_suite.py::test_b": [3]}

    changed = leaking(suite, 2, 1, *XDIST)
    assert (changed.code, counts(changed)) == (1, "2 passed, 1 socket leak")
    assert "known    1 of them, by the baseline" in changed.text
    assert len(gone_lines(changed)) == 1
    assert written(known) == leaks

    shrunk = leaking(suite, 0, 0, UPDATE, *XDIST)
    assert shrunk.code == 0
    assert written(known) == {}


def test_a_test_that_asks_has_its_own_outcome_with_workers_too(tmp_path):
    asks = "    from test_suite import leak\n" + a_marked("").replace("pass", "leak()")
    outcome = run(a_suite(tmp_path, **{"test_asks.py": asks}), *XDIST, "test_asks.py")
    assert (outcome.code, counts(outcome)) == (1, "1 passed, 1 socket leak")


def test_a_part_of_the_tests_leaves_the_entries_of_the_others_alone(tmp_path):
    suite = a_suite(tmp_path)
    known = suite / "known.json"
    other = {"test_suite.py::test_a": {"b1": {"count": 1, "site": "leak, test_suite"}}}
    mine = {"test_suite.py::test_b": {"b1": {"count": 2, "site": "leak, test_suite"}}}
    known.write_text(json.dumps({"version": 1, "leaks": {**other, **mine}}))
    part = leaking(suite, 1, 0, "-k", "test_b")
    assert gone_lines(part) == ["test_suite.py::test_b: [b1] leak, test_suite: 0 instead of 2"]
    assert leaking(suite, 1, 0, "-k", "test_b", UPDATE).code == 0
    assert written(known) == other


def test_paths_of_the_ini_file_start_there_and_paths_of_the_command_line_here(tmp_path):
    suite = a_suite(tmp_path)
    (suite / "pytest.ini").write_text(
        "[pytest]\nsockguard = true\nsockguard_settle = 0\nsockguard_baseline = of/ini.json\n"
    )
    (suite / "of").mkdir()
    (suite / "below").mkdir()
    assert run(suite / "below", "..", UPDATE).code == 0
    assert list(written(suite / "of" / "ini.json")) == ["test_suite.py::test_a"]
    here = run(suite / "below", "..", "--sockguard-baseline=here.json", UPDATE)
    assert here.code == 0
    assert written(suite / "below" / "here.json") == written(suite / "of" / "ini.json")


@pytest.mark.parametrize("place", ["missing/known.json", "test_suite.py/known.json", "folder"])
def test_a_baseline_that_can_not_be_written_is_said_once(place, tmp_path):
    suite = a_suite(tmp_path)
    (suite / "folder" / "below").mkdir(parents=True)
    outcome = run(suite, "--sockguard", f"--sockguard-baseline={place}", UPDATE)
    assert outcome.code == USAGE_ERROR
    (line,) = [line for line in outcome.text.splitlines() if str(suite / place) in line]
    assert "can't be" in line
    assert "Traceback" not in outcome.text


LEAKS_LATE = """
    from test_suite import leak

    def pytest_sessionfinish():
        leak()
"""


def test_what_leaks_behind_the_last_test_is_told(tmp_path):
    suite = a_suite(tmp_path, **{"conftest.py": LEAKS_LATE})
    outcome = run(suite, "--sockguard", "--sockguard-settle=0", "-k", "test_b")
    assert "what runs outside of tests: 1 socket leaked, opened at" in outcome.text
