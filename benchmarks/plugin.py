"""`pytest --sockguard`: at most 2 % on tests that open no socket, 10 % where each opens ten.

Processor time of whole runs, off and on in turn. The modules are compiled before, as they
are for every run but the first.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.measure import Pair, Row, row

WITHOUT: Final = 2.0
WITH_TEN: Final = 10.0
_MODULES: Final = 30

_NOTHING: Final = "def test_{number}():\n    assert {number} >= 0\n"
_TEN: Final = """\
def test_{number}():
    for _ in range(5):
        near, far = socket.socketpair()
        near.sendall(b"hello")
        assert far.recv(5) == b"hello"
        near.close()
        far.close()
"""


def _write(folder: Path, pattern: str, count: int) -> None:
    each = count // _MODULES + 1
    for module in range(_MODULES):
        numbers = range(module * each, min((module + 1) * each, count))
        body = "".join(pattern.format(number=number) for number in numbers)
        (folder / f"test_{module}.py").write_text(f"import socket\n\n{body}")


def _spent(folder: Path, *options: str) -> float:
    """Return the processor seconds of a run, its own children included."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SOCKGUARD", "PYTEST"))}
    environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONHASHSEED": "0"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", ".",
         "-p", "sockguard.pytest_plugin", *options],
        cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum((getattr(after, name) - getattr(before, name)) for name in ("ru_utime", "ru_stime"))


def _compare(what: str, pattern: str, count: int, pairs: int, at_most: float) -> Row:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, pattern, count)
        measured = []
        for number in range(pairs + 1):
            order = ["--no-sockguard", "--sockguard"][:: 1 if number % 2 else -1]
            spent = {option: _spent(folder, option) for option in order}
            measured.append(Pair(spent["--no-sockguard"], spent["--sockguard"]))
    more = [(pair.guarded / pair.plain - 1) * 100 for pair in measured[1:]]
    return row(what, "% more", more, at_most=at_most)


def rows(*, quick: bool) -> list[Row]:
    pairs = 3 if quick else 15
    return [
        _compare("pytest, 3000 tests without a socket", _NOTHING, 3000, pairs, WITHOUT),
        _compare("pytest, 500 tests of ten sockets each", _TEN, 500, pairs, WITH_TEN),
    ]
