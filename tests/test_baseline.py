"""The file of known leaks: read, written whole or not at all, compared."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from sockguard import baseline
from sockguard.baseline import BaselineError, Known, Leaks

CURE = "mend it, or write it anew with --sockguard-update-baseline"


def a_known(count: int = 1, site: str = "handle, shop.app") -> Known:
    return Known(count=count, site=site)


def some_leaks() -> Leaks:
    return {
        "tests/test_b.py::test_é[1]": {"b1": a_known(2), "a2": a_known(1, "unknown")},
        "fixture tests::pool": {"b1": a_known(7)},
    }


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "known.json"
    baseline.write(path, some_leaks())
    assert baseline.read(path) == some_leaks()
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_a_baseline_too(tmp_path):
    path = tmp_path / "known.json"
    baseline.write(path, {})
    assert baseline.read(path) == {}


def test_a_file_is_the_same_whatever_the_order_and_ends_in_a_line(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    leaks = some_leaks()
    backwards = {key: dict(reversed(leaks[key].items())) for key in reversed(leaks)}
    baseline.write(one, leaks)
    baseline.write(other, {**backwards, "without any": {}})
    assert one.read_bytes() == other.read_bytes()
    assert one.read_text("utf-8").endswith("}\n")
    assert "test_é[1]" in one.read_text("utf-8")


def test_a_name_that_is_no_text_is_kept_as_it_is(tmp_path):
    # What a file name in another encoding is decoded to.
    path, leaks = tmp_path / "known.json", {"t\udce9st.py::a": {"b1": a_known(1, "a, t\udce9st")}}
    baseline.write(path, leaks)
    assert baseline.read(path) == leaks
    assert list(tmp_path.iterdir()) == [path]


# -- broken files ----------------------------------------------------------------------


def leaks_of(entry: object) -> str:
    return json.dumps({"version": 1, "leaks": {"a": {"b": entry}}})


GOOD_ENTRY = {"count": 1, "site": "a"}
BROKEN = {
    "empty": "",
    "no JSON": "{",
    "deep": "[" * 100_000,
    "after a byte-order mark": "\ufeff" + leaks_of(GOOD_ENTRY),
    "a list": "[]",
    "a number": "1",
    "null": "null",
    "text": '"version"',
    "an empty table": "{}",
    "no leaks": '{"version": 1}',
    "leaks in a list": '{"version": 1, "leaks": []}',
    "leaks that are null": '{"version": 1, "leaks": null}',
    "an owner's leaks in a list": '{"version": 1, "leaks": {"a": []}}',
    "an entry that is a number": leaks_of(1),
    "an entry that is null": leaks_of(None),
    "an entry in a list": leaks_of([1, "a"]),
    "no count": leaks_of({"site": "a"}),
    "no site": leaks_of({"count": 1}),
    "a count of zero": leaks_of({"count": 0, "site": "a"}),
    "a count below zero": leaks_of({"count": -1, "site": "a"}),
    "a count that is no whole number": leaks_of({"count": 1.0, "site": "a"}),
    "a count that is true": leaks_of({"count": True, "site": "a"}),
    "a count in text": leaks_of({"count": "1", "site": "a"}),
    "a site that is null": leaks_of({"count": 1, "site": None}),
}


def complaint(path: Path) -> str:
    with pytest.raises(BaselineError) as raised:
        baseline.read(path)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    (sentence,) = raised.value.args
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_one_sentence_with_its_name_and_the_cure(content, tmp_path):
    path = tmp_path / "known.json"
    path.write_text(content, "utf-8")
    assert complaint(path) == f"baseline {path} is no baseline of sockguard; {CURE}"


@pytest.mark.parametrize("version", [0, 2, "1", None, [1]], ids=repr)
def test_another_version_is_said(version, tmp_path):
    path = tmp_path / "known.json"
    path.write_text(json.dumps({"version": version, "leaks": {}}))
    assert complaint(path) == (
        f"baseline {path} has version {version!r}, this sockguard reads 1; "
        "write it anew with --sockguard-update-baseline"
    )


def test_a_missing_file_is_said_and_how_to_make_it(tmp_path):
    path = tmp_path / "known.json"
    expected = f"baseline {path} does not exist; create it with --sockguard-update-baseline"
    assert complaint(path) == expected


def test_what_can_not_be_read_is_said(tmp_path):
    binary, file = tmp_path / "binary", tmp_path / "file"
    binary.write_bytes(b"\xff\xfe{}")
    file.write_text("{}")
    for path in (tmp_path, binary, file / "below"):
        sentence = complaint(path)
        assert sentence.startswith(f"baseline {path} can't be read (")
        assert sentence.endswith(f"); {CURE}")


# -- whole or not at all ---------------------------------------------------------------


def refusal(path: Path, leaks: Leaks) -> str:
    with pytest.raises(BaselineError) as raised:
        baseline.write(path, leaks)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    (sentence,) = raised.value.args
    assert sentence.startswith(f"baseline {path} can't be written (")
    return sentence


def test_where_nothing_can_be_written_that_is_said_and_nothing_is_left(tmp_path):
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("mine")
    (folder / "below").mkdir(parents=True)
    for path in (
        file / "known.json",
        folder,
        tmp_path / "missing" / "known.json",
        tmp_path / ("long" * 60 + "name.json"),
    ):
        refusal(path, some_leaks())
    assert file.read_text() == "mine"
    assert sorted(tmp_path.iterdir()) == [file, folder]
    assert list(folder.iterdir()) == [folder / "below"]


def test_a_folder_of_the_kernels_is_read_only_for_everybody():
    path = Path("/proc/sys/kernel/known.json")
    refusal(path, some_leaks())
    assert not path.exists()


def test_a_write_that_breaks_off_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "known.json"
    baseline.write(path, some_leaks())
    before = path.read_bytes()
    many = {f"test {number}": {"b1": a_known()} for number in range(1000)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # as on a disk that is full
    try:
        with pytest.raises(BaselineError) as raised:
            baseline.write(path, many)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "can't be written" in str(raised.value)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# -- comparing -------------------------------------------------------------------------


def test_gone_is_what_leaks_less_than_it_says_of_what_was_judged():
    old = {
        "a": {"x": a_known(3, "one"), "w": a_known(1, "two")},
        "b": {"x": a_known(1)},
        "c": {"x": a_known(1)},
        "d": {"x": a_known(2)},
    }
    found = {"a": {"x": a_known(1)}, "b": {"x": a_known(1), "y": a_known()}, "d": {"x": a_known(5)}}
    assert baseline.gone(old, found, ["d", "b", "a", "never known"]) == [
        "a: [w] two: 0 instead of 1",
        "a: [x] one: 1 instead of 3",
    ]
    assert baseline.gone(old, {}, ["c"]) == ["c: [x] handle, shop.app: 0 instead of 1"]
    assert baseline.gone(old, {}, []) == []


def test_updated_is_what_was_judged_as_found_and_the_rest_as_it_was():
    old = {"a": {"x": a_known(3)}, "b": {"x": a_known(1)}, "c": {"x": a_known(4)}}
    found = {"a": {"x": a_known(1), "y": a_known(2)}, "new": {"z": a_known(1)}}
    before = json.dumps([sorted(old), sorted(found)])
    assert baseline.updated(old, found, ["a", "b", "clean"]) == {
        "a": {"x": a_known(1), "y": a_known(2)},
        "c": {"x": a_known(4)},
        "new": {"z": a_known(1)},
    }
    assert json.dumps([sorted(old), sorted(found)]) == before


def test_what_was_updated_is_gone_no_more():
    old = {"a": {"x": a_known(3)}, "b": {"x": a_known(1)}}
    found, judged = {"a": {"x": a_known(2)}}, ["a", "b"]
    assert baseline.gone(old, found, judged)
    assert baseline.gone(baseline.updated(old, found, judged), found, judged) == []


def test_merge_adds_what_is_new_and_keeps_the_larger_count():
    mine = {"a": {"x": a_known(2, "mine"), "y": a_known(1, "mine")}}
    theirs = {"a": {"x": a_known(1, "theirs"), "y": a_known(3, "theirs")}, "b": {"x": a_known(1)}}
    baseline.merge(mine, theirs)
    assert mine == {
        "a": {"x": a_known(2, "mine"), "y": a_known(3, "theirs")},
        "b": {"x": a_known(1)},
    }
    assert theirs["a"]["x"] == a_known(1, "theirs")
