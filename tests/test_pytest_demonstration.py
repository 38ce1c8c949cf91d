"""The demonstration suite in ``pytest_plugin/``: the name of each test says what is to come out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

FOLDER = Path(__file__).parent / "pytest_plugin"
LEAKING = 27


def run(report: Path, *options: str) -> dict[str, bool]:
    """Run the demonstration; return which of its tests leak."""
    command = [sys.executable, "-m", "pytest", "-q", "--sockguard", "-o", "python_files=demo_*.py"]
    command += [
        "-c",
        os.devnull,
        "--rootdir",
        ".",
        "-p",
        "no:cacheprovider",
        f"--junitxml={report}",
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SOCKGUARD", "PYTEST"))}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(
        [*command, *options],
        cwd=FOLDER,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "switched off" not in done.stdout + done.stderr
    assert "after their test had been judged" not in done.stdout
    cases: dict[str, bool] = {}
    for case in ET.parse(report).iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        assert case.find("failure") is None, ET.tostring(case, "unicode")
        cases[name] = cases.get(name, False) or case.find("error") is not None
        assert name.count("leaks") == 0 or name.count("clean") == 0
    return cases


def judge(cases: dict[str, bool], workers: int) -> None:
    leaking = {name for name, leaks in cases.items() if leaks}
    assert {name for name in cases if "leaks" in name} - leaking == set(), "missed"
    assert {name for name in leaking if "clean" in name} == set(), "falsely accused"
    # The class's fixture is judged with whichever of the two comes last; in each worker.
    assert len([name for name in leaking if "TestClass" in name]) in (1, workers)
    assert len([name for name in leaking if "TestClass" not in name]) == LEAKING
    assert len(cases) - len(leaking) >= 30


def test_each_verdict_of_the_demonstration_is_right(tmp_path):
    judge(run(tmp_path / "report.xml", "-p", "no:randomly"), 1)


@pytest.mark.long
def test_each_verdict_is_right_in_two_workers_and_in_random_order(tmp_path):
    judge(run(tmp_path / "report.xml", "-n", "2"), 2)


@pytest.mark.long
@pytest.mark.parametrize("time", range(1, 21))
def test_each_verdict_is_right_twenty_times_in_a_row_in_random_order(tmp_path, time):
    workers = 1 + time % 2
    options = ["-n", "2"] if workers == 2 else []
    judge(run(tmp_path / "report.xml", *options), workers)
