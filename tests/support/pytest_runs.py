"""Runs of pytest over small projects of tests, and what junitxml has of each test."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections import defaultdict
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from xml.etree import ElementTree

from support.programs import clean_environment

PATIENCE_S = 60.0
# What junitxml has of a test that leaks, and of one that fails.
LEAK, FAILURE = ["error"], ["failure"]

# Keeps a socket whose peer's FIN has arrived, and returns it.
LEAKY = """
    import select
    import socket

    KEPT = []

    def leak():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            sock = socket.create_connection(listener.getsockname(), timeout=5)
            listener.accept()[0].close()
        assert select.select([sock], [], [], 5)[0]
        KEPT.append(sock)
        return sock
"""
PRELUDE = "import os, socket, threading\nimport pytest\nfrom leaky import KEPT, leak\n"


@dataclass
class Case:
    """What junitxml has of one test: no element stands for passed."""

    elements: list[str] = field(default_factory=list)
    properties: list[str] = field(default_factory=list)
    text: str = ""


@dataclass
class Run:
    """How a run of pytest has ended."""

    code: int
    out: str
    err: str
    cases: dict[str, Case]

    @property
    def counts(self) -> dict[str, int]:
        """The last line: ``{"passed": 3, "socket leak": 1}``."""
        found = re.findall(r"(\d+) ([a-z ]+?)(?:,| in )", self.out.strip().splitlines()[-1])
        return {word: int(number) for number, word in found}

    @property
    def outcomes(self) -> dict[str, list[str]]:
        return {name: case.elements for name, case in self.cases.items()}

    @property
    def troubled(self) -> dict[str, list[str]]:
        """What did not just pass."""
        return {name: elements for name, elements in self.outcomes.items() if elements}


def project(folder: Path, *, ini: str = "", **modules: str) -> Path:
    """Write modules of tests, and ``leaky`` that they use, to ``folder``."""
    (folder / "pytest.ini").write_text(f"[pytest]\n{ini}")
    (folder / "leaky.py").write_text(textwrap.dedent(LEAKY))
    for name, text in modules.items():
        prelude = PRELUDE if name.startswith("test_") else ""
        (folder / f"{name}.py").write_text(prelude + textwrap.dedent(text))
    return folder


def installed_plugins() -> set[str]:
    """Return the names of the plugins that pytest finds by itself, without ours."""
    return {point.name for point in entry_points(group="pytest11")} - {"sockguard"}


def run(
    folder: Path,
    *words: str,
    python: tuple[str, ...] = ("-m", "pytest"),
    plugins: tuple[str, ...] = (),
    settle: str = "0",
    cache: bool = False,
    **environment: str,
) -> Run:
    """Run pytest in ``folder``; of the plugins that are installed only ours and ``plugins``."""
    others = installed_plugins() - set(plugins)
    if not cache:
        others.add("cacheprovider")
    inherited = clean_environment(PYTHONDONTWRITEBYTECODE="1", COLUMNS="200")
    environ = {name: v for name, v in inherited.items() if not name.startswith("PYTEST")}
    report = folder / "junit.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, *python, f"--junitxml={report}"]
    command += [word for name in sorted(others) for word in ("-p", f"no:{name}")]
    if "no:sockguard" not in words:
        command.append(f"--sockguard-settle={settle}")
    done = subprocess.run(
        [*command, *words],
        cwd=folder,
        env={**environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr, _cases(report))


def _cases(report: Path) -> dict[str, Case]:
    cases: dict[str, Case] = defaultdict(Case)
    for entry in ElementTree.parse(report).iter("testcase") if report.exists() else ():
        case = cases[entry.get("name", "")]
        for element in entry:
            if element.tag == "properties":
                case.properties += [p.attrib["value"] for p in element if is_ours(p)]
            elif element.tag in ("failure", "error", "skipped"):
                case.elements.append(element.tag)
                case.text += f"{element.get('message')}\n{element.text}"
    return dict(cases)


def is_ours(element: ElementTree.Element) -> bool:
    return element.get("name") == "sockguard"
