"""Who a piece of running code works for: threads, jobs, tasks, and what is put in to know it."""

from __future__ import annotations

import _thread
import asyncio
import concurrent.futures.thread as futures
import gc
import importlib
import inspect
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import pytest

from sockguard.owners import Lineage, Owner
from sockguard.starters import Starters

PATIENCE_S = 10.0
A, B = Owner("test a"), Owner("test b")
NOBODY = Owner("nobody")


@contextmanager
def a_lineage() -> Iterator[Lineage]:
    lineage = Lineage(NOBODY)
    starters = Starters(lineage)
    try:
        yield lineage
    finally:
        starters.remove()


@pytest.fixture
def lineage() -> Iterator[Lineage]:
    with a_lineage() as installed:
        yield installed
        installed.begin(NOBODY)


class Asked:
    """Work that waits to be let go, and then says for whom it works."""

    def __init__(self, lineage: Lineage) -> None:
        self._lineage = lineage
        self._go = threading.Event()
        self._done = threading.Event()
        self._owner: Owner | None = None

    def __call__(self) -> Owner:
        assert self._go.wait(PATIENCE_S)
        self._owner = owner = self._lineage.current()
        self._done.set()
        return owner

    def answer(self) -> Owner | None:
        self._go.set()
        assert self._done.wait(PATIENCE_S)
        return self._owner


def path_of(error: BaseException) -> list[tuple[str, str]]:
    return [(frame.filename, frame.name) for frame in traceback.extract_tb(error.__traceback__)]


def test_who_begins_is_who_is_worked_for_until_the_next_begins(lineage):
    assert lineage.current() is NOBODY
    lineage.begin(A)
    assert lineage.current() is A
    lineage.begin(B)
    assert lineage.current() is B


def test_a_fixture_is_worked_for_while_it_is_set_up_also_when_that_fails(lineage):
    lineage.begin(A)
    with suppress(KeyError), lineage.working_for(B):
        assert (lineage.current(), lineage.phase) == (B, B)
        raise KeyError
    assert (lineage.current(), lineage.phase) == (A, A)


# -- threads ---------------------------------------------------------------------------


def test_a_thread_works_for_its_starter_also_when_that_has_ended(lineage):
    lineage.begin(A)
    asked = Asked(lineage)
    thread = threading.Thread(target=asked)
    thread.start()
    lineage.begin(B)
    assert asked.answer() is A
    thread.join()


def test_a_thread_that_was_made_for_one_and_started_for_another_works_for_the_other(lineage):
    lineage.begin(A)
    asked = Asked(lineage)
    thread = threading.Thread(target=asked)
    lineage.begin(B)
    thread.start()
    lineage.begin(A)
    assert asked.answer() is B
    thread.join()


def test_the_threads_of_a_thread_work_for_whom_it_works(lineage):
    lineage.begin(A)
    inner, go = Asked(lineage), threading.Event()

    def outer() -> None:
        assert go.wait(PATIENCE_S)
        thread = threading.Thread(target=inner)
        thread.start()
        thread.join()

    thread = threading.Thread(target=outer)
    thread.start()
    lineage.begin(B)
    go.set()
    assert inner.answer() is A
    thread.join()


def test_a_timer_works_for_who_set_it(lineage):
    lineage.begin(A)
    asked = Asked(lineage)
    timer = threading.Timer(0, asked)
    timer.start()
    lineage.begin(B)
    assert asked.answer() is A
    timer.join()


def test_a_thread_from_before_works_for_whoever_runs_now():
    lineage = Lineage(NOBODY)
    early, late = Asked(lineage), Asked(lineage)
    threads = [threading.Thread(target=asked) for asked in (early, late)]
    for thread in threads:
        thread.start()
    starters = Starters(lineage)
    try:
        lineage.begin(A)
        assert early.answer() is A
        lineage.begin(B)
        assert late.answer() is B
    finally:
        starters.remove()
        for thread in threads:
            thread.join()


def test_a_raw_thread_works_for_whoever_runs_now_and_gets_no_dummy(lineage):
    before = threading.enumerate()
    lineage.begin(A)
    asked = Asked(lineage)
    _thread.start_new_thread(asked, ())
    lineage.begin(B)
    assert asked.answer() is B
    assert threading.enumerate() == before


def test_a_thread_on_the_place_of_a_freed_one_does_not_inherit_its_owner(lineage):
    lineage.begin(A)
    asked = Asked(lineage)
    places, thread = set(), threading.Thread(target=asked)
    while id(thread) not in places:
        assert len(places) < 1000, "no place is used twice"
        freed = threading.Thread(target=int)
        places.add(id(freed))
        freed.start()
        freed.join()
        del freed
        thread = threading.Thread(target=asked)
    type(thread).start.__wrapped__(thread)  # as one that was started before the hook came
    lineage.begin(B)
    assert asked.answer() is B
    thread.join()


def test_a_second_start_by_another_changes_nothing(lineage):
    lineage.begin(A)
    asked = Asked(lineage)
    thread = threading.Thread(target=asked)
    thread.start()
    lineage.begin(B)
    with pytest.raises(RuntimeError, match="threads can only be started once"):
        thread.start()
    assert asked.answer() is A
    thread.join()


def test_no_thread_is_kept_alive(lineage):
    lineage.begin(A)
    thread = threading.Thread(target=int)
    known = weakref.ref(thread)
    thread.start()
    thread.join()
    del thread
    assert known() is None


def test_ended_threads_are_let_go_of_and_others_are_not(lineage):
    lineage.begin(A)
    asked = Asked(lineage)
    running, ended = threading.Thread(target=asked), threading.Thread(target=int)
    running.start()
    ended.start()
    ended.join()
    starting = threading.Thread(target=int)  # as in the midst of its start
    lineage.threads[id(starting)] = (weakref.ref(starting), A)
    lineage.forget_ended_threads()
    assert list(lineage.threads) == [id(running), id(starting)]
    lineage.begin(B)
    assert asked.answer() is A
    running.join()


def test_threads_may_start_while_the_ended_ones_are_let_go_of(lineage):
    started = []

    class Meddling(threading.Thread):
        """Being asked for its state takes long enough for other threads to start some."""

        @property
        def ident(self) -> int | None:
            started.append(threading.Thread(target=int))
            started[-1].start()
            return super().ident

    threads = [Meddling(target=int) for _ in range(3)]
    for thread in threads:
        thread.start()
    lineage.forget_ended_threads()
    for thread in [*threads, *started]:
        thread.join()


# -- jobs ------------------------------------------------------------------------------


def test_a_job_works_for_its_submitter_in_an_executor_of_any_age():
    with ThreadPoolExecutor(1) as older:
        older.submit(int).result()
        with a_lineage() as lineage, ThreadPoolExecutor(1) as younger:
            lineage.begin(B)
            younger.submit(int).result()  # so its thread was started for b
            lineage.begin(A)
            asked = [Asked(lineage), Asked(lineage)]
            jobs = [older.submit(asked[0]), younger.submit(asked[1])]
            lineage.begin(B)
            assert [one.answer() for one in asked] == [A, A]
            assert [job.result() for job in jobs] == [A, A]
            assert not lineage.jobs


def test_a_job_that_waited_in_line_works_for_its_submitter(lineage):
    with ThreadPoolExecutor(1) as executor:
        lineage.begin(A)
        first = Asked(lineage)
        executor.submit(first)
        lineage.begin(B)
        second = executor.submit(lineage.current)
        lineage.begin(NOBODY)
        assert first.answer() is A
        assert second.result() is B


def test_the_jobs_and_threads_of_a_job_work_for_whom_it_works(lineage):
    with ThreadPoolExecutor(1) as outer, ThreadPoolExecutor(1) as inner:
        for executor in (outer, inner):
            executor.submit(int).result()
        go = threading.Event()

        def nested() -> list[Owner | None]:
            assert go.wait(PATIENCE_S)
            asked = Asked(lineage)
            thread = threading.Thread(target=asked)
            thread.start()
            answers = [inner.submit(lineage.current).result(), asked.answer(), lineage.current()]
            thread.join()
            return answers

        lineage.begin(A)
        job = outer.submit(nested)
        lineage.begin(B)
        go.set()
        assert job.result() == [A, A, A]


def test_a_job_that_runs_another_one_itself_goes_on_working_for_its_own_submitter(lineage):
    lineage.begin(B)
    other = futures._WorkItem(futures._base.Future(), *_task(lineage.current))
    with ThreadPoolExecutor(1) as executor:

        def outer() -> tuple[Owner, Owner]:
            other.run()
            return other.future.result(), lineage.current()

        lineage.begin(A)
        assert executor.submit(outer).result() == (B, A)


def _task(function: Callable[[], object]) -> tuple[Any, ...]:
    # From 3.14 on a job is given one task, before that its parts.
    if "task" in inspect.signature(futures._WorkItem).parameters:
        return ((function, (), {}),)
    return function, (), {}


def test_a_job_from_before_works_for_whoever_runs_now():
    lineage = Lineage(NOBODY)
    with ThreadPoolExecutor(1) as executor:
        blocker, asked = Asked(lineage), Asked(lineage)
        executor.submit(blocker)
        job = executor.submit(asked)
        starters = Starters(lineage)
        try:
            blocker.answer()
            lineage.begin(B)
            assert asked.answer() is B
            assert job.result() is B
        finally:
            starters.remove()


# -- tasks -----------------------------------------------------------------------------


def test_a_task_works_for_who_made_it_on_a_loop_that_others_use_too(lineage):
    loop = asyncio.new_event_loop()
    try:
        go = asyncio.Event()

        async def asked() -> Owner:
            await go.wait()
            return lineage.current()

        async def made() -> asyncio.Task[Owner]:
            return asyncio.create_task(asked())

        async def in_the_end(early: asyncio.Task[Owner]) -> list[Owner]:
            late = asyncio.create_task(asked())
            go.set()
            return [await early, await late, await asyncio.create_task(asked())]

        lineage.begin(A)
        early = loop.run_until_complete(made())
        lineage.begin(B)
        assert loop.run_until_complete(in_the_end(early)) == [A, B, B]
    finally:
        loop.close()


def test_what_a_task_has_done_in_threads_works_for_whom_it_works(lineage):
    with ThreadPoolExecutor(1) as older:
        older.submit(int).result()

        async def three_ways() -> list[Owner]:
            loop = asyncio.get_running_loop()
            return [
                await asyncio.to_thread(lineage.current),
                await loop.run_in_executor(None, lineage.current),
                await loop.run_in_executor(older, lineage.current),
            ]

        lineage.begin(A)
        job = three_ways()
        assert asyncio.run(job) == [A, A, A]


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Any:
    return importlib.import_module(f"anyio._backends._{request.param}")


def test_each_test_of_a_shared_anyio_runner_is_worked_for(backend, lineage):
    import anyio

    seen: dict[str, list[Owner]] = {"a": [], "b": [], "fixture": []}

    async def ask(of: str) -> None:
        await anyio.lowlevel.checkpoint()
        seen[of].append(lineage.current())

    async def test(of: str) -> None:
        await ask(of)
        async with anyio.create_task_group() as group:
            group.start_soon(ask, of)
            await anyio.lowlevel.checkpoint()
        seen[of].append(await anyio.to_thread.run_sync(lineage.current))

    async def fixture() -> Any:
        await ask("fixture")
        yield 1
        await ask("fixture")

    with backend.TestRunner() as runner:
        values = iter(runner.run_asyncgen_fixture(fixture, {}))
        assert next(values) == 1
        lineage.begin(A)
        runner.run_test(test, {"of": "a"})
        lineage.begin(B)
        runner.run_test(test, {"of": "b"})
        lineage.begin(NOBODY)
        assert list(values) == []
    assert seen == {"a": [A] * 3, "b": [B] * 3, "fixture": [NOBODY] * 2}


# -- what is put in, and taken out -----------------------------------------------------


def start_twice() -> None:
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
    thread.start()


def fail() -> None:
    raise KeyError("ours")


def fail_in_a_job() -> None:
    with ThreadPoolExecutor(1) as executor:
        job = executor.submit(fail)
    job.result()


def fail_in_a_runner(name: str) -> None:
    async def failing() -> None:
        fail()

    with importlib.import_module(f"anyio._backends._{name}").TestRunner() as runner:
        runner.run_test(failing, {})


@pytest.mark.parametrize(
    "action",
    [
        start_twice,
        fail_in_a_job,
        lambda: fail_in_a_runner("asyncio"),
        lambda: fail_in_a_runner("trio"),
    ],
    ids=["thread", "job", "asyncio", "trio"],
)
def test_an_exception_has_the_traceback_that_it_has_without_us(action):
    paths = []
    for put_in in (False, True):
        with (
            a_lineage() if put_in else nullcontext(),
            pytest.raises((KeyError, RuntimeError)) as raised,
        ):
            action()
        paths.append(path_of(raised.value))
    assert paths[0] == paths[1]
    assert paths[0]


@pytest.mark.parametrize("put_in", [False, True], ids=["without us", "with us"])
def test_a_failed_job_is_freed_without_the_cycle_collector(put_in):
    gc.disable()
    try:
        with a_lineage() if put_in else nullcontext(), ThreadPoolExecutor(1) as executor:
            job = executor.submit(fail)
            executor.submit(int).result()  # by then the worker has let go of the first
            known = weakref.ref(job)
            del job
            assert known() is None
    finally:
        gc.enable()


def the_backends() -> list[Any]:
    return [importlib.import_module(f"anyio._backends._{name}") for name in ("asyncio", "trio")]


def all_places() -> list[type]:
    return [threading.Thread, futures._WorkItem, *(each.TestRunner for each in the_backends())]


def test_removing_leaves_each_class_as_found():
    before = [list(vars(place).items()) for place in all_places()]
    with a_lineage():
        changed = [list(vars(place).items()) for place in all_places()]
        assert all(mine != theirs for mine, theirs in zip(before, changed, strict=True))
    assert [list(vars(place).items()) for place in all_places()] == before


def test_a_module_imported_after_the_end_is_left_alone():
    starters = Starters(Lineage(NOBODY))
    starters.remove()
    before = [list(vars(place).items()) for place in all_places()]
    starters._follow_jobs(futures)
    for backend in the_backends():
        starters._follow_runner(backend)
    assert [list(vars(place).items()) for place in all_places()] == before


def test_what_the_program_can_see_of_a_method_stays_the_same():
    def seen() -> list[object]:
        return [
            (
                what.__name__,
                what.__qualname__,
                what.__module__,
                what.__doc__,
                inspect.signature(what),
            )
            for place in all_places()
            for name in ("start", "__init__", "run", "_call_in_runner_task")
            if (what := vars(place).get(name)) is not None
        ]

    before = seen()
    with a_lineage():
        assert seen() == before


def test_a_library_without_the_places_is_left_out():
    starters = Starters(Lineage(NOBODY))
    try:
        module = type("Module", (), {"TestRunner": type("TestRunner", (), {})})
        starters._follow_runner(module)
        starters._follow_jobs(module)
        assert not hasattr(module.TestRunner, "_call_in_runner_task")
    finally:
        starters.remove()
