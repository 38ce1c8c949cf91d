"""The command line: words to options, options to what is run."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple, NoReturn

import sockguard
from sockguard import stderr
from sockguard.config import OPTIONS, Config, ConfigError, load, working_folder

_USAGE: Final = """\
usage: python -m sockguard [OPTIONS] app.py [ARGS]   also -m package, -c code, a directory, a zip
       sockguard run [OPTIONS] -- PROGRAM [ARGS]     any program; its Python processes are guarded
       sockguard doctor [OPTIONS]                    what is chosen on this machine, and why

Finds sockets whose peer has closed and that the program keeps open, and the line that opened them.

options (also in the environment, and in [tool.sockguard] of ./pyproject.toml):
"""


class Command(NamedTuple):
    """What the command line says."""

    verb: str
    options: dict[str, object]
    rest: list[str]


class UsageError(ConfigError):
    """A command line that can't be carried out: one sentence."""


def _parse_options(words: list[str]) -> dict[str, object]:
    """Take the options off the front of ``words``; return their values by name."""
    by_flag = {option.flag: option for option in OPTIONS}
    values: dict[str, object] = {}
    while words and words[0].startswith("--") and words[0] != "--":
        flag, equals, value = words.pop(0).partition("=")
        if flag in ("--help", "--version"):
            values[flag] = True
            continue
        option = by_flag.get(flag)
        if option is None:
            raise UsageError(f"{flag} is no option; see python -m sockguard --help")
        if option.metavar is None:
            if equals:
                raise UsageError(f"{flag} takes no value")
            values[option.name] = True
            continue
        if not equals:
            if not words:
                raise UsageError(f"{flag} needs a value: {flag} {option.metavar}")
            value = words.pop(0)
        if option.name == "ignore":
            earlier = values.setdefault("ignore", [])
            assert isinstance(earlier, list)
            earlier.append(value)
        else:
            values[option.name] = value
    return values


def parse(arguments: Sequence[str]) -> Command:
    """Read the command line. Raises ``UsageError``."""
    words = list(arguments)
    options = _parse_options(words)
    if words and words[0] in ("run", "doctor"):
        verb = words.pop(0)
        options |= _parse_options(words)
        if words[:1] == ["--"]:
            words.pop(0)
        return Command(verb, options, words)
    if words[:1] == ["--"]:
        words.pop(0)
    elif words and words[0].startswith("-") and words[0] not in ("-", "-m", "-c"):
        raise UsageError(f"{words[0]} is no option; see python -m sockguard --help")
    return Command("python", options, words)


def help_text() -> str:
    """Return what ``--help`` prints."""
    lines = []
    for option in OPTIONS:
        head = f"{option.flag} {option.metavar or ''}".rstrip()
        lines.append(f"  {head:<34} {option.help}\n  {'':<34} [{option.variable}]")
    return _USAGE + "\n".join(lines) + "\n"


def _fail(message: object) -> NoReturn:
    stderr.remember()
    stderr.write(f"sockguard: {message}\n")
    sys.exit(2)


def _say(text: str) -> None:
    """Print ``text``; whoever reads it may stop reading (``| head``)."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _load(options: dict[str, object], level: str) -> Config:
    return load(options, environ=os.environ, folder=working_folder(), label="--", level=level)


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out the command line; ends the process, or becomes the program that it names."""
    try:
        command = parse(sys.argv[1:] if arguments is None else arguments)
        if "--help" in command.options:
            _say(help_text())
        elif "--version" in command.options:
            _say(f"sockguard {sockguard.__version__}\n")
        elif command.verb == "doctor":
            from sockguard.doctor import examine

            if command.rest:
                raise UsageError(f"doctor takes no argument, {command.rest[0]} is one")
            _say("\n".join([*examine(_load(command.options, "light")), ""]))
        else:
            _run(command)
    except ConfigError as error:
        _fail(error)


def _run(command: Command) -> None:
    from sockguard import runner

    if not command.rest:
        example = "python -m sockguard app.py"
        if command.verb == "run":
            example = "sockguard run -- gunicorn app:app"
        raise UsageError(f"nothing to run: name a program, as in {example}; --help tells more")
    config = _load(command.options, "full" if command.verb == "python" else "light")
    if command.verb == "python":
        argv = runner.python_command(command.rest)
    else:
        argv = runner.program_command(command.rest)
    runner.run(argv, config)
