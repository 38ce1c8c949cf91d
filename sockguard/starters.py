"""Has threads, jobs and anyio's test runner note for whom they work.

Placed in classes of the standard library and of anyio; a library that lacks the place is
left out, and what it starts is told by the next best sign.
"""

from __future__ import annotations

import sys
import threading
import weakref
from _thread import get_ident
from collections.abc import Callable
from typing import Any, Final

from sockguard.hooks import Method, dress, strip
from sockguard.owners import Lineage
from sockguard.placement import Placement

#: Where a job of an executor carries who submitted it.
_MARK: Final = "_sockguard_owner"


class Starters:
    """The hooks of one lineage, until ``remove``."""

    def __init__(self, lineage: Lineage) -> None:
        self._lineage = lineage
        self._placement = Placement()
        self._placement.place(threading.Thread, "start", self._start_hook)
        #: What to do when a module is there.
        self._awaited: dict[str, Callable[[Any], None]] = {
            "concurrent.futures.thread": self._follow_jobs,
            "anyio._backends._asyncio": self._follow_runner,
            "anyio._backends._trio": self._follow_runner,
        }
        self.catch_up()

    def catch_up(self) -> None:
        """Follow what has been imported since: before a test, and before a thread starts.

        An import hook of wrapt's would cost a small run more than all else. What a library
        starts first is told by the next best sign: its thread, or the context it runs in.
        """
        for name in tuple(self._awaited):
            module = sys.modules.get(name)
            if module is not None and not getattr(module.__spec__, "_initializing", False):
                act = self._awaited.pop(name, None)  # another thread may be here too
                if act is not None:
                    act(module)

    def remove(self) -> None:
        """Leave the classes as they were found."""
        self._placement.remove()

    def _start_hook(self, original: Method) -> Any:
        threads, current = self._lineage.threads, self._lineage.current
        catch_up = self.catch_up

        def start(thread: threading.Thread) -> None:
            if thread.ident is None:  # else it runs, or has run: this raises
                threads[id(thread)] = (weakref.ref(thread), current())
                catch_up()
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
        current = self._lineage.current

        def __init__(job: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            original(job, *args, **kwargs)
            setattr(job, _MARK, current())

        return dress(__init__, original)  # type: ignore[arg-type]

    def _run_hook(self, original: Method) -> Any:
        jobs = self._lineage.jobs

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
                # A failed job's traceback keeps this frame, as the caller of `original`.
                del job, before, owner

        return dress(run, original)  # type: ignore[arg-type]

    def _follow_runner(self, module: Any) -> None:
        # anyio runs all tests of a runner in one task, whose context is the one of whoever
        # came first. There is no public place between the task and the test.
        runner = getattr(module, "TestRunner", None)
        if hasattr(runner, "_call_in_runner_task") and not self._placement.removed:
            self._placement.place(runner, "_call_in_runner_task", self._runner_hook)

    def _runner_hook(self, original: Method) -> Any:
        lineage = self._lineage

        # By position only, as anyio has it: the test's own parameters may have these names.
        def _call_in_runner_task(runner: Any, func: Any, /, *args: Any, **kwargs: Any) -> Any:
            owner = lineage.current()

            async def in_task(*args: Any, **kwargs: Any) -> Any:
                lineage.context.set(owner)
                try:
                    return await func(*args, **kwargs)
                except BaseException as error:
                    strip(error)
                    raise

            try:
                return original(runner, in_task, *args, **kwargs)
            except BaseException as error:
                strip(error)
                raise

        return dress(_call_in_runner_task, original)  # type: ignore[arg-type]
