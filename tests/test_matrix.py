"""A guarded program does what it does without us: the do-no-harm matrix.

Each probe program (``tests/probes``) runs side by side by plain ``python``, by
``python -m sockguard`` (level `full`), and under ``SOCKGUARD=1`` (level `light`, some at
`full` too). Equal must be output, errors with their tracebacks, and exit code or signal.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

FOLDER = Path(__file__).parent / "probes"
CLOSING = re.compile(r"^sockguard: no leak; \d+ sockets? tracked\n", re.MULTILINE)
PATIENCE_S = 40


class Probe(NamedTuple):
    """One way to start a program: ``python [flags] words < stdin``."""

    words: tuple[str, ...]
    flags: tuple[str, ...] = ()
    stdin: str = ""
    #: How it ends, the same everywhere: a probe that fails by mistake proves nothing.
    code: int = 0
    #: Ends by ``os._exit`` or a signal: there is no moment for a closing line.
    cut_off: bool = False
    #: The interpreter itself still writes to stderr, after all that runs at exit.
    speaks_last: bool = False
    folder: Path = FOLDER


def script(name: str, *arguments: str, **how: object) -> Probe:
    return Probe((f"{name}.py", *arguments), **how)  # type: ignore[arg-type]


SOURCE = (FOLDER / "main_attributes.py").read_text()
PROBES = {
    "arguments": script("argv", "-m", "--threshold", "-1", "--", "", "ü ", "-"),
    "path of the script": Probe((str(FOLDER / "argv.py"), "x")),
    "main: script": script("main_attributes", "--", "-c"),
    "main: package": Probe(("-m", "package", "-m", "x")),
    "main: module": Probe(("-m", "package.module", "x")),
    "main: code": Probe(("-c", SOURCE, "-c", "x")),
    "main: folder": Probe(("folder", "x")),
    "main: zip": Probe(("ZIP", "x")),
    "main: from stdin": Probe(("-", "x"), stdin=SOURCE),
    "flags": script("flags", flags=("-X", "dev", "-O", "-Wignore::UserWarning", "-u", "-E")),
    "isolated": script("flags", flags=("-I", "-X", "utf8", "-W", "once")),
    "state of the interpreter": script("interpreter_state"),
    "exit code": script("exits", "code", code=7),
    "exit code over 255": script("exits", "large", code=5),
    "SystemExit with None": script("exits", "none"),
    "SystemExit with text": script("exits", "text", code=1),
    "SystemExit with an object": script("exits", "object", code=1),
    "os._exit": script("exits", "immediate", cut_off=True, code=9),
    "chained exceptions": script("chained", code=1),
    "bad family": script("bad_family", code=1),
    "reset while reading": script("reset_read", code=1),
    "wrong arguments": script("wrong_arguments"),
    "own excepthook": script("excepthook", code=1),
    "own excepthook that fails": script("excepthook", "fail", code=1),
    "KeyboardInterrupt": script("interrupts", "raise", code=-2),
    "SIGINT": script("interrupts", "sigint", code=-2),
    "SIGTERM": script("interrupts", "sigterm", cut_off=True, code=-15),
    "SIGTERM handled": script("interrupts", "sigterm-handled", code=4),
    "SIGKILL": script("interrupts", "sigkill", cut_off=True, code=-9),
    "SIGPIPE": script("interrupts", "sigpipe", cut_off=True, code=-13),
    "abort": script("interrupts", "abort", cut_off=True, code=-6),
    "stdin": script("stdin", stdin="ada\nline\nthe rest"),
    "warnings": script("warned", flags=("-W", "always")),
    "warnings are errors": script("warned", flags=("-W", "error", "-bb"), code=1),
    "ResourceWarning in dev mode": script("unclosed", flags=("-X", "dev"), speaks_last=True),
    "ResourceWarning with tracemalloc": script(
        "unclosed", flags=("-W", "default", "-X", "tracemalloc=2"), speaks_last=True
    ),
    "ResourceWarning is an error": script("unclosed", flags=("-W", "error"), speaks_last=True),
    "multiprocessing spawn": script("spawning", "spawn"),
    "multiprocessing forkserver": script("spawning", "forkserver"),
    "multiprocessing fork": script("spawning", "fork", flags=("-W", "error")),
    "executors": script("executor"),
    "at exit": script("at_exit"),
    "threads that outlive main": script("outliving"),
    "threads joined": script("joining"),
    "daemon": script("daemonizes"),
    "closes all descriptors": script("closes_all", flags=("-W", "error")),
    "introspection": script("introspection"),
    "copying": script("copying"),
    "subclasses": script("subclasses"),
    "descriptor numbers": script("numbers"),
    "fork": script("forking", flags=("-W", "error")),
    "subprocesses": script("subprocesses"),
    "recursion": script("recursion"),
    "descriptor limit": script("descriptor_limit"),
    "collector": script("collector"),
    "exceptions from a signal handler": script("alarms"),
    "signals": script("signals_in_handlers"),
    "interpreter shutdown": script("shutdown"),
    "faulthandler": script("faults", cut_off=True, code=-11),
    "asyncio": script("async_streams", flags=("-W", "default"), code=1),
    "runpy": script("runs_others", "code", code=7),
    "__future__": script("future"),
    "imports that fail": script("imports", code=1),
    "becomes another program": script("reexec", code=3),
    "own modules of standard names": Probe(("shadow/app.py",)),
    "own modules, started by -m": Probe(("-m", "app"), folder=FOLDER / "shadow"),
}
#: Run under ``SOCKGUARD=1 SOCKGUARD_LEVEL=full`` too.
MEETS_THE_HOOKS = (
    "bad_family.py",
    "reset_read.py",
    "wrong_arguments.py",
    "unclosed.py",
    "introspection.py",
    "subclasses.py",
    "forking.py",
)


class Result(NamedTuple):
    """How a process ended, and what it said."""

    code: int
    stdout: str
    stderr: str


def normal(text: str) -> str:
    """Take out what differs between two plain runs: addresses in memory."""
    return re.sub(r"0x[0-9a-f]{8,}", "0x…", text)


def clean_environment(**more: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "SOCKGUARD", "COV_", "PYTEST"))
    }
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", **more}


@contextmanager
def started(
    command: list[str], probe: Probe, environ: Mapping[str, str]
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        cwd=probe.folder,
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def run_all(probe: Probe, folder: Path) -> dict[str, Result]:
    """Run the variants of a probe side by side."""
    words = [word.replace("ZIP", str(folder / "app.zip")) for word in probe.words]
    plain = [sys.executable, *probe.flags, *words]
    on = {"SOCKGUARD": "1"}
    variants = {
        "plain": (plain, {}),
        "runner": ([sys.executable, *probe.flags, "-m", "sockguard", *words], {}),
        "light": (plain, on),
    }
    if probe.words[0] in MEETS_THE_HOOKS:
        variants["full"] = (plain, {**on, "SOCKGUARD_LEVEL": "full"})
    # What is most in the way: a busy watcher, a file of ours. (The runner's level is `full`.)
    more = {"SOCKGUARD_INTERVAL": "0.05", "SOCKGUARD_OUTPUT": str(folder / "leaks.jsonl")}
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(started(command, probe, clean_environment(**switch, **more)))
            for name, (command, switch) in variants.items()
        }
        for process in running.values():
            assert process.stdin is not None
            process.stdin.write(probe.stdin)
            process.stdin.close()
            process.stdin = None
        results = {}
        for name, process in running.items():
            out, err = process.communicate(timeout=PATIENCE_S)
            results[name] = Result(process.returncode, normal(out), normal(err))
    return results


@pytest.fixture(scope="module", autouse=True)
def _zip(tmp_path_factory: pytest.TempPathFactory) -> None:
    with zipfile.ZipFile(tmp_path_factory.getbasetemp() / "app.zip", "w") as archive:
        archive.writestr("__main__.py", SOURCE)


@pytest.mark.parametrize("name", PROBES)
def test_a_guarded_program_does_what_it_does_without_us(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    probe = PROBES[name]
    results = run_all(probe, tmp_path_factory.getbasetemp())
    plain = results["plain"]
    assert plain.code == probe.code, plain.stderr
    assert results["light"] == plain
    assert results.get("full", plain) == plain
    runner = results["runner"]
    rest, closing_lines = CLOSING.subn("", runner.stderr)
    assert runner._replace(stderr=rest) == plain
    assert closing_lines == (0 if probe.cut_off else 1)
    if closing_lines and not probe.speaks_last:
        assert CLOSING.match(runner.stderr.splitlines(keepends=True)[-1])


def test_every_probe_program_is_run() -> None:
    run = {word for probe in PROBES.values() for word in probe.words}
    helpers = {"failing.py"}
    assert {path.name for path in FOLDER.glob("*.py")} - helpers <= run
    assert len(run) >= 24
