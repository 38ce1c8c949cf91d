"""The shape of the package: imports go down only, modules stay small, names say what they hold.

The contracts are read from ``[tool.importlinter]`` in pyproject.toml and held here by the
syntax tree alone, so that they hold also where import-linter is not installed.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sockguard"
MEANINGLESS = {"utils", "util", "common", "helpers", "base", "core", "misc", "types"}
MAX_LINES = 400
MEDIAN_LINES = 150


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


FILES = {name_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
    "importlinter"
]["contracts"]


def contracts(kind: str) -> list[dict]:
    return [contract for contract in CONTRACTS if contract["type"] == kind]


def imported(tree: ast.AST, name: str, *, package: bool) -> Iterator[str]:
    """Yield the modules that ``name`` imports anywhere, in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                parts = name.split(".")
                parts = parts[: len(parts) - node.level + package]
                source = ".".join([*parts, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield inner if inner in FILES else source
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "__import__"
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node.args[0].value


IMPORTS = {
    name: set(
        imported(
            ast.parse(file.read_text(encoding="utf-8")), name, package=file.name == "__init__.py"
        )
    )
    for name, file in FILES.items()
}


def layers_of(contract: dict) -> dict[str, int]:
    """Return the layer of each top module, the highest being 0."""
    return {
        name.strip(): depth
        for depth, layer in enumerate(contract["layers"])
        for name in layer.split("|")
    }


def top(name: str) -> str | None:
    """Return the module right below the package, ``None`` for what is not ours or the root."""
    head, _, rest = name.partition(".")
    return rest.partition(".")[0] or None if head == "sockguard" else None


def test_every_contract_is_of_a_kind_that_is_held_here():
    assert {contract["type"] for contract in CONTRACTS} == {"layers", "forbidden"}


def test_every_module_has_its_layer():
    (contract,) = contracts("layers")
    assert {top(name) for name in FILES} - {None} == set(layers_of(contract))


def test_imports_go_down_only_and_siblings_stay_apart():
    (contract,) = contracts("layers")
    layer = layers_of(contract)
    upwards = [
        f"{name} imports {target}"
        for name, targets in IMPORTS.items()
        for target in targets
        if (source := top(name)) is not None
        and (goal := top(target)) is not None
        and source != goal
        and layer[goal] <= layer[source]
    ]
    assert upwards == []


def test_no_module_imports_the_root_package_for_more_than_its_version():
    (contract,) = contracts("layers")
    edges = [name for layer in contract["layers"][:2] for name in layer.split(" | ")]
    whole = {name for name, targets in IMPORTS.items() if "sockguard" in targets}
    assert {top(name) for name in whole} <= {*edges, "doctor", "runner"}


def reach(name: str, *, indirect: bool) -> set[str]:
    """Return what ``name`` imports, and if ``indirect`` what ours of that imports in turn."""
    seen: set[str] = set()
    ahead = [name]
    while ahead:
        for target in IMPORTS.get(ahead.pop(), ()):
            if target not in seen:
                seen.add(target)
                ahead += [target] if indirect else []
    return seen


@pytest.mark.parametrize("contract", contracts("forbidden"), ids=lambda contract: contract["name"])
def test_what_is_forbidden_is_not_imported(contract):
    forbidden = set(contract["forbidden_modules"])
    indirect = not contract.get("allow_indirect_imports", False)
    for source in contract["source_modules"]:
        assert source in FILES
        reached = {target.partition(".")[0] for target in reach(source, indirect=indirect)}
        assert reached & forbidden == set(), source


def lines_of(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def test_a_module_over_400_lines_says_why_in_its_head():
    for name, file in FILES.items():
        if lines_of(file) > MAX_LINES:
            head = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            assert "lines" in head, f"{name} is long: split it, or say why in its head"


def test_the_median_module_is_short():
    assert statistics.median(map(lines_of, FILES.values())) < MEDIAN_LINES


def test_no_module_has_a_name_that_says_nothing():
    assert {part for name in FILES for part in name.split(".")} & MEANINGLESS == set()


def test_no_module_is_reached_by_a_star():
    stars = [
        name
        for name, file in FILES.items()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
    ]
    assert stars == []
