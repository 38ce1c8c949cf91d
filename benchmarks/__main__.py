"""``python -m benchmarks [--quick] [--only TOPIC] [--json FILE]``: the budget, measured.

Prints each row with its bound, the median and the spread; exit code 1 if one misses. Every
topic runs in a process of its own: what one has imported or patched is not the next one's.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

TOPICS: Final = (
    "creation", "reads", "connections", "watcher", "memory", "startup", "plugin", "telemetry",
    "servers", "explain",
)  # fmt: skip
_NAME_WIDTH: Final = 58


def machine() -> dict[str, Any]:
    """Return what a number is worth nothing without."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load": [round(load, 1) for load in os.getloadavg()],
    }


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e6:
        return f"{value:.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _line(row: dict[str, Any], bound: str) -> str:
    verdict = row["verdict"]
    spread = f"{_number(row['low'])} to {_number(row['high'])}"
    cells = f"{bound:>9} {_number(row['median']):>8}  {spread:<18} {row['unit']:<12} {verdict:<6}"
    note = f"  ({row['note']})" if row["note"] else ""
    return f"{row['what']:<{_NAME_WIDTH}} {cells}{note}".rstrip()


def _here(topic: str, *, quick: bool) -> list[dict[str, Any]]:
    module = importlib.import_module(f"benchmarks.{topic}")
    return [
        row.as_json() | {"bound": row.bound, "topic": topic} for row in module.rows(quick=quick)
    ]


def _in_a_child(topic: str, *, quick: bool) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "rows.json")
        command = [sys.executable, "-m", "benchmarks", "--only", topic, "--json", str(answer)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SOCKGUARD")}
        done = subprocess.run(
            command + ["--quick"] * quick, check=False, env=environment, stdout=subprocess.DEVNULL
        )
        if done.returncode not in (0, 1) or not answer.exists():
            raise SystemExit(f"benchmarks: {topic} failed (exit code {done.returncode})")
        rows: list[dict[str, Any]] = json.loads(answer.read_text())["rows"]
        return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer pairs: under two minutes")
    parser.add_argument("--only", choices=TOPICS, help="one topic, in this process")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the rows there too")
    options = parser.parse_args()
    about = machine()
    print(f"{about['python']}, {about['system']}, {about['cores']} cores, load {about['load'][0]}")
    print(f"{'':<{_NAME_WIDTH}} {'bound':>9} {'median':>8}  quartiles")
    began = time.monotonic()
    rows: list[dict[str, Any]] = []
    for topic in [options.only] if options.only else TOPICS:
        measure = _here if options.only else _in_a_child
        for row in measure(topic, quick=options.quick):
            rows.append(row)
            print(_line(row, row["bound"]), flush=True)
    about["seconds"] = round(time.monotonic() - began)
    missed = [row["what"] for row in rows if row["verdict"] == "MISSES"]
    print(f"{about['seconds']} s, {len(missed)} missed")
    if options.json:
        options.json.write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
