"""Starting: the import costs next to nothing; being installed costs the import of wrapt.

Each in a fresh process that finds its bytecode cached, as an installed package's is. Only
the import has a bound; the rest tells what ``SOCKGUARD=1`` and ``python -m sockguard`` add
to a program's start, and what a fork costs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any, Final

from benchmarks.measure import Pair, Row, in_turn, more, row

IMPORT_BOUND_MS: Final = 10
_NS_PER_MS: Final = 1_000_000

_IMPORT = """
import json, sys, time
known = set(sys.modules)
began = time.perf_counter_ns()
import sockguard
took = time.perf_counter_ns() - began
print(json.dumps([took, sorted(set(sys.modules) - known)]))
"""

_INSTALL = """
import sockguard, time
began = time.perf_counter_ns()
sockguard.install(quiet=True)
print(time.perf_counter_ns() - began)
"""

# The watcher sleeps from a fork to the next tracked socket: one before each.
_FORKS = """
import os, socket, sys, time, warnings
guard = None
if sys.argv[1] == "guarded":
    import sockguard
    guard = sockguard.install(quiet=True)
took = []
for _ in range(int(sys.argv[2])):
    socket.socket().close()
    time.sleep(0.002)
    began = time.perf_counter_ns()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    took.append(time.perf_counter_ns() - began)
    os.waitpid(pid, 0)
took.sort()
print(took[len(took) // 2])
"""


_CACHE: Final = tempfile.TemporaryDirectory(prefix="benchmarks-")


def _environment(**more_of_it: str) -> dict[str, str]:
    left_out = ("SOCKGUARD", "PYTHONDONTWRITEBYTECODE")
    plain = {name: text for name, text in os.environ.items() if not name.startswith(left_out)}
    return plain | {"PYTHONPYCACHEPREFIX": _CACHE.name} | more_of_it


def _said(*arguments: str) -> Any:
    """Run Python with ``arguments``; return what it printed, as JSON."""
    done = subprocess.run(
        [sys.executable, *arguments], env=_environment(), check=True, capture_output=True
    )
    return json.loads(done.stdout)


def _wall_ms(*arguments: str, **environment: str) -> float:
    began = time.perf_counter_ns()
    subprocess.run(
        [sys.executable, *arguments], env=_environment(**environment), check=True, stderr=-3
    )
    return (time.perf_counter_ns() - began) / _NS_PER_MS


def third_party(modules: list[str]) -> list[str]:
    """Return those of ``modules`` that are neither the standard library's nor ours."""
    allowed = {*sys.stdlib_module_names, "sockguard"}
    return [name for name in modules if name.partition(".")[0] not in allowed]


def _longer(what: str, count: int, arguments: list[str], **environment: str) -> Row:
    pairs = in_turn(
        lambda: _wall_ms("-c", "pass"),
        lambda: _wall_ms(*arguments, **environment),
        count,
        warm_up=1,
    )
    return more(what, "ms", pairs)


def _forks(count: int) -> list[Pair]:
    return in_turn(
        lambda: _said("-c", _FORKS, "plain", "20") / _NS_PER_MS,
        lambda: _said("-W", "error", "-c", _FORKS, "guarded", "20") / _NS_PER_MS,
        count,
        warm_up=0,
    )


def rows(*, quick: bool) -> list[Row]:
    count = 8 if quick else 24
    _said("-c", _IMPORT)  # these two fill the cache
    _said("-c", _INSTALL)
    imports = [_said("-c", _IMPORT) for _ in range(count)]
    strangers = {name for _, modules in imports for name in third_party(modules)}
    installs = [_said("-c", _INSTALL) / _NS_PER_MS for _ in range(count // 2)]
    return [
        row("import sockguard", "ms", [took / _NS_PER_MS for took, _ in imports],
            at_most=IMPORT_BOUND_MS),
        row("third-party modules that it loads", "", [len(strangers)], at_most=0,
            note=", ".join(sorted(strangers))),
        row("sockguard.install(), the first in a process", "ms", installs,
            note="the import of wrapt"),
        _longer("SOCKGUARD=1 python -c pass, more than without", count,
                ["-c", "pass"], SOCKGUARD="1", SOCKGUARD_QUIET="1"),
        _longer("python -m sockguard -c pass, more than without", count,
                ["-m", "sockguard", "--quiet", "-c", "pass"]),
        more("os.fork(), in the parent", "ms", _forks(3 if quick else 8)),
    ]  # fmt: skip
