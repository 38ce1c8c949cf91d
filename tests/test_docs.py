"""docs/reference.md and README.md say what the code does."""

from __future__ import annotations

import re
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import sockguard
from sockguard import (
    burials,
    config,
    correspondence,
    explainer,
    findings,
    heartbeat,
    holders,
    leaks,
    listeners,
    registry,
    stacks,
)
from sockguard.cli import help_text
from sockguard.config import OPTIONS, Config
from sockguard.exporters.json_lines import encode_event, encode_summary
from sockguard.pytest_handle import Handle
from sockguard.pytest_options import Settings
from sockguard.reads import METHODS

ROOT = Path(__file__).parent.parent
REFERENCE = (ROOT / "docs" / "reference.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
PYTEST_PAGE = (ROOT / "docs" / "pytest.md").read_text("utf-8")


def rows(heading: str) -> dict[str, list[str]]:
    """Return the table below a heading: first cell without backquotes -> all cells."""
    section = REFERENCE.split(f"{heading}\n", 1)[1]
    table = {}
    for line in section.splitlines():
        if line.startswith("#"):
            break
        if line.startswith("|") and not line.startswith("|---"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            table[cells[0].strip("`")] = cells
    return table


def test_every_option_is_documented_with_its_variable_and_no_other():
    documented = rows("## Options")
    documented.pop("option")
    expected = {
        f"{option.flag} {option.metavar or ''}".strip().replace("|", "\\|"): option.variable
        for option in OPTIONS
    }
    assert {flag: cells[1].strip("`") for flag, cells in documented.items()} == expected


def test_every_option_stands_in_the_help():
    assert all(option.flag in help_text() and option.variable in help_text() for option in OPTIONS)


def test_the_documented_defaults_are_those_of_the_code():
    cells = {flag.split()[0]: row[2] for flag, row in rows("## Options").items()}
    defaults = Config()
    assert float(cells["--threshold"]) == defaults.threshold
    assert int(cells["--depth"]) == defaults.depth
    assert float(cells["--interval"]) == defaults.interval
    assert config.BY_NAME["output_limit"].parse(cells["--output-limit"]) == defaults.output_limit
    assert float(cells["--explain"]) == defaults.explain
    assert cells["--observer"].strip("`") == defaults.observer
    assert cells["--level"].endswith(f"else `{defaults.level}`")


def test_every_method_that_level_full_stands_in_for_is_named():
    text = rows("## Options")["--level light\\|full"][3]
    assert {*METHODS, "__init__", "__del__"} <= set(
        re.findall(r"`(?:socket\.socket\.)?(\w+)`", text)
    )
    assert "`ssl.SSLSocket.read`" in text


@pytest.mark.parametrize(
    ("heading", "members"), [("kind", findings.Kind), ("verdict", findings.Verdict)]
)
def test_every_kind_and_verdict_is_documented(heading, members):
    section = REFERENCE.split("## Kinds and verdicts")[1].split("## Events")[0]
    table = section.split(f"| {heading} |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == {m.value for m in members}


def test_every_event_is_documented():
    documented = rows("## Events")
    documented.pop("event")
    assert set(documented) == {
        findings.LEAK,
        findings.RESOLVED,
        findings.POOLED,
        findings.SUMMARY,
    }


@pytest.fixture
def finding() -> Iterator[findings.Finding]:
    """A real leak, found."""
    with sockguard.watch() as guard, socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        with accepted:
            client.close()
            select.select([accepted], [], [], 10)
            (found,) = guard.check()
            yield found


@pytest.mark.parametrize("name", [findings.LEAK, findings.RESOLVED, findings.POOLED])
def test_every_field_of_an_event_is_documented(name, finding):
    event = findings.Event(
        name=name, finding=finding, at_ns=finding.at_ns, group_count=1, group_open=1, open_ns=1
    )
    heading = f"### Fields of `{findings.LEAK}`, `{findings.RESOLVED}` and `{findings.POOLED}`"
    documented = set(rows(heading)) - {"field"}
    if name != findings.RESOLVED:
        documented.remove("open_s")
    assert set(encode_event(event)) == documented


def test_every_field_of_the_summary_is_documented():
    summary = findings.Summary(
        at_ns=0, groups=(), open_at_exit=(), tracked=0, collected_unclosed=None, cpu_ns=0
    )
    documented = set(rows(f"### Fields of `{findings.SUMMARY}`")) - {"field"}
    assert set(encode_summary(summary)) == documented


def test_the_documented_bounds_are_those_of_the_code():
    cells = {what: row[1] for what, row in rows("## Bounds").items()}

    def number(what: str) -> int:
        return int(re.findall(r"[\d,]+", cells[what])[0].replace(",", ""))

    assert number("creation stacks held apart from records") == stacks.MAX_INTERNED
    assert number("lines looked up") == stacks.MAX_RESOLVED
    assert number("groups") == leaks.MAX_GROUPS
    assert number("sockets freed unclosed, waiting for the next look") == registry.MAX_COLLECTED
    assert number("the same, waiting for `check") == burials.MAX_BURIED
    assert number("listeners known by address") == listeners.MAX_LISTENERS
    assert number("pools known") == explainer.MAX_KNOWN_POOLS
    assert number("far ends asked for") == correspondence.MAX_ASKED
    assert number("a search") == holders.MAX_LEVELS
    assert float(re.findall(r"[\d.]+", cells["a search for holders"])[0]) == Config().explain
    assert number("a fork") == heartbeat.FORK_PATIENCE_S * 1000
    assert number("exit") == heartbeat.EXIT_PATIENCE_S
    assert "first five" in REFERENCE
    assert leaks.FIRST_EVENTS == 5


def test_every_link_in_the_documents_leads_somewhere():
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text("utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def plugin_flags(config: pytest.Config) -> set[str]:
    group = config._parser.getgroup("sockguard")
    return {name for option in group.options for name in option.names()}


def test_every_option_and_ini_option_of_the_plugin_is_documented_and_no_other(pytestconfig):
    lines = re.findall(r"^\| `(--[^ `]+)[^|]*\|([^|]*)\|", PYTEST_PAGE, re.MULTILINE)
    assert {flag for flag, _ in lines} == plugin_flags(pytestconfig)
    inis = {name.strip(" `") for _, name in lines if name.strip()}
    assert inis == {name for name in pytestconfig._parser._inidict if name.startswith("sockguard")}


def test_every_keyword_of_the_marker_and_call_of_the_fixture_is_documented():
    keywords = {*Settings._fields}
    calls = {name for name in vars(Handle) if not name.startswith("_")}
    documented = set(re.findall(r"^\| `(\w+)(?:\(\w*\))?` \|", PYTEST_PAGE, re.MULTILINE))
    assert documented == keywords | calls


def test_the_readme_names_real_options_and_the_required_python(pytestconfig):
    flags = {option.flag for option in OPTIONS} | plugin_flags(pytestconfig)
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]+", README)) <= flags
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    required = re.search(r'requires-python = ">=([\d.]+)"', project)
    assert required is not None
    assert f"Python {required[1]} or newer" in README
