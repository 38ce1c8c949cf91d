"""The options, and the only reader of environment and files.

Command line > arguments > environment > ``[tool.sockguard]`` > default.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

NS_PER_S: Final = 1_000_000_000
PREFIX: Final = "SOCKGUARD"


class ConfigError(ValueError):
    """A value by the user that can't be used: one sentence with the culprit and the cure."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What a guard was told. Made by ``load``; every value is checked."""

    threshold: float = 60.0
    level: str = "light"
    output: str | None = None
    output_limit: int = 100 * 1024 * 1024
    exit_code: int | None = None
    ignore: tuple[str, ...] = ()
    quiet: bool = False
    depth: int = 32
    interval: float = 1.0
    explain: float = 0.3
    observer: str = "auto"
    otel: str = "auto"
    otel_omit_addresses: bool = False
    #: Where each value came from that is not the default: for ``doctor``.
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def threshold_ns(self) -> int:
        return int(self.threshold * NS_PER_S)

    @property
    def explain_ns(self) -> int:
        return int(self.explain * NS_PER_S)


def _seconds(value: object, least: float, most: float) -> float:
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        seconds = math.nan
    if isinstance(value, bool) or not least <= seconds <= most:  # never true of a nan
        raise ConfigError(f"give a number of seconds from {least:g} to {most:g}")
    return seconds


def _whole(value: object, least: int, most: int) -> int:
    try:
        number = int(str(value).strip())
    except ValueError:
        number = least - 1
    if isinstance(value, bool) or not least <= number <= most:
        raise ConfigError(f"give a whole number from {least} to {most}")
    return number


def _bytes(value: object) -> int:
    match = re.fullmatch(r"(\d{1,15})\s*(?:([KMG])i?B?)?", str(value).strip(), re.IGNORECASE)
    if match is None or isinstance(value, bool):
        raise ConfigError("give a number of bytes, with K, M or G behind it if you like")
    power = " KMG".index((match[2] or " ").upper())
    size: int = int(match[1]) * 1024**power
    return size


def _one_of(*allowed: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in allowed:
            raise ConfigError(f"give {' or '.join(allowed)}")
        return str(value)

    return parse


def _truth(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("", "0", "false", "no", "off"):
        return False
    raise ConfigError("give 1 or 0")


def _output(value: object) -> str:
    path = Path(str(value))
    try:
        return _checked_output(path, str(value))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give another file") from None


def _checked_output(path: Path, value: str) -> str:
    folder = path.parent.absolute()
    if not value or value.endswith(os.sep) or path.is_dir():
        raise ConfigError("give a file, not a folder")
    if not folder.is_dir():
        raise ConfigError(f"the folder {folder} does not exist; make it, or give another file")
    known = path.exists()
    if not os.access(path if known else folder, os.W_OK):
        what = f"{path.absolute()}" if known else f"the folder {folder}"
        raise ConfigError(f"{what} can't be written to; give another file")
    return str(folder / path.name)


def _patterns(value: object) -> tuple[str, ...]:
    listed = value.splitlines() if isinstance(value, str) else value
    if not isinstance(listed, (list, tuple)):
        raise ConfigError("give a regular expression, or a list of them")
    patterns = tuple(str(pattern) for pattern in listed if str(pattern))
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(
                f"{pattern!r} is not a regular expression ({error}); see the re module"
            ) from None
    return patterns


class Option(NamedTuple):
    """One row of the table that the command line, the environment and the docs share."""

    name: str
    metavar: str | None
    parse: Callable[[object], Any]
    help: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return f"{PREFIX}_{self.name.upper()}"


OPTIONS: Final = (
    Option(
        "threshold",
        "SECONDS",
        lambda value: _seconds(value, 0.0, 1e9),
        "a socket leaks that is open so long after its peer closed (60)",
    ),
    Option(
        "level",
        "light|full",
        _one_of("light", "full"),
        "full also notes the read that met the end",
    ),
    Option("output", "FILE", _output, "write JSON Lines to FILE; {pid} becomes the process id"),
    Option("output_limit", "BYTES", _bytes, "stop at this size, but for the summary (100M)"),
    Option(
        "exit_code",
        "N",
        lambda value: _whole(value, 1, 255),
        "exit with N if anything leaked, here or in a child",
    ),
    Option(
        "ignore",
        "PATTERN",
        _patterns,
        "spare a site: a regular expression for FILE:LINE FUNCTION or a fingerprint",
    ),
    Option("quiet", None, _truth, "no text on standard error"),
    Option(
        "depth", "FRAMES", lambda value: _whole(value, 1, 1024), "frames of a stack to keep (32)"
    ),
    Option(
        "interval",
        "SECONDS",
        lambda value: _seconds(value, 0.05, 86_400.0),
        "time between two looks of the watcher (1)",
    ),
    Option(
        "explain",
        "SECONDS",
        lambda value: _seconds(value, 0.0, 10.0),
        "what the search for who holds a socket may take, once a group; 0 for none (0.3)",
    ),
    Option(
        "observer",
        "auto|epoll|portable",
        _one_of("auto", "epoll", "portable"),
        "how to ask the kernel (auto)",
    ),
    Option(
        "otel",
        "auto|on|off",
        _one_of("auto", "on", "off"),
        "OpenTelemetry events and metrics (auto: where an SDK is set up)",
    ),
    Option("otel_omit_addresses", None, _truth, "no address in OpenTelemetry events"),
)
BY_NAME: Final = {option.name: option for option in OPTIONS}


def switched_on(environ: Mapping[str, str]) -> bool:
    """Tell whether ``SOCKGUARD`` asks for a guard: anything but empty and ``0``."""
    return environ.get(PREFIX, "") not in ("", "0")


def _from_environment(environ: Mapping[str, str]) -> dict[str, tuple[str, object]]:
    return {
        option.name: (option.variable, environ[option.variable])
        for option in OPTIONS
        if environ.get(option.variable, "") != ""
    }


def _from_file(folder: Path) -> dict[str, tuple[str, object]]:
    path = folder / "pyproject.toml"
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError):
        return {}
    if "sockguard" not in text:  # spares most processes the import of a parser
        return {}
    try:
        try:
            import tomllib
        except ModuleNotFoundError:  # Python 3.10
            import tomli as tomllib  # type: ignore[import-not-found,no-redef]
    except ModuleNotFoundError:
        if "[tool.sockguard" not in text:  # a dependency of that name, perhaps
            return {}
        raise ConfigError(
            f"{path} has [tool.sockguard], and Python 3.10 can't read it; install sockguard[toml]"
        ) from None
    try:
        tools = tomllib.loads(text).get("tool")
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} can't be read ({error}); mend it") from None
    table = tools.get("sockguard", {}) if isinstance(tools, dict) else {}
    if not isinstance(table, dict):
        raise ConfigError(f"{path} has a tool.sockguard that is no table; make it one")
    return {name.replace("-", "_"): (f"{path}: {name}", value) for name, value in table.items()}


def load(
    given: Mapping[str, object] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
    label: str = "argument ",
    level: str = "light",
    on_error: Callable[[ConfigError], None] | None = None,
) -> Config:
    """Put the sources together: ``given`` over ``environ`` over ``folder``'s pyproject.toml.

    ``level`` is the default level of who asks. A bad value raises ``ConfigError``; with
    ``on_error`` it is told instead, and the option keeps its default.
    """

    def complain(message: str) -> None:
        error = ConfigError(message)
        if on_error is None:
            raise error
        on_error(error)

    found: dict[str, tuple[str, object]] = {}
    if folder is not None:
        try:
            found |= _from_file(folder)
        except ConfigError as error:
            complain(str(error))
    if environ is not None:
        found |= _from_environment(environ)
        complain_unknown(environ, complain)
    for name, value in (given or {}).items():
        shown = BY_NAME[name].flag if label == "--" and name in BY_NAME else label + name
        found[name] = (shown, value)
    values: dict[str, Any] = {}
    for name, (source, value) in found.items():
        option = BY_NAME.get(name)
        if option is None:
            complain(f"{source} is no option; known are {', '.join(BY_NAME)}")
            continue
        try:
            values[name] = option.parse(value)
        except ConfigError as error:
            complain(f"{source}={value}: {error}")
    sources = {name: found[name][0] for name in values}
    return replace(Config(level=level), **values, sources=sources)


def working_folder() -> Path | None:
    """Return the folder whose pyproject.toml counts; ``None`` if it has been removed."""
    try:
        return Path.cwd()
    except OSError:
        return None


def configured_for_tests() -> Config:
    """Return what holds under pytest: environment and file. Raises ``ConfigError``."""
    return load(environ=os.environ, folder=working_folder(), level="full")


#: Set by sockguard for its own processes; not for people.
INTERNAL: Final = {f"{PREFIX}_ROOT", f"{PREFIX}_TALLY"}


def complain_unknown(environ: Mapping[str, str], complain: Callable[[str], None]) -> None:
    """Name a misspelt variable: ``SOCKGUARD_TRESHOLD`` must not be silently without effect."""
    known = {option.variable for option in OPTIONS} | INTERNAL
    for name in sorted(environ):
        if name.startswith(f"{PREFIX}_") and name not in known:
            complain(f"{name} is no option; known are {', '.join(sorted(known - INTERNAL))}")


def to_environment(config: Config) -> dict[str, str]:
    """Return the variables that make a child process load this very configuration."""
    variables = {PREFIX: "1"}
    for item in fields(Config):
        value = getattr(config, item.name)
        if item.name == "sources" or value is None or value is False or value == ():
            continue
        if isinstance(value, tuple):
            text = "\n".join(value)
        elif isinstance(value, bool):
            text = "1"
        else:
            text = str(value)
        variables[BY_NAME[item.name].variable] = text
    return variables
