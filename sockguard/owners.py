"""Who a socket is made for: the test, or the fixture, that started what makes it.

Told by the context of the running code (tasks and nurseries inherit it), by the job of an
executor, by who started the thread, and at last by what runs now.
"""

from __future__ import annotations

import threading
import weakref
from _thread import get_ident
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from sockguard.hooks import Method, dress, strip
from sockguard.patch import Placement

#: Where a job of an executor carries who submitted it.
_MARK: Final = "_sockguard_owner"


class Owner:
    """A test or a fixture, for as long as it runs.

    ``name`` is for people, ``key`` for files: the same in every run. ``scope`` is how wide:
    0 for a test, more for a class, a module, a package, the session.
    """

    __slots__ = ("ended", "key", "name", "root", "scope", "spared")

    def __init__(self, name: str, *, key: str | None = None, scope: int = 0) -> None:
        self.name = name
        self.key = key or name
        self.scope = scope
        self.ended = False
        #: Its sockets are nobody's business (``enabled=False``).
        self.spared = False
        #: Returns what the owner keeps, for a search.
        self.root: Callable[[], object] | None = None


class Lineage:
    """Says for whom the running code works. ``current`` may be asked in any thread.

    Costs a look into a context variable; where that is unset, two dictionaries. While it is
    installed ``Thread.start`` and the jobs of ``ThreadPoolExecutor`` note their starter.
    """

    def __init__(self, nobody: Owner) -> None:
        self.phase = nobody
        self._context: ContextVar[Owner | None] = ContextVar("sockguard_owner", default=None)
        self._threads: dict[int, tuple[weakref.ref[threading.Thread], Owner]] = {}
        self._jobs: dict[int, Owner] = {}
        self._placement = Placement()

    def current(self) -> Owner:
        owner = self._context.get()
        if owner is None:
            ident = get_ident()
            owner = self._jobs.get(ident)
            if owner is None:
                thread = threading._active.get(ident)  # type: ignore[attr-defined]  # noqa: SLF001
                known = self._threads.get(id(thread))
                owner = self.phase if known is None or known[0]() is not thread else known[1]
        return owner

    def begin(self, owner: Owner) -> None:
        """From here on, until the next call, this context works for ``owner``."""
        self.phase = owner
        self._context.set(owner)

    @contextmanager
    def working_for(self, owner: Owner) -> Iterator[None]:
        before = self.phase
        self.phase = owner
        token = self._context.set(owner)
        try:
            yield
        finally:
            self.phase = before
            self._context.reset(token)

    def forget_ended_threads(self) -> None:
        gone = [key for key, (thread, _) in self._threads.items() if _is_gone(thread())]
        for key in gone:
            self._threads.pop(key, None)

    # -- what is placed ----------------------------------------------------------------

    def install(self) -> None:
        """Have threads and jobs note who started them. A library that lacks a place is left out."""
        import wrapt

        self._placement.place(threading.Thread, "start", self._start_hook)
        wrapt.when_imported("concurrent.futures.thread")(self._follow_jobs)
        for backend in ("asyncio", "trio"):
            wrapt.when_imported(f"anyio._backends._{backend}")(self._follow_runner)

    def uninstall(self) -> None:
        self._placement.remove()
        self._threads.clear()
        self._jobs.clear()

    def _start_hook(self, original: Method) -> Any:
        def start(thread: threading.Thread) -> None:
            self._threads[id(thread)] = (weakref.ref(thread), self.current())
            try:
                original(thread)
            except BaseException as error:
                strip(error)
                raise

        return dress(start, original)  # type: ignore[arg-type]

    def _follow_jobs(self, module: Any) -> None:
        job = getattr(module, "_WorkItem", None)
        if job is not None and not self._placement.removed:
            self._placement.place(job, "__init__", self._job_hook)
            self._placement.place(job, "run", self._run_hook)

    def _job_hook(self, original: Method) -> Any:
        def __init__(job: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            original(job, *args, **kwargs)
            setattr(job, _MARK, self.current())

        return dress(__init__, original)  # type: ignore[arg-type]

    def _run_hook(self, original: Method) -> Any:
        jobs = self._jobs

        def run(job: Any, *args: Any, **kwargs: Any) -> None:
            # An exception of the job ends in the original, and has no frame of ours.
            ident = get_ident()
            before, owner = jobs.get(ident), getattr(job, _MARK, None)
            if owner is not None:
                jobs[ident] = owner
            try:
                original(job, *args, **kwargs)
            finally:
                if before is not None:
                    jobs[ident] = before
                else:
                    jobs.pop(ident, None)

        return dress(run, original)  # type: ignore[arg-type]

    def _follow_runner(self, module: Any) -> None:
        # anyio runs all tests of a runner in one task, whose context is the one of whoever
        # came first. There is no public place between the task and the test.
        runner = getattr(module, "TestRunner", None)
        if hasattr(runner, "_call_in_runner_task") and not self._placement.removed:
            self._placement.place(runner, "_call_in_runner_task", self._runner_hook)

    def _runner_hook(self, original: Method) -> Any:
        context = self._context

        def _call_in_runner_task(runner: Any, func: Any, *args: Any, **kwargs: Any) -> Any:
            owner = self.current()

            async def in_task(*args: Any, **kwargs: Any) -> Any:
                context.set(owner)
                try:
                    return await func(*args, **kwargs)
                except BaseException as error:
                    strip(error)
                    raise

            return original(runner, in_task, *args, **kwargs)

        return dress(_call_in_runner_task, original)  # type: ignore[arg-type]


def _is_gone(thread: threading.Thread | None) -> bool:
    return thread is None or (thread.ident is not None and not thread.is_alive())
