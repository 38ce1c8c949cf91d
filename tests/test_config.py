"""Options: from the command line, arguments, the environment and pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sockguard.config import OPTIONS, Config, ConfigError, load, switched_on, to_environment

BAD = {
    "threshold": ["-1", "nan", "inf", "abc", "", "1 s", True, [1], None],
    "level": ["loud", "", "FULL", 3],
    "output": ["", "missing/leaks.jsonl", ".", "folder/"],
    "output_limit": ["-1", "ten", "10T", "1.5", True],
    "exit_code": ["0", "256", "-1", "two", "1.5", True],
    "ignore": ["(", ["fine", "*"], 3],
    "quiet": ["maybe", "2"],
    "depth": ["0", "-1", "1025", "deep"],
    "interval": ["0", "0.01", "nan", "1e12"],
    "explain": ["-1", "11", "nan", True],
    "observer": ["kqueue", ""],
    "otel": ["maybe", "1"],
    "otel_omit_addresses": ["some", "2"],
}
GOOD = {
    "threshold": [("0", 0.0), ("2.5", 2.5), (3, 3.0)],
    "level": [("full", "full"), ("light", "light")],
    "output_limit": [("0", 0), ("1K", 1024), ("2 MiB", 2 << 20), ("1g", 1 << 30), (7, 7)],
    "exit_code": [("1", 1), (" 255 ", 255)],
    "ignore": [("a.py\nb.py", ("a.py", "b.py")), (["x", "y"], ("x", "y"))],
    "quiet": [("1", True), ("false", False), (True, True), ("Yes", True)],
    "depth": [("1", 1), (1024, 1024)],
    "interval": [("0.05", 0.05)],
    "explain": [("0", 0.0), (0.05, 0.05)],
    "observer": [("portable", "portable")],
    "otel": [("on", "on"), ("off", "off")],
    "otel_omit_addresses": [("1", True), ("no", False)],
}
FILE_CASES = [
    ("threshold = 'abc'", "threshold=abc"),
    ("threshold = true", "threshold=True"),
    ("level = 'loud'", "give light or full"),
    ("treshold = 3", "treshold is no option"),
    ("ignore = ['(']", "is not a regular expression"),
    ("[tool.sockguard.depth]\nx = 1", "depth="),
    ("threshold = = 3", "mend it"),
]


def pairs(table: dict[str, list]) -> list[tuple[str, object]]:
    return [(name, value) for name, values in table.items() for value in values]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)


def write_options(folder: Path, text: str) -> None:
    (folder / "pyproject.toml").write_text(f"[tool.sockguard]\n{text}\n")


def test_every_option_has_bad_values_here() -> None:
    assert BAD.keys() == {option.name for option in OPTIONS}


@pytest.mark.parametrize(("name", "value"), pairs(BAD))
def test_a_bad_value_is_one_sentence_that_names_the_option(name: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        load({name: value})
    sentence = str(caught.value)
    assert sentence.startswith(f"argument {name}={value}: ")
    assert "\n" not in sentence
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(("name", "case"), pairs(GOOD))
def test_a_good_value_is_taken_from_text_and_from_python(name: str, case: tuple) -> None:
    given, wanted = case
    assert getattr(load({name: given}), name) == wanted
    if isinstance(given, str):
        assert getattr(load(environ={f"SOCKGUARD_{name.upper()}": given}), name) == wanted


def test_a_relative_output_is_where_the_program_was_started(tmp_path: Path) -> None:
    assert load({"output": "leaks-{pid}.jsonl"}).output == str(tmp_path / "leaks-{pid}.jsonl")


def test_the_sources_override_each_other_in_the_documented_order(tmp_path: Path) -> None:
    write_options(tmp_path, "threshold = 1\ndepth = 1\nlevel = 'full'\nexit-code = 4")
    environ = {"SOCKGUARD_THRESHOLD": "2", "SOCKGUARD_DEPTH": "2"}
    config = load({"threshold": 3}, environ=environ, folder=tmp_path, label="--")
    assert (config.threshold, config.depth, config.level, config.exit_code) == (3, 2, "full", 4)
    assert config.interval == Config().interval
    assert config.sources == {
        "threshold": "--threshold",
        "depth": "SOCKGUARD_DEPTH",
        "level": f"{tmp_path / 'pyproject.toml'}: level",
        "exit_code": f"{tmp_path / 'pyproject.toml'}: exit-code",
    }


def test_the_level_of_who_asks_is_only_a_default() -> None:
    assert load(level="full").level == "full"
    assert load(environ={"SOCKGUARD_LEVEL": "light"}, level="full").level == "light"


@pytest.mark.parametrize(("text", "told"), FILE_CASES)
def test_a_bad_pyproject_names_the_file_and_the_option(
    tmp_path: Path, text: str, told: str
) -> None:
    write_options(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(folder=tmp_path)
    assert str(tmp_path / "pyproject.toml") in str(caught.value)
    assert told in str(caught.value)


def test_a_pyproject_where_sockguard_is_no_table_is_told(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[[tool.sockguard]]\nthreshold = 1\n")
    with pytest.raises(ConfigError, match="pyproject"):
        load(folder=tmp_path)


@pytest.mark.parametrize("text", ["", "[tool.other]\nx = 1", "not toml at all ["])
def test_a_pyproject_without_our_table_is_none_of_our_business(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    assert load(folder=tmp_path) == Config()


def test_a_misspelt_variable_is_told_with_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ={"SOCKGUARD_TRESHOLD": "3"})
    assert str(caught.value).startswith("SOCKGUARD_TRESHOLD is no option; known are ")
    assert "SOCKGUARD_THRESHOLD" in str(caught.value)


def test_an_unknown_argument_is_told() -> None:
    with pytest.raises(ConfigError, match="argument treshold is no option; known are threshold"):
        load({"treshold": 3})


def test_in_a_service_each_error_is_told_and_keeps_its_default(tmp_path: Path) -> None:
    write_options(tmp_path, "depth = 0\nlevel = 'full'")
    wrong: list[ConfigError] = []
    environ = {"SOCKGUARD_THRESHOLD": "abc", "SOCKGUARD_QUIET": "1", "SOCKGUARD_OOPS": "1"}
    config = load(environ=environ, folder=tmp_path, on_error=wrong.append)
    assert config == Config(level="full", quiet=True)
    assert len(wrong) == 3


WITHOUT_ROOT = """
import os, sys
from sockguard.config import ConfigError, load
outer, file, mode = sys.argv[1:]
os.chdir(outer + "/inner")
os.chmod(outer, int(mode, 8))
if os.geteuid() == 0:
    os.setuid(65534)  # root may write anywhere
try:
    load({"output": file})
except ConfigError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("file", "mode"), [("new.jsonl", "755"), ("old.jsonl", "755"), ("new.jsonl", "000")]
)
def test_an_output_that_may_not_be_written_is_told(file: str, mode: str) -> None:
    with tempfile.TemporaryDirectory() as outer:  # tmp_path is closed to others than its owner
        inner = Path(outer, "inner")
        inner.mkdir()
        (inner / "old.jsonl").touch()
        (inner / "old.jsonl").chmod(0o444)
        inner.chmod(0o555)
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_ROOT, outer, file, mode], capture_output=True, text=True
        )
        Path(outer).chmod(0o755)
        inner.chmod(0o755)
    assert done.stderr == ""
    assert done.stdout.startswith(f"argument output={file}: ")
    assert done.stdout.endswith("give another file\n")


def test_children_load_the_very_configuration_of_their_parent(tmp_path: Path) -> None:
    config = load(
        {
            "threshold": 0,
            "level": "full",
            "output": "leaks-{pid}.jsonl",
            "output_limit": 0,
            "exit_code": 9,
            "ignore": ["a b", "c"],
            "quiet": True,
            "depth": 5,
            "interval": 0.25,
            "observer": "portable",
        }
    )
    assert load(environ=to_environment(config), folder=tmp_path) == config
    assert load(environ=to_environment(Config())) == Config()
    assert switched_on(to_environment(Config()))


@pytest.mark.parametrize(("value", "on"), [("1", True), ("yes", True), ("0", False), ("", False)])
def test_sockguard_0_or_empty_is_off(value: str, on: bool) -> None:
    assert switched_on({"SOCKGUARD": value}) is on
    assert not switched_on({})


def test_every_option_has_a_flag_a_variable_and_a_field() -> None:
    for option in OPTIONS:
        assert option.name in Config.__dataclass_fields__
        assert option.flag == "--" + option.name.replace("_", "-")
        assert option.variable == "SOCKGUARD_" + option.name.upper()
