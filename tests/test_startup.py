"""The start-up files: they put a process under guard, and one that is not pays nothing."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from support.programs import clean_environment

from sockguard import startup

OURS = (
    "import sys; print(sorted(n for n in sys.modules if n.partition('.')[0] in "
    "('sockguard', 'wrapt', 'opentelemetry')))"
)
STATE = """\
import sys
guard = sys.modules.get("sockguard.guard")
print(guard is not None and guard.installed() is not None)
"""
SITE = Path(sysconfig.get_path("purelib"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        env=clean_environment(**environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def said(*words: str, **environ: str) -> str:
    done = run(*words, **environ)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_startup_files_are_in_site_packages_and_say_one_thing() -> None:
    line = (SITE / "sockguard.pth").read_text()
    assert line.startswith("import ")  # else `site` takes it for a folder
    assert line.count("\n") == 1
    assert 'os.environ.get("SOCKGUARD", "0")' in line
    assert (SITE / "sockguard.start").read_text() == "sockguard.startup:start\n"


@pytest.mark.parametrize("environ", [{}, {"SOCKGUARD": "0"}, {"SOCKGUARD": ""}])
def test_without_sockguard_in_the_environment_nothing_of_ours_is_loaded(
    environ: dict[str, str],
) -> None:
    assert said("-c", OURS, **environ) == "[]\n"


@pytest.mark.parametrize("environ", [{}, {"SOCKGUARD": "0"}, {"SOCKGUARD": ""}])
def test_the_start_itself_asks_for_the_environment_too(environ: dict[str, str]) -> None:
    """``sockguard.start`` calls it with no condition before it."""
    code = f"from sockguard import startup; startup.start()\n{STATE}"
    assert said("-c", code, **environ) == "False\n"


@pytest.mark.parametrize("flags", [(), ("-I",), ("-E",), ("-s",), ("-X", "dev"), ("-OO",)])
def test_sockguard_1_installs_the_guard_under_any_flag(flags: tuple[str, ...]) -> None:
    assert said(*flags, "-c", STATE, SOCKGUARD="1") == "True\n"


def test_without_site_there_is_no_guard() -> None:
    assert said("-S", "-c", STATE, SOCKGUARD="1") == "False\n"


def test_importing_sockguard_loads_nothing_of_others_and_installs_nothing() -> None:
    assert said("-c", f"import sockguard; {OURS}") == "['sockguard']\n"
    heavy = "import sys, sockguard; print([n for n in ('asyncio', 'logging', 'ssl', 'json', "
    assert said("-c", heavy + "'dataclasses', 'pathlib') if n in sys.modules])") == "[]\n"
    assert said("-c", f"import sockguard\n{STATE}") == "False\n"


def test_what_is_public_is_there_when_asked_for() -> None:
    code = "import sockguard; print([getattr(sockguard, n) is not None for n in sockguard.__all__])"
    assert set(eval(said("-c", code))) == {True}
    assert run("-c", "import sockguard; sockguard.nonsense").stderr.endswith(
        "AttributeError: module 'sockguard' has no attribute 'nonsense'\n"
    )


@pytest.mark.parametrize(
    ("environ", "on"), [({}, True), ({"SOCKGUARD": "0"}, False), ({"SOCKGUARD": ""}, False)]
)
def test_import_sockguard_auto_installs_unless_switched_off(
    environ: dict[str, str], on: bool
) -> None:
    assert said("-c", f"import sockguard.auto\n{STATE}", **environ) == f"{on}\n"


def test_import_sockguard_auto_takes_the_environments_options() -> None:
    code = "import sockguard.auto, sockguard.guard as g; print(g.installed().config.depth)"
    assert said("-c", code, SOCKGUARD_DEPTH="7") == "7\n"
    again = "import sockguard.auto; import sockguard; print(sockguard.install().config.depth)"
    assert said("-c", again, SOCKGUARD="1", SOCKGUARD_DEPTH="7") == "7\n"


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("app.py -m x", "."),
        ("sub/app.py", "sub"),
        ("sub", "sub"),
        ("-O -X dev sub/app.py", "sub"),
        ("-Xdev -Wignore sub/app.py", "sub"),
        ("-W error sub/app.py", "sub"),
        ("--check-hash-based-pycs always sub/app.py", "sub"),
        ("link.py", "sub"),
        ("-m sub.app", "."),
        ("-Om sub.app", "."),
        ("-msub.app", "."),
        ("-c pass sub/app.py", "."),
        ("-cpass", "."),
        ("- sub/app.py", "."),
        ("", "."),
        ("-i sub/app.py", "sub"),
    ],
)
def test_the_programs_folder_is_what_python_puts_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: str, wanted: str
) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "app.py").touch()
    (folder / "link.py").symlink_to("sub/app.py")
    monkeypatch.setattr(sys, "orig_argv", ["python", *words.split()])
    found = startup._program_folder()
    assert found is not None
    assert Path(found).resolve() == (folder / wanted).resolve()


def test_in_isolated_mode_the_program_has_no_folder() -> None:
    code = "from sockguard import startup; print(startup._program_folder())"
    assert said("-I", "-c", code) == "None\n"
    assert said("-c", code) == f"{Path.cwd()}\n"


def test_in_isolated_mode_standard_modules_stay(folder: Path) -> None:
    (folder / "queue.py").write_text("MINE = True\n")
    code = "import queue; print(hasattr(queue, 'MINE'))"
    assert said("-c", code, SOCKGUARD="1") == "True\n"
    assert said("-I", "-c", code, SOCKGUARD="1") == "False\n"


def test_the_programs_own_modules_and_packages_come_before_those_that_we_loaded(
    folder: Path,
) -> None:
    (folder / "inspect.py").write_text("MINE = True\n")
    (folder / "tomllib").mkdir()
    (folder / "tomllib" / "__init__.py").write_text("MINE = True\n")
    (folder / "wrapt.py").write_text("MINE = True\n")
    (folder / "json").mkdir()  # no package: the standard one is found
    (folder / "app.py").write_text(
        "import inspect, json, socket, wrapt\n"
        "print(hasattr(inspect, 'MINE'), hasattr(wrapt, 'MINE'), hasattr(json, 'dumps'))\n"
        "with socket.socket() as sock: print(sock.fileno() > 2)\n"
    )
    plain = said("app.py")
    assert plain == "True True True\nTrue\n"
    assert said("app.py", SOCKGUARD="1", SOCKGUARD_LEVEL="full") == plain
    assert said("app.py", SOCKGUARD="1", SOCKGUARD_OUTPUT="leaks.jsonl") == plain


FALSE_STARTS = {
    "missing folder": {"SOCKGUARD_OUTPUT": "missing/leaks.jsonl"},
    "output is a device that refuses": {"SOCKGUARD_OUTPUT": "/proc/self/nothing"},
    "bad value": {"SOCKGUARD_INTERVAL": "never"},
    "no temporary tally": {"SOCKGUARD_TALLY": "/missing/tally"},
}


@pytest.mark.parametrize("name", FALSE_STARTS)
def test_a_start_that_fails_in_part_lets_the_program_run(name: str) -> None:
    done = run("-c", "print('ran'); raise SystemExit(3)", SOCKGUARD="1", **FALSE_STARTS[name])
    assert (done.returncode, done.stdout) == (3, "ran\n")
    lines = done.stderr.splitlines()
    assert len(lines) <= 1
    assert all(line.startswith("sockguard: ") for line in lines)
    assert bool(lines) is (name != "no temporary tally")


def test_a_start_that_fails_altogether_is_said_once_and_lets_the_program_run(
    folder: Path,
) -> None:
    (folder / "wrapt.py").write_text("raise ImportError('this wrapt is broken')\n")
    code = "import socket; socket.socket().close(); print('ran')"
    done = run("-c", code, SOCKGUARD="1", PYTHONPATH=str(folder))
    assert (done.returncode, done.stdout) == (0, "ran\n")
    assert done.stderr.startswith("sockguard: could not start, the program runs unguarded: ")
    assert done.stderr.count("\n") == 1


def test_a_folder_that_is_gone_is_no_obstacle(folder: Path) -> None:
    (folder / "gone").mkdir()
    code = (
        "import os, subprocess, sys; os.chdir('gone'); os.rmdir('../gone')\n"
        f"subprocess.run([sys.executable, '-c', {STATE!r}], env=dict(os.environ, SOCKGUARD='1'))"
    )
    done = run("-c", code)
    assert (done.stdout, done.stderr) == ("True\n", "")
