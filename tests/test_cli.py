"""The command line: what can't be carried out is one sentence, and nothing is run."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.programs import clean_environment

import sockguard
from sockguard.cli import parse
from sockguard.config import OPTIONS

RUNNER = (sys.executable, "-m", "sockguard")
APP = "open('ran', 'w').close()\n"
WRONG_COMMANDS = {
    "nothing to run": (),
    "only options": ("--quiet",),
    "no such script": ("missing.py",),
    "not Python": ("essay.txt",),
    "not text": ("picture.png",),
    "null bytes": ("null.py",),
    "folder without __main__": ("folder",),
    "zip without __main__": ("app.zip",),
    "no such module": ("-m", "missing_module"),
    "-m without a name": ("-m",),
    "-c without code": ("-c",),
    "unknown option": ("--treshold", "3", "app.py"),
    "unknown short option": ("-x", "app.py"),
    "option without value": ("--threshold",),
    "flag with a value": ("--quiet=1", "app.py"),
    "bad threshold": ("--threshold", "-1", "app.py"),
    "threshold is not a number": ("--threshold=nan", "app.py"),
    "threshold is text": ("--threshold", "abc", "app.py"),
    "unknown level": ("--level", "loud", "app.py"),
    "bad exit code": ("--exit-code", "0", "app.py"),
    "bad pattern": ("--ignore", "fine", "--ignore", "(", "app.py"),
    "missing output folder": ("--output", "missing/leaks.jsonl", "app.py"),
    "output is a folder": ("--output", "folder", "app.py"),
    "run without a program": ("run",),
    "run, nothing behind --": ("run", "--threshold", "1", "--"),
    "run, no such program": ("run", "--", "no-such-program"),
    "run, not executable": ("run", "--", "./app.py"),
    "run, unknown option": ("run", "--nonsense", "--", "true"),
    "doctor with an argument": ("doctor", "app.py"),
    "doctor with a bad value": ("doctor", "--threshold", "abc"),
}
CULPRITS = {
    "no such script": "missing.py",
    "not Python": "essay.txt, line 2",
    "not text": "picture.png",
    "null bytes": "null.py",
    "folder without __main__": "folder",
    "zip without __main__": "app.zip",
    "no such module": "missing_module",
    "unknown option": "--treshold",
    "unknown short option": "-x",
    "option without value": "--threshold",
    "flag with a value": "--quiet",
    "bad threshold": "--threshold=-1",
    "threshold is not a number": "--threshold=nan",
    "threshold is text": "--threshold=abc",
    "unknown level": "--level=loud",
    "bad exit code": "--exit-code=0",
    "bad pattern": "'('",
    "missing output folder": "missing",
    "run, no such program": "no-such-program",
    "run, unknown option": "--nonsense",
}
WRONG_VALUES = {
    "threshold": ("SOCKGUARD_THRESHOLD", "abc"),
    "negative threshold": ("SOCKGUARD_THRESHOLD", "-1"),
    "level": ("SOCKGUARD_LEVEL", "loud"),
    "output": ("SOCKGUARD_OUTPUT", "missing/leaks.jsonl"),
    "ignore": ("SOCKGUARD_IGNORE", "("),
    "interval": ("SOCKGUARD_INTERVAL", "0"),
    "unknown variable": ("SOCKGUARD_TRESHOLD", "3"),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "essay.txt").write_text("x = 1\nOnce upon a time\n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    (tmp_path / "null.py").write_bytes(b"x = 1\0\n")
    (tmp_path / "folder").mkdir()
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        archive.writestr("app.py", APP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def outcome(*words: str, code: int = 0, **environ: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        words,
        env=clean_environment(**environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    return done


def assert_a_sentence(text: str, culprit: str) -> None:
    assert re.fullmatch(r"sockguard: [^\n]+\n", text)
    assert culprit in text
    assert "Traceback" not in text


@pytest.mark.parametrize("name", WRONG_COMMANDS)
def test_what_cannot_be_carried_out_is_one_sentence_and_nothing_is_run(
    name: str, folder: Path
) -> None:
    done = outcome(*RUNNER, *WRONG_COMMANDS[name], code=2)
    assert done.stdout == ""
    assert_a_sentence(done.stderr, CULPRITS.get(name, ""))
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("name", WRONG_VALUES)
def test_a_wrong_variable_is_an_error_on_the_command_line(name: str, folder: Path) -> None:
    variable, value = WRONG_VALUES[name]
    done = outcome(*RUNNER, "app.py", code=2, **{variable: value})
    assert_a_sentence(done.stderr, variable)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("name", WRONG_VALUES)
def test_a_wrong_variable_is_one_warning_in_a_service_that_runs(name: str, folder: Path) -> None:
    variable, value = WRONG_VALUES[name]
    done = outcome(sys.executable, "app.py", SOCKGUARD="1", **{variable: value})
    assert_a_sentence(done.stderr, variable)
    assert "(the default is used)" in done.stderr
    assert (folder / "ran").exists()


BAD_FILES = {
    "threshold": ("threshold = -1", "threshold"),
    "unknown option": ("treshold = 1", "treshold"),
    "level": ("level = 'loud'", "level"),
    "no TOML": ("threshold = ", "pyproject.toml"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_wrong_pyproject_is_an_error_here_and_a_warning_in_a_service(
    name: str, folder: Path
) -> None:
    text, culprit = BAD_FILES[name]
    (folder / "pyproject.toml").write_text(f"[tool.sockguard]\n{text}\n")
    done = outcome(*RUNNER, "app.py", code=2)
    assert_a_sentence(done.stderr, culprit)
    assert not (folder / "ran").exists()
    done = outcome(sys.executable, "app.py", SOCKGUARD="1")
    assert_a_sentence(done.stderr, culprit)
    assert (folder / "ran").exists()


CONFIGURATION = (
    "import sockguard.guard as g; c = g.installed().config; print(c.threshold, c.level, c.depth)"
)


def test_a_service_with_wrong_values_runs_with_the_right_ones_and_the_defaults(
    folder: Path,
) -> None:
    environ = {"SOCKGUARD_THRESHOLD": "abc", "SOCKGUARD_LEVEL": "full", "SOCKGUARD_DEPTH": "-2"}
    done = outcome(sys.executable, "-c", CONFIGURATION, SOCKGUARD="1", **environ)
    assert done.stdout == "60.0 full 32\n"
    assert_a_sentence(done.stderr, "SOCKGUARD_THRESHOLD=abc")
    assert "SOCKGUARD_DEPTH=-2" in done.stderr


def test_the_command_line_overrides_the_environment_and_that_the_file(folder: Path) -> None:
    (folder / "pyproject.toml").write_text(
        "[tool.sockguard]\nthreshold = 1\ndepth = 1\nlevel = 'light'\n"
    )
    environ = {"SOCKGUARD_THRESHOLD": "2", "SOCKGUARD_DEPTH": "2"}
    done = outcome(*RUNNER, "--threshold", "0", "-c", CONFIGURATION, **environ)
    assert done.stdout == "0.0 light 2\n"
    done = outcome(sys.executable, "-c", CONFIGURATION, SOCKGUARD="1", **environ)
    assert done.stdout == "2.0 light 2\n"


def test_the_level_is_full_under_the_runner_and_light_in_a_service() -> None:
    assert outcome(*RUNNER, "-c", CONFIGURATION).stdout == "60.0 full 32\n"
    program = [sys.executable, "-c", CONFIGURATION]
    assert outcome(*program, SOCKGUARD="1").stdout == "60.0 light 32\n"
    assert outcome(*RUNNER, "run", "--", *program).stdout == "60.0 light 32\n"


def test_the_output_is_named_after_each_process(folder: Path) -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'pass'])"
    process = subprocess.Popen(
        [*RUNNER, "--quiet", "--output", "leaks-{pid}.jsonl", "-c", child],
        env=clean_environment(),
    )
    assert process.wait(60) == 0
    files = {path.name for path in folder.glob("leaks-*.jsonl")}
    assert f"leaks-{process.pid}.jsonl" in files
    assert len(files) == 2
    assert all(re.fullmatch(r"leaks-\d+\.jsonl", name) for name in files)


def test_quiet_says_nothing() -> None:
    assert outcome(*RUNNER, "--quiet", "app.py").stderr == ""


def test_the_help_lists_every_option_with_its_variable() -> None:
    text = outcome(*RUNNER, "--help").stdout
    for option in OPTIONS:
        assert f"  {option.flag} {option.metavar or ''}".rstrip() in text
        assert f"[{option.variable}]" in text
    for usage in ("python -m sockguard [OPTIONS] app.py", "sockguard run", "sockguard doctor"):
        assert usage in text
    assert outcome(*RUNNER, "--version").stdout == f"sockguard {sockguard.__version__}\n"


def test_doctor_prints_every_row_and_where_a_value_comes_from(folder: Path) -> None:
    (folder / "pyproject.toml").write_text("[tool.sockguard]\ndepth = 5\n")
    done = outcome(
        *RUNNER, "doctor", "--threshold", "3", "--observer=portable", SOCKGUARD_QUIET="1"
    )
    rows = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert done.stderr == ""
    assert rows["threshold"] == "3.0 (--threshold)"
    assert rows["quiet"] == "True (SOCKGUARD_QUIET)"
    assert rows["depth"] == f"5 ({folder / 'pyproject.toml'}: depth)"
    assert rows["level"] == "'light' (default)"
    assert rows["sockguard"] == sockguard.__version__
    assert rows["SOCKGUARD"].startswith("off")
    assert rows["wrapt"][0].isdigit()
    assert rows["opentelemetry-api"][0].isdigit()
    assert "sockguard.pth" in rows["startup"]
    assert rows.keys() >= {
        "python",
        "system",
        "TCP_INFO",
        "sock_diag",
        "open",
        *(o.name for o in OPTIONS),
    }
    assert re.search(r"^observer +portable \(.+\)$", done.stdout, re.MULTILINE)
    assert re.search(r"^observer +'portable' \(--observer\)$", done.stdout, re.MULTILINE)


def test_doctor_says_that_a_service_here_would_be_guarded() -> None:
    assert re.search(
        r"^SOCKGUARD +on$", outcome(*RUNNER, "doctor", SOCKGUARD="1").stdout, re.MULTILINE
    )


@pytest.mark.parametrize(
    ("words", "verb", "options", "rest"),
    [
        ("app.py --threshold 3", "python", {}, "app.py --threshold 3"),
        ("--threshold 3 app.py", "python", {"threshold": "3"}, "app.py"),
        ("--threshold=3 -m run x", "python", {"threshold": "3"}, "-m run x"),
        ("--ignore a --ignore=b -c x", "python", {"ignore": ["a", "b"]}, "-c x"),
        ("-- app.py --quiet", "python", {}, "app.py --quiet"),
        ("-- run", "python", {}, "run"),
        ("./run --quiet", "python", {}, "./run --quiet"),
        ("- x", "python", {}, "- x"),
        ("run app --quiet", "run", {}, "app --quiet"),
        ("--quiet run --level full -- a -- b", "run", {"quiet": True, "level": "full"}, "a -- b"),
        ("doctor --depth 3", "doctor", {"depth": "3"}, ""),
    ],
)
def test_options_end_where_the_program_begins(
    words: str, verb: str, options: dict[str, object], rest: str
) -> None:
    command = parse(words.split())
    assert (command.verb, command.options, command.rest) == (verb, options, rest.split())


def test_a_file_of_a_verbs_name_is_run_by_its_path(folder: Path) -> None:
    for name in ("run", "doctor"):
        (folder / name).write_text("import sys; print('file', sys.argv)")
        assert outcome(*RUNNER, f"./{name}").stdout == f"file ['./{name}']\n"
    assert outcome(*RUNNER, "--", "run").stdout == "file ['run']\n"


def test_a_reader_that_stops_reading_is_no_error_of_ours():
    speaker = subprocess.Popen(
        [*RUNNER, "doctor"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(),
    )
    assert speaker.stdout is not None
    speaker.stdout.close()  # before it has said anything
    assert speaker.stderr is not None
    with speaker.stderr as errors:
        assert errors.read() == b""
    assert speaker.wait(timeout=30) == 1
