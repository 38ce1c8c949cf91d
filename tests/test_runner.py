"""``python -m sockguard`` and ``sockguard run``: becoming the program, or waiting for it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from support.programs import clean_environment

from sockguard.runner import interpreter_flags

RUNNER = (sys.executable, "-m", "sockguard")
# Whatever is open at the end and whose peer has closed is a leak: no test waits for it.
AT_ONCE = ("--threshold", "0")
COMMAND = str(Path(sysconfig.get_path("scripts"), "sockguard"))
PATIENCE_S = 60
LEAKING = """\
import socket
import subprocess
import sys


def accept():
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    client.close()
    return accepted


if sys.argv[1:] == ["parent"]:
    subprocess.run([sys.executable, "-c", "import leaking; kept = leaking.accept()"])
else:
    kept = accept()
sys.exit(7)
"""
SIGNALLED = """\
import os
import signal
import sys


def end(number, frame):
    print("handled", signal.Signals(number).name, flush=True)
    sys.exit(4)


if sys.argv[1] == "handles":
    signal.signal(signal.SIGTERM, end)
print(os.getpid(), flush=True)
signal.pause()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "leaking.py").write_text(LEAKING)
    (tmp_path / "signalled.py").write_text(SIGNALLED)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text("print('package', __spec__.name)")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(*words: str, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words,
        env=clean_environment(**environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(*words: str, code: int = 0, **environ: str) -> tuple[str, str]:
    """Run to the end; return what was said, to stdout and to stderr."""
    with start(*words, **environ) as process:
        try:
            out, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == code, err
    return out, err


def closing_lines(text: str) -> list[str]:
    return re.findall(r"^sockguard: .* tracked$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        ("python -m sockguard app.py -X dev", ""),
        ("python -X dev -O -m sockguard app.py", "-X dev -O"),
        ("python -Xdev -W error -Wignore -m sockguard", "-Xdev -W error -Wignore"),
        ("python -bb -I -u -msockguard app.py", "-bb -I -u"),
        ("python -OBm sockguard app.py", "-OB"),
        ("python -Em sockguard -m app", "-E"),
        ("python --check-hash-based-pycs never -m sockguard", "--check-hash-based-pycs never"),
        ("python -W -m -m sockguard app.py", "-W -m"),
        ("python /venv/bin/sockguard -m app", ""),
        ("python -I /venv/bin/sockguard app.py", ""),
        ("python", ""),
    ],
)
def test_the_interpreters_own_options_are_kept(words: str, flags: str) -> None:
    assert interpreter_flags(words.split()) == flags.split()


def test_the_program_has_the_process_id_that_was_started() -> None:
    for extra in ((), ("run", "--", sys.executable)):
        process = start(*RUNNER, *extra, "-c", "import os; print(os.getpid())")
        out, _ = process.communicate(timeout=PATIENCE_S)
        assert out == f"{process.pid}\n"


def test_the_report_says_what_where_who_why_and_what_next() -> None:
    _, err = outcome(*RUNNER, *AT_ONCE, "leaking.py", code=7)
    blank, head, what, *rows, end, closing, group = err.splitlines()
    assert blank == end == ""
    told = r"1 socket leaked here: the peer closed, we did not +\[(\w+)\]"
    name = re.fullmatch(told, head)[1]
    assert re.fullmatch(
        r"  socket   \d+(\.\d)? m?s since the peer's FIN \(CLOSE_WAIT\), fd \d+, "
        r"peer 127\.0\.0\.1:\d+, FIN unread",
        what,
    )
    assert rows[0] == "  opened   leaking.py:9 in accept"
    assert rows[1].split() == ["<-", "leaking.py:17", "in", "<module>"]
    assert [row.split()[0] for row in rows[2:]] == ["by", "held", "far", "why", "next"]
    assert re.match(r"sockguard: 1 socket leaked at 1 place, 1 still open at exit; 3 sock", closing)
    assert group.split()[:2] == ["1", f"[{name}]"]


def test_exit_code_tells_that_something_leaked() -> None:
    outcome(*RUNNER, *AT_ONCE, "--exit-code", "3", "leaking.py", code=3)


def test_exit_code_counts_what_a_child_leaked() -> None:
    _, err = outcome(*RUNNER, *AT_ONCE, "--exit-code", "3", "leaking.py", "parent", code=3)
    assert re.search(r"^1 socket leaked here: .* \[\w+ pid \d+\]$", err, re.MULTILINE)
    assert "sockguard: no leak; 0 sockets tracked\n" in err


def test_exit_code_serves_any_program() -> None:
    words = (sys.executable, "leaking.py")
    outcome(*RUNNER, "run", *AT_ONCE, "--exit-code", "3", "--", *words, code=3)


def test_without_a_leak_the_programs_own_exit_code_counts() -> None:
    outcome(*RUNNER, "--exit-code", "3", "leaking.py", code=7)  # less than the threshold
    outcome(*RUNNER, "--exit-code", "3", "-c", "pass", code=0)


def test_an_ignored_leak_does_not_count() -> None:
    pattern = r"leaking\.py:\d+ accept$"
    words = (*AT_ONCE, "--exit-code", "3", "--ignore", pattern, "leaking.py")
    _, err = outcome(*RUNNER, *words, code=7)
    assert "leaked" not in err


@pytest.mark.parametrize("supervised", [(), ("--exit-code", "3")])
@pytest.mark.parametrize(("way", "code"), [("handles", 4), ("dies", -signal.SIGTERM)])
def test_a_signal_reaches_the_program_and_its_death_is_ours(
    supervised: tuple[str, ...], way: str, code: int
) -> None:
    with start(*RUNNER, *supervised, "signalled.py", way) as process:
        try:
            assert process.stdout is not None
            program = int(process.stdout.readline())
            assert (program == process.pid) is (not supervised)
            process.terminate()
            out, _ = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == code
    assert out == ("handled SIGTERM\n" if way == "handles" else "")


def test_the_death_of_a_supervised_program_is_mirrored() -> None:
    abort = "import os; os.abort()"
    outcome(*RUNNER, "--exit-code", "3", "-c", abort, code=-signal.SIGABRT)


def test_a_supervised_program_ignores_the_signals_that_we_were_told_to_ignore() -> None:
    code = "import signal; print(signal.getsignal(signal.SIGHUP).name)"
    with subprocess.Popen(
        ["/bin/sh", "-c", 'trap "" HUP; exec "$@"', "sh", *RUNNER, "--exit-code", "3", "-c", code],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.communicate(timeout=PATIENCE_S)[0] == "SIG_IGN\n"


def test_run_guards_the_python_processes_of_any_program(folder: Path) -> None:
    script = folder / "service.sh"
    script.write_text(f'#!/bin/sh\necho "started $@"\n"{sys.executable}" leaking.py\nexit 5\n')
    script.chmod(0o755)
    words = ("run", *AT_ONCE, "--", "./service.sh", "--quiet")
    out, err = outcome(*RUNNER, *words, code=5)
    assert out == "started --quiet\n"
    assert "1 socket leaked here: the peer closed, we did not" in err


def test_run_finds_a_program_on_the_path() -> None:
    assert outcome(*RUNNER, "run", "--", "echo", "--level", "x")[0] == "--level x\n"


CHILDREN = """\
import multiprocessing, os, subprocess, sys
if __name__ == "__main__":
    subprocess.run([sys.executable, "-c", "import socket; socket.socketpair()"])
    if os.fork() == 0:
        sys.exit()
    os.wait()
    process = multiprocessing.get_context("spawn").Process(target=print, args=("spawned",))
    process.start()
    process.join()
"""


@pytest.mark.parametrize("options", [(), ("--exit-code", "3")])
def test_children_without_a_leak_are_silent_and_the_program_closes_once(
    folder: Path, options: tuple[str, ...]
) -> None:
    (folder / "children.py").write_text(CHILDREN)
    out, err = outcome(*RUNNER, *options, "children.py")
    assert out == "spawned\n"
    assert err == "sockguard: no leak; 0 sockets tracked\n"


def test_a_service_without_a_leak_is_silent(folder: Path) -> None:
    (folder / "children.py").write_text(CHILDREN)
    assert outcome(sys.executable, "children.py", SOCKGUARD="1")[1] == ""


def test_a_guarded_program_may_start_the_runner_itself() -> None:
    inner = f"import os; os.execv({RUNNER[0]!r}, {[*RUNNER, '--threshold', '5', '-c', 'pass']})"
    _, err = outcome(*RUNNER, "-c", inner)
    assert closing_lines(err) == ["sockguard: no leak; 0 sockets tracked"]


def test_arguments_behind_the_program_are_the_programs() -> None:
    code = "import sys; print(sys.argv)"
    assert outcome(*RUNNER, "--", "-c", code, "--help", "--")[0] == "['-c', '--help', '--']\n"


def test_a_package_of_the_current_folder_is_run_by_either_command() -> None:
    assert outcome(*RUNNER, "-m", "package")[0] == "package package.__main__\n"
    assert outcome(COMMAND, "-m", "package")[0] == "package package.__main__\n"
    assert outcome(COMMAND, "package")[0] == "package __main__\n"


@pytest.mark.parametrize("name", ["random", "tempfile", "dataclasses", "typing", "signal"])
def test_the_runner_does_not_run_a_file_of_the_folder_for_a_module_of_its_own(
    folder: Path, name: str
) -> None:
    """``-m`` puts the current folder first; a script there may be named as it likes."""
    (folder / f"{name}.py").write_text("print('imported, or run')\n")
    (folder / "app.py").write_text("print('app')\n")
    out, err = outcome(*RUNNER, "app.py")
    assert out == outcome(sys.executable, "app.py")[0]
    assert err == "sockguard: no leak; 0 sockets tracked\n"


def test_without_the_startup_file_the_runner_says_what_to_do() -> None:
    _, err = outcome(sys.executable, "-S", *without_site(), "-c", "pass", code=2)
    assert err.startswith("sockguard: sockguard.pth is not in this Python's site-packages, or -S")
    assert "install sockguard with pip" in err


def without_site() -> tuple[str, ...]:
    """Return the words that reach the command line without ``site``'s search path."""
    import sockguard

    home = str(Path(sockguard.__file__).parent.parent)
    code = f"import sys; sys.path.append({home!r}); from sockguard.cli import main; main()"
    return ("-c", code)
