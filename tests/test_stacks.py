"""Stacks taken in flight and put into words later: Python's own traceback is the referee."""

from __future__ import annotations

import _thread
import dis
import functools
import gc
import os
import queue
import sys
import traceback
import weakref
from collections.abc import Callable, Iterator

import pytest

from sockguard import stacks
from sockguard.pytest_underway import capture_program
from sockguard.stacks import MAX_INTERNED, MAX_RESOLVED, Frame, Stack, StackTable, capture, resolve

Looked = tuple[Stack, traceback.StackSummary]


def look(depth: int = 1000) -> Looked:
    # On one line, or the two would see different ones.
    return capture(sys._getframe(), depth), traceback.extract_stack(sys._getframe())


def nested(levels: int, depth: int) -> Looked:
    if levels > 1:
        return nested(levels - 1, depth)
    return look(depth)


def words(stack: Stack) -> list[tuple[str, int | None, str]]:
    return [tuple(frame) for frame in resolve(stack)]


def referee(summary: traceback.StackSummary) -> list[tuple[str, int | None, str]]:
    return [(frame.filename, frame.lineno, frame.name) for frame in reversed(summary)]


@pytest.mark.parametrize("depth", range(1, 41))
def test_a_stack_is_the_one_that_traceback_sees_cut_at_the_depth_rounded_up_to_eight(depth):
    stack, seen = nested(50, depth)

    assert words(stack) == referee(seen)[: (depth + 7) // 8 * 8]


@pytest.mark.parametrize("height", range(1, 20))
def test_a_stack_that_ends_before_the_depth_is_whole(height):
    answers: queue.SimpleQueue[Looked] = queue.SimpleQueue()

    def bottom() -> None:
        answers.put(look() if height == 2 else nested(height - 2, 1000))

    if height == 1:  # nothing below: the function itself is the thread
        _thread.start_new_thread(lambda: answers.put((capture(sys._getframe(), 32), None)), ())
        stack, _ = answers.get(timeout=10)
        assert [frame.function for frame in resolve(stack)] == ["<lambda>"]
    else:
        _thread.start_new_thread(bottom, ())
        stack, seen = answers.get(timeout=10)
        assert words(stack) == referee(seen)
        assert len(words(stack)) == height


def test_no_frame_is_an_empty_stack():
    assert capture(None, 32) == ()
    assert resolve(()) == ()


def test_under_pytest_a_stack_ends_where_the_test_is_called():
    def deep(height: int) -> Stack:
        return deep(height - 1) if height else capture_program(sys._getframe(), 64)

    functions = [frame.function for frame in resolve(deep(30))]
    assert functions == ["deep"] * 31 + ["test_under_pytest_a_stack_ends_where_the_test_is_called"]
    assert capture_program(sys._getframe(), 1)[0] is sys._getframe().f_code
    assert len(capture_program(sys._getframe(), 1)) == 2


def test_a_stack_of_pytest_alone_is_taken_as_it_is():
    frame = sys._getframe().f_back
    assert capture_program(frame, 8) == capture(frame, 8) != ()


# -- every kind of code -----------------------------------------------------------------


def in_a_generator() -> Looked:
    def generate() -> Iterator[Looked]:
        yield from (
            look()
            for _ in range(1)
        )  # fmt: skip

    return next(generate())


def in_a_comprehension() -> Looked:
    (looked,) = [
        look()
        for _ in range(1)
    ]  # fmt: skip
    return looked


def in_a_lambda() -> Looked:
    return (lambda: look())()


def in_a_coroutine() -> Looked:
    async def inner() -> Looked:
        return look()

    async def outer() -> Looked:
        return await inner()

    coroutine = outer()
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    looked: Looked = stopped.value.value
    return looked


def in_code_made_by_exec() -> Looked:
    names: dict[str, object] = {"look": look}
    exec(compile("\n\ndef made():\n    return look()\n\nfound = made()\n", "<made>", "exec"), names)
    return names["found"]  # type: ignore[return-value]


def in_the_body_of_a_class() -> Looked:
    class Body:
        found = look()

    return Body.found


def in_a_callback_of_c_code() -> Looked:
    return functools.reduce(lambda _, __: look(), [1, 2])  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    "of",
    [
        in_a_generator,
        in_a_comprehension,
        in_a_lambda,
        in_a_coroutine,
        in_code_made_by_exec,
        in_the_body_of_a_class,
        in_a_callback_of_c_code,
    ],
)
def test_every_kind_of_code_has_its_lines(of: Callable[[], Looked]):
    stack, seen = of()

    assert words(stack) == referee(seen)


def test_a_file_that_is_none_keeps_its_name():
    files = [frame.file for frame in resolve(in_code_made_by_exec()[0])]

    assert files[1:3] == ["<made>", "<made>"]


def test_a_relative_file_is_from_where_the_program_began(tmp_path, monkeypatch):
    began = os.getcwd()
    monkeypatch.chdir(tmp_path)
    code = compile("pass", "app.py", "exec")

    assert resolve((code, 0))[0].file == os.path.join(began, "app.py")


def test_an_instruction_of_no_line_has_none():
    code = compile("pass", "/srv/app.py", "exec")

    assert resolve((code, 10_000)) == (Frame("/srv/app.py", None, "<module>"),)


def test_each_instruction_has_the_line_that_it_begins_in():
    code = compile("a\nb; b\n\nc\nd", "/srv/app.py", "exec")
    starts = list(dis.findlinestarts(code))

    for offset in range(0, len(code.co_code), 2):
        expected = [line for start, line in starts if start <= offset][-1]
        assert resolve((code, offset))[0].line == expected


def test_resolving_stops_at_the_depth_asked_for():
    assert len(resolve(nested(20, 32)[0], 5)) == 5


# -- what is kept -----------------------------------------------------------------------


def test_a_stack_keeps_no_frame_alive():
    class Local:
        pass

    def holder() -> tuple[Stack, weakref.ref[Local]]:
        local = Local()
        return capture(sys._getframe(), 32), weakref.ref(local)

    gc.disable()  # by reference count alone, at once
    try:
        stack, local = holder()
        gone = local() is None
    finally:
        gc.enable()
    assert gone
    assert resolve(stack)[0].function == "holder"


def test_a_stack_is_code_and_numbers_only():
    stack, _ = nested(20, 32)

    assert {type(value).__name__ for value in stack[::2]} == {"code"}
    assert {type(value) for value in stack[1::2]} == {int}


def a_code(name: str, file: str = "/srv/app.py") -> object:
    return compile("pass", file, "exec").replace(co_name=name)


def test_equal_stacks_are_stored_once():
    table = StackTable()
    code = a_code("f")
    first, second = (code, 2), (code, int("2"))

    assert table.intern(first) is first
    assert table.intern((*second,)) is first
    assert table.intern((code, 4)) != first


def test_equal_code_of_two_files_is_kept_apart():
    table = StackTable()
    one, other = a_code("f", "/srv/a.py"), a_code("f", "/srv/b.py")
    assert one == other  # as Python compares code

    assert table.intern((one, 0)) == table.intern((other, 0))
    kept = [resolve(table.intern((code, 0)))[0].file for code in (one, other)]
    assert kept == ["/srv/a.py", "/srv/b.py"]


def test_a_table_holds_no_more_stacks_than_its_bound_and_never_mixes_them_up():
    table = StackTable()
    code = a_code("f")
    for lasti in range(MAX_INTERNED + 100):
        assert table.intern((code, lasti)) == (code, lasti)
        assert len(table._stacks) <= MAX_INTERNED


def test_a_name_is_never_that_of_dead_code_whose_identity_was_reused():
    identities = set()
    for n in range(MAX_RESOLVED * 2 + 100):
        code = a_code(f"f{n}")
        identities.add(id(code))
        assert resolve((code, 0))[0].function == f"f{n}"
        assert len(stacks._frames) <= MAX_RESOLVED
    assert len(identities) <= MAX_RESOLVED * 2 + 99  # some were reused, or this shows nothing


def test_a_table_never_returns_a_stack_of_dead_code_whose_identity_was_reused():
    table = StackTable()
    for n in range(MAX_INTERNED * 2 + 100):
        assert table.intern((a_code(f"f{n}"), 0))[0].co_name == f"f{n}"
