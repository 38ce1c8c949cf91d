"""Running a program under guard: by becoming it.

``exec`` turns this process into plain ``python app.py``, and ``sockguard.pth`` installs the
guard in it before its first line. So everything that a program can ask of its interpreter
(arguments, ``sys.path``, ``__main__``, tracebacks, signals, exit) is answered by the
interpreter itself, and the process id stays.
"""

from __future__ import annotations

import importlib.machinery
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NoReturn

from sockguard.config import Config, ConfigError, to_environment

STARTUP_FILE: Final = "sockguard.pth"
# Sent by people and supervisors to the process that they started: us.
_PASSED_ON: Final = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGINT", "SIGQUIT", "SIGWINCH")


def interpreter_flags(orig_argv: Sequence[str]) -> list[str]:
    """Return the interpreter's own options: ``python -X dev -m sockguard …`` -> ``-X dev``."""
    flags: list[str] = []
    words = iter(orig_argv[1:])
    for word in words:
        if word.startswith("--"):
            flags += [word, next(words, "")] if word == "--check-hash-based-pycs" else [word]
            continue
        if not word.startswith("-") or word == "-":
            return []  # a script: the `sockguard` command of the virtual environment
        for index, letter in enumerate(word[1:], start=1):
            if letter == "m":
                return flags + ([word[:index]] if index > 1 else [])
            if letter in "WX":
                flags += [word] if index + 1 < len(word) else [word, next(words, "")]
                break
        else:
            flags.append(word)
    return []


def startup_file() -> str | None:
    """Return the path of ``sockguard.pth`` where this interpreter's ``site`` found it."""
    for folder in sys.path:
        path = os.path.join(folder, STARTUP_FILE)
        if folder and os.path.isfile(path):
            return path
    return None


def python_command(words: Sequence[str]) -> list[str]:
    """Return the command that runs ``words`` as ``python`` would. Raises ``ConfigError``."""
    if not sys.executable:
        raise ConfigError("sys.executable is empty: name the interpreter, and use SOCKGUARD=1")
    if startup_file() is None or sys.flags.no_site:
        raise ConfigError(
            f"{STARTUP_FILE} is not in this Python's site-packages, or -S keeps it from being "
            "read: install sockguard with pip, and run without -S"
        )
    first, *rest = words
    if first in ("-m", "-c") and not rest:
        raise ConfigError(f"{first} needs a value")
    if first == "-m":
        _check_module(rest[0])
    elif first not in ("-c", "-"):
        _check_script(first)
    return [sys.executable, *interpreter_flags(sys.orig_argv), *words]


def program_command(words: Sequence[str]) -> list[str]:
    """Return the command that runs a program found on PATH. Raises ``ConfigError``."""
    found = shutil.which(words[0])
    if found is None:
        raise ConfigError(
            f"{words[0]} is no program that can be run; give the path of one, "
            "or for a script: python SCRIPT"
        )
    return [found, *words[1:]]


def _check_module(name: str) -> None:
    top = name.partition(".")[0]
    folders = [os.curdir, *sys.path]
    finders = (
        importlib.machinery.BuiltinImporter,
        importlib.machinery.FrozenImporter,
        importlib.machinery.PathFinder,
    )
    if not top or not any(finder.find_spec(top, folders) for finder in finders):
        raise ConfigError(f"no module named {top!r}; run it from its folder, or install it")


def _check_script(path: str) -> None:
    if os.path.isdir(path):
        if not any(os.path.isfile(os.path.join(path, f"__main__.py{c}")) for c in ("", "c")):
            raise ConfigError(f"{path} is a folder without __main__.py; name a file in it")
        return
    if not os.path.exists(path):
        raise ConfigError(f"{path} does not exist; name a script, -m module or -c code")
    if path.endswith(".pyc"):
        return
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if not {"__main__.py", "__main__.pyc"} & set(archive.namelist()):
                raise ConfigError(f"{path} is a zip file without __main__.py; name a script")
        return
    if os.path.isfile(path):
        _check_source(path)


def _check_source(path: str) -> None:
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        raise ConfigError(f"{path} can't be read ({error.strerror}); name a script") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the program's own run will give them
            compile(source, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        what = error.msg if isinstance(error, SyntaxError) else error
        raise ConfigError(f"{path}{where} is not Python: {what}; name a Python script") from None


def run(argv: Sequence[str], config: Config) -> NoReturn:
    """Become ``argv`` under guard; with ``exit_code`` or without ``exec``, wait for it instead.

    Raises ``ConfigError`` if it can't be started.
    """
    environ = {**os.environ, **to_environment(config)}
    if config.exit_code is not None or os.name != "posix":
        _supervise(argv, environ, config.exit_code)
    environ["SOCKGUARD_ROOT"] = str(os.getpid())
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    try:
        os.execve(argv[0], list(argv), environ)
    except OSError as error:
        raise ConfigError(f"{argv[0]} can't be run ({error.strerror}); name another") from None


def _supervise(argv: Sequence[str], environ: Mapping[str, str], exit_code: int | None) -> NoReturn:
    """Run ``argv`` as a child and end as it does, or with ``exit_code`` if anything leaked.

    The exit code can't be changed from within without losing what runs after ``atexit``.
    """
    handle, tally = tempfile.mkstemp(prefix="sockguard-")
    os.close(handle)
    variables = {
        **environ,
        "SOCKGUARD_ROOT": f"child-of-{os.getpid()}",
        "SOCKGUARD_TALLY": tally,
    }
    try:
        status = _wait_for(argv, variables)
        leaked = os.path.getsize(tally) > 0
    finally:
        os.unlink(tally)
    if leaked and exit_code is not None:
        sys.exit(exit_code)
    if status < 0:
        _die_of(-status)
    sys.exit(status)


def _wait_for(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    early: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: Any) -> None:
        if child is None:
            early.append(number)
        elif not _from_terminal(number):
            child.send_signal(number)

    before: dict[int, Any] = {}
    for name in _PASSED_ON:
        number = getattr(signal, name, None)
        # nohup and shells start programs with a signal ignored: it stays so.
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, pass_on)
    try:
        child = subprocess.Popen(argv, env=environ)
        for number in early:
            child.send_signal(number)
        return child.wait()
    except OSError as error:
        raise ConfigError(f"{argv[0]} can't be run ({error.strerror}); name another") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _from_terminal(number: int) -> bool:
    """Tell a signal that the terminal gives to its whole foreground group, the child included."""
    if number not in (signal.SIGINT, getattr(signal, "SIGQUIT", None)):
        return False
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def _die_of(number: int) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    sys.exit(128 + number)  # a signal that does not end us
