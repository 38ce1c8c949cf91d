"""Starting programs under guard as a user would, and ending them by their own handle."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PATIENCE_S = 20.0
SERVERS = Path(__file__).parent.parent / "servers"
# Short, so that a test need not wait; the interval is the shorter, as in the default.
OPTIONS = {"threshold": "0.3", "interval": "0.1", "level": "full"}


def clean_environment(**more: str) -> dict[str, str]:
    """Return this process's environment without any setting of a guard, and with ``more``."""
    inherited = {name: v for name, v in os.environ.items() if not name.startswith("SOCKGUARD")}
    return {**inherited, **more}


def service_environment(output: Path, **more: str) -> dict[str, str]:
    """Return an environment that puts any Python under guard, and writes to ``output``."""
    options = {f"SOCKGUARD_{name.upper()}": value for name, value in OPTIONS.items()}
    return clean_environment(
        SOCKGUARD="1", SOCKGUARD_OUTPUT=str(output), SOCKGUARD_QUIET="1", **options, **more
    )


class Program:
    """A running program that says a line when it is ready, and ends when its input does."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self.process = process
        self.pid = process.pid
        self._errors = errors

    def line(self) -> list[str]:
        """Wait for the next line of output; return its words."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            assert selector.select(PATIENCE_S), "the program says nothing"
        words = self.process.stdout.readline().split()
        assert words, f"the program ended: {self.errors()}"
        return words

    def tell(self, line: str) -> None:
        """Write one line to the program."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self) -> int:
        """End the program's input; return its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(PATIENCE_S)

    def terminate(self) -> int:
        """Ask for the end as a supervisor does; return the exit code."""
        self.process.terminate()
        return self.process.wait(PATIENCE_S)

    def errors(self) -> str:
        """Return all that was written to standard error."""
        return self._errors.read_text("utf-8")


@contextmanager
def running(
    command: Sequence[str | Path],
    folder: Path,
    environment: dict[str, str],
    pass_fds: Sequence[int] = (),
) -> Iterator[Program]:
    """Run ``command`` in a session of its own: where it does not end, all its children go too."""
    errors = folder / "stderr.txt"
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment,
            pass_fds=tuple(pass_fds),
            text=True,
            start_new_session=True,
        )
    program = Program(process, errors)
    with process:
        try:
            yield program
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def guarded(output: Path, file: str, *arguments: str | Path, **options: str) -> Iterator[Program]:
    """Run one of tests/servers by ``python -m sockguard``, its JSON Lines to ``output``."""
    chosen = OPTIONS | options
    flags = [word for name, value in chosen.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-m", "sockguard", *flags, "--quiet", "--output", output]
    with running(
        [*command, SERVERS / file, *arguments], output.parent, clean_environment()
    ) as program:
        yield program
