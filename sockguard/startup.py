"""What ``sockguard.pth`` (and ``sockguard.start``, PEP 829) runs in every Python process.

It must cost a process that is not under guard nothing, and one that is no surprise: the
program finds the modules that it would have found without us.
"""

from __future__ import annotations

import os
import sys


def start() -> None:
    """Put this process under guard if ``SOCKGUARD`` asks for it. Raises nothing."""
    if os.environ.get("SOCKGUARD", "") in ("", "0"):
        return
    loaded = set(sys.modules)
    from contextlib import suppress

    install_from_environment()
    with suppress(OSError):  # the working folder has been removed
        _unshadow(loaded)


def install_from_environment() -> None:
    """Install with the environment's options. Raises nothing.

    In a service nothing of ours is an error: a wrong value is one warning on standard
    error and keeps its default; what fails is said once, and the program runs unguarded.
    """
    try:
        from sockguard import stderr
        from sockguard.config import ConfigError, load, working_folder
        from sockguard.guard import install_config
    except Exception as error:
        os.write(2, f"sockguard: could not be loaded: {error!r}\n".encode())
        return
    try:
        stderr.remember()
        wrong: list[ConfigError] = []
        config = load(environ=os.environ, folder=working_folder(), on_error=wrong.append)
        if wrong:
            stderr.complain("; ".join(map(str, wrong)) + " (the default is used)")
        if "SOCKGUARD_EXIT_CODE" in os.environ and "SOCKGUARD_TALLY" not in os.environ:
            stderr.complain(
                "SOCKGUARD_EXIT_CODE needs `python -m sockguard` or `sockguard run`: from within,"
                " a process can't change its exit code without losing what runs after atexit"
            )
        install_config(config)
    except Exception as error:
        stderr.complain(f"could not start, the program runs unguarded: {error!r}")


def _unshadow(loaded: set[str]) -> None:
    """Forget standard modules that the program has its own of, so that it gets its own.

    A folder with a ``queue.py`` beside ``app.py`` comes first on ``sys.path``; but we
    imported the standard one before that path was set. Ours stay as they are: they hold
    what they imported.
    """
    folder = _program_folder()
    if folder is None:
        return
    try:
        names = {entry.partition(".")[0] for entry in os.listdir(folder)}
    except OSError:
        return
    fresh = [name for name in sys.modules if name not in loaded]
    for top in names & {name.partition(".")[0] for name in fresh}:
        if top != "sockguard" and _is_importable(os.path.join(folder, top)):
            for name in fresh:
                if name == top or name.startswith(top + "."):
                    del sys.modules[name]


def _is_importable(stem: str) -> bool:
    return os.path.isfile(stem + ".py") or os.path.isfile(os.path.join(stem, "__init__.py"))


def _program_folder() -> str | None:
    """Return what will be ``sys.path[0]``, ``None`` if nothing will. cmdline of ``python(1)``"""
    if sys.flags.isolated or getattr(sys.flags, "safe_path", False):
        return None
    arguments = iter(sys.orig_argv[1:])
    for argument in arguments:
        if not argument.startswith("-") or argument == "-":
            if argument == "-":
                break
            return _folder_of(os.path.realpath(argument))
        if argument.startswith("--"):
            if argument == "--check-hash-based-pycs":
                next(arguments, None)
            continue
        for index, letter in enumerate(argument[1:], start=2):
            if letter in "cm":
                return os.getcwd()
            if letter in "WX":
                if index == len(argument):
                    next(arguments, None)
                break
    return os.getcwd()


def _folder_of(script: str) -> str | None:
    if os.path.isdir(script):
        return script
    if not script.endswith(".py"):
        import zipfile  # loaded by now

        if os.path.isfile(script) and zipfile.is_zipfile(script):
            return None  # nothing in a zip file's folder is on its path
    return os.path.dirname(script)
