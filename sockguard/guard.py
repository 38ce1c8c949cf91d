"""The root: wires the parts together, once, and takes them apart again.

Some lines over 400: the public calls, with what they take and raise, are a quarter of it.

guard = sockguard.install(threshold=60.0)
…
sockguard.uninstall()
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from sockguard import afterfork, stderr
from sockguard.config import NS_PER_S, Config, load, working_folder
from sockguard.heartbeat import EXIT_PATIENCE_S, FORK_PATIENCE_S, Heartbeat
from sockguard.hooks import Capture
from sockguard.native import original
from sockguard.patch import Patch
from sockguard.placement import Placement, WraptPlacement
from sockguard.records import SocketRecord
from sockguard.registry import Registry
from sockguard.stacks import capture
from sockguard.stderr import complain

if TYPE_CHECKING:
    from sockguard.engine import Engine
    from sockguard.findings import Finding

# The watcher waits so long for a socket that is about to become a leak.
SOON_NS: Final = 25_000_000


class Guard:
    """A process under guard. Made by ``install`` and ``watch``."""

    def __init__(
        self,
        config: Config,
        *,
        watches: bool,
        finalizes: bool = False,
        placement: Placement | None = None,
        take: Capture = capture,
    ) -> None:
        """``watches``: with a watcher thread and exporters; else only ``check`` looks.

        ``finalizes``: level `full` also tells of sockets that are freed unclosed.
        ``placement`` puts the hooks in: by wrapt, if left out. ``take`` takes creation stacks.
        """
        self.config = config
        self._watches = watches
        #: Else what is needed to look is made at the first look.
        self._looks_soon = watches or finalizes
        self._registry = Registry()
        self._heartbeat = Heartbeat(self._tick, config.interval)
        self._patch = Patch(
            self._registry,
            depth=config.depth,
            full=config.level == "full",
            # A finalizer in Python loses the exception of a signal handler that strikes as it
            # is entered, and the descriptor. Where a thread watches, the leak is found
            # before it is freed: only for `watch` is it worth that.
            finalizes=finalizes,
            on_failure=lambda error: complain(f"tracking failed and is switched off: {error!r}"),
            placement=placement or WraptPlacement(),
            take=take,
        )
        self._engine: Engine | None = None
        self._building: Any = original("_thread", "RLock")()
        self._ended = False
        self._providers: Any = None
        self._multiprocessing = False
        #: One item while no thread runs, and the next socket or collection is to start it
        #: (after a fork). A list, because `pop` is atomic: only one gets to.
        self._asleep: list[bool] = []

    def check(self, threshold: float | None = None) -> list[Finding]:
        """Look now, in this thread, at every socket, also those younger than a tick.

        Returns what is open ``threshold`` seconds (default: the guard's) after its peer
        went, and once each what was freed unclosed so long after. Publishes nothing.
        About 2 µs a tracked socket, and a search for the holders of each group (``--explain``);
        any thread. Raises ``ConfigError`` for a threshold that
        can't be used, and ``RuntimeError`` once the guard has been taken out.
        """
        seconds = self.config.threshold
        if threshold is not None:
            seconds = load({"threshold": threshold}).threshold
        return self._the_engine().watcher.check(int(seconds * NS_PER_S))

    def examine(self, records: Iterable[SocketRecord], *, explained: bool = False) -> list[Finding]:
        """Look now at just these; return what is open although its peer has gone. Any thread.

        ``explained``: with who holds it. What is idle in a bounded pool is among them.
        """
        return self._the_engine().watcher.examine(records, explained=explained)

    def records(self) -> list[SocketRecord]:
        """Return the records of all open sockets, also of those that a later object hides."""
        return [record for record, _ in self._registry.live()]

    def tell_providers(self, *, logger_provider: Any = None, meter_provider: Any = None) -> None:
        """Have OpenTelemetry events and metrics go there, not to the global providers.

        ``None`` is the global one. Any thread, any time.
        """
        from sockguard.exporters.otel import OtelExporter, Providers

        self._providers = Providers(logger_provider, meter_provider)
        with self._building:
            for exporter in [] if self._engine is None else self._engine.exporters:
                if isinstance(exporter, OtelExporter):
                    exporter.providers = self._providers

    # -- life --------------------------------------------------------------------------

    def start(self) -> None:
        """Put everything in place; on failure leave nothing behind, and raise."""
        with ExitStack() as undo:
            if self._looks_soon:
                undo.callback(self._close_engine)
                self._the_engine()
            undo.callback(self._patch.remove)
            self._patch.place()
            if self._watches:
                undo.callback(self._heartbeat.stop, EXIT_PATIENCE_S)
                self._heartbeat.start()
                atexit.register(self.finish)
            undo.pop_all()

    def stop(self) -> None:
        """Take everything out: no hook, thread or descriptor of ours remains."""
        atexit.unregister(self.finish)
        self._patch.remove()
        self.finish()
        self._ended = True
        self._close_engine()

    def finish(self) -> None:
        """Have a last look, publish the summary. At exit, and in ``stop``; once a process."""
        if not self._watches:
            return
        self._watches = False
        self._asleep.clear()
        self._heartbeat.disarm()
        self._heartbeat.stop(EXIT_PATIENCE_S)
        if self._engine is None and self._registry.newest is None:
            return  # a fork that opened no socket: it has no record to close
        try:
            with _no_collection():
                engine = self._the_engine(publishes=True)
                engine.tick()
                summary = engine.watcher.summarize()
            engine.each(lambda exporter: exporter.summarize(summary))
        except Exception as error:
            complain(f"the summary failed: {error!r}")

    def _the_engine(self, *, publishes: bool | None = None) -> Engine:
        with self._building:
            if self._ended:
                raise RuntimeError("this guard has been taken out; install or watch again")
            # after a fork, the watcher and a check may both be first
            if self._engine is None:
                # Here, for they take 14 ms, and under pytest they are mostly not needed.
                from sockguard.engine import Engine
                from sockguard.exporters import exporters_of

                publishes = self._watches if publishes is None else publishes
                exporters = exporters_of(self.config, self._providers) if publishes else []
                self._engine = Engine(
                    self.config,
                    self._registry,
                    exporters,
                    lambda: self._heartbeat.is_leaving(),  # a fork makes another
                    answers=publishes,
                )
            return self._engine

    def _close_engine(self) -> None:
        with self._building:
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def _tick(self) -> None:
        engine = self._the_engine()
        engine.tick()
        due_ns = engine.watcher.due_in_ns()
        if due_ns is not None and due_ns < SOON_NS:
            # Too late at the next tick by its own work: a finding comes within one interval.
            original("time", "sleep")(due_ns / NS_PER_S)
            engine.tick()

    def _sleep(self) -> None:
        """Have the next socket wake the watcher, whose thread does not run now."""
        self._asleep[:] = [True]
        if self._wake not in self._registry.told:
            self._registry.told.append(self._wake)

    def _wake(self, _: SocketRecord | None = None) -> None:
        """Start the watcher where a fork has put it to sleep. Any thread, any moment."""
        try:
            self._asleep.pop()
        except IndexError:  # another thread was first
            return
        with suppress(ValueError):
            self._registry.told.remove(self._wake)
        try:
            self._heartbeat.start()
        except Exception as error:  # the interpreter ends, or has no thread to spare
            complain(f"the watcher could not start again after a fork: {error}")

    def _wake_behind_fork(self) -> None:
        self._heartbeat.disarm()  # no collection is under way just here
        self._wake()

    # -- fork --------------------------------------------------------------------------

    def before_fork(self) -> None:
        if self._heartbeat.is_beating:
            self._heartbeat.stop(FORK_PATIENCE_S)
            self._sleep()
            afterfork.call_when_back(self._wake_behind_fork)
        util = sys.modules.get("multiprocessing.util")
        if util is not None and not self._multiprocessing:
            # Its children end by os._exit, past atexit; this comes after it has cleared
            # the finalizers that the child inherited.
            self._multiprocessing = True
            util.register_after_fork(self, Guard._in_multiprocessing_child)

    def after_fork_in_parent(self) -> None:
        if not self._asleep:
            return
        if afterfork.may_start_at_once():
            self._wake()
        else:
            self._heartbeat.arm(self._wake)

    def after_fork_in_child(self) -> None:
        """Begin anew: inherited sockets are the parent's to report, its thread is not here."""
        afterfork.forget()
        self._building = original("_thread", "RLock")()
        self._registry.begin_child()
        self._heartbeat.disarm()
        self._heartbeat = Heartbeat(self._tick, self.config.interval)
        self._close_engine()
        if self._watches:
            self._sleep()
            self._heartbeat.arm(self._wake)

    def _in_multiprocessing_child(self) -> None:
        util: Any = sys.modules["multiprocessing.util"]
        util.Finalize(None, self.finish, exitpriority=-1000)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Have the collector wait: by our allocations it would free leaks before they are told."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


# -- one guard a process ---------------------------------------------------------------

_installed: Guard | None = None
_at_fork = False


def installed() -> Guard | None:
    """Return the guard of this process, if there is one."""
    return _installed


def _set_up(guard: Guard) -> None:
    global _installed, _at_fork
    stderr.remember()
    guard.start()
    _installed = guard
    if not _at_fork and hasattr(os, "register_at_fork"):
        # For good: CPython can't unregister. Without a guard they do nothing.
        _at_fork = True
        os.register_at_fork(
            before=lambda: _at_border(Guard.before_fork),
            after_in_parent=lambda: _at_border(Guard.after_fork_in_parent),
            after_in_child=lambda: _at_border(Guard.after_fork_in_child),
        )


def _at_border(act: Callable[[Guard], None]) -> None:
    if _installed is not None:
        try:
            act(_installed)
        except Exception as error:
            complain(f"handling a fork failed: {error!r}")


def install_config(config: Config) -> Guard:
    """Install with a configuration that is loaded and checked already."""
    if _installed is None:
        guard = Guard(config, watches=True)
        _set_up(guard)
        return guard
    return _installed


def install(
    *,
    threshold: float | None = None,
    level: str | None = None,
    output: str | os.PathLike[str] | None = None,
    output_limit: int | str | None = None,
    ignore: Sequence[str] | None = None,
    quiet: bool | None = None,
    depth: int | None = None,
    interval: float | None = None,
    explain: float | None = None,
    observer: str | None = None,
    otel: str | None = None,
    otel_omit_addresses: bool | None = None,
) -> Guard:
    """Put this process under guard; a second call keeps the first, and warns if it differs.

    The options are those of the command line (docs/reference.md); one left out comes from
    the environment, ``[tool.sockguard]`` in ./pyproject.toml, or its default. Raises
    ``ConfigError`` (a ``ValueError``) for a value that can't be used. Costs the import of
    wrapt, 60 to 100 ms, and starts one native thread.
    """
    given = {name: value for name, value in locals().items() if value is not None}
    config = load(given, environ=os.environ, folder=working_folder())
    if _installed is not None:
        differs = [name for name in given if getattr(config, name) != _get(name)]
        if differs:
            warnings.warn(
                f"sockguard is installed already, with another {', '.join(differs)}; "
                "the first call's is kept",
                RuntimeWarning,
                stacklevel=2,
            )
        return _installed
    return install_config(config)


def _get(name: str) -> object:
    return getattr(_installed.config, name) if _installed is not None else None


def uninstall() -> None:
    """Take the guard out of this process, if there is one; the summary is published."""
    global _installed
    guard, _installed = _installed, None
    if guard is not None:
        guard.stop()


class BorrowedGuard:
    """An installed guard, seen with another threshold."""

    def __init__(self, guard: Guard, threshold: float) -> None:
        self.config = guard.config
        self._guard = guard
        self._threshold = threshold

    def check(self, threshold: float | None = None) -> list[Finding]:
        """As ``Guard.check``."""
        return self._guard.check(self._threshold if threshold is None else threshold)


@contextmanager
def watch(
    *, threshold: float = 0.0, level: str = "full", explain: float = 0.3
) -> Iterator[Guard | BorrowedGuard]:
    """Guard a block of code: nothing is printed and no thread runs, ``check`` tells.

    Inside an installed guard it borrows that one, with its own ``threshold`` and the
    installed level, and leaves it installed.
    """
    config = load({"threshold": threshold, "level": level, "explain": explain})
    if _installed is not None:
        yield BorrowedGuard(_installed, config.threshold)
        return
    guard = Guard(config, watches=False, finalizes=True)
    _set_up(guard)
    try:
        yield guard
    finally:
        if _installed is guard:
            uninstall()


def borrow(
    config: Config,
    on_new: Callable[[SocketRecord], object],
    take: Capture,
) -> tuple[Guard, Callable[[], None]]:
    """Return the installed guard, or one that only looks when asked; and how to give it back.

    For who runs the program in this process: ``on_new`` is called with each new socket's
    record, in its thread, at any instruction. It takes no lock and raises nothing.
    ``take`` takes the creation stacks, where the guard is a new one.
    """
    lent = _installed
    guard = lent
    if guard is None:
        guard = Guard(config, watches=False, placement=Placement(), take=take)
        _set_up(guard)
    told = guard._registry.told  # noqa: SLF001
    told.append(on_new)

    def give_back() -> None:
        with suppress(ValueError):
            told.remove(on_new)
        if lent is None and _installed is guard:
            uninstall()

    return guard, give_back
