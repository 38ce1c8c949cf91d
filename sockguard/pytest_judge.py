"""Which sockets a test has leaked: found, given to whom they belong, waited for, counted."""

from __future__ import annotations

import gc
import sys
import time
import traceback
import warnings
from _thread import allocate_lock
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import pytest

from sockguard import peers, tripwire
from sockguard.baseline import Known
from sockguard.exporters import wording
from sockguard.findings import LEAK, Event, Finding
from sockguard.hooks import Method, dress, strip
from sockguard.ledger import Entry
from sockguard.narrate import is_ignored
from sockguard.native import socket_class
from sockguard.owners import Owner
from sockguard.placement import Placement
from sockguard.pytest_options import Settings
from sockguard.pytest_report import Reporter, SocketLeak
from sockguard.pytest_sockets import Sockets
from sockguard.reach import reached
from sockguard.sites import culprit, module_name

# Nobody tells of a descriptor that is closed by its number alone: so often we look again.
_LOOK_AGAIN_S: Final = 0.02

Found = list[tuple[Entry, Finding]]


class Judge:
    """Looks at the sockets that are left open. One thread at a time."""

    def __init__(self, sockets: Sockets, reporter: Reporter, *, update: bool) -> None:
        self._reporter = reporter
        self._update = update
        self._ledger = sockets.ledger
        self._guard = sockets.guard
        self._guard.examine(())  # all that is needed to look is loaded now, or never
        #: What objects complained of when our collection freed them.
        self._stirred: list[tuple[str, bool]] = []
        #: Such of others, where it is an error: for the end of the run.
        self._others: list[str] = []

    # -- finding -----------------------------------------------------------------------

    def leaking(
        self, owners: Iterable[Owner] | None, live: Sequence[Owner], settle: float
    ) -> Found:
        """Return what stays open of the sockets of ``owners`` (``None``: of everybody).

        What one of ``live``, the widest first, keeps is given to it. The rest has
        ``settle`` seconds to be closed, after a collection.
        """
        found = self.leaking_now(owners, live)
        if found:
            _collect(self._stirred, self._descriptors(owners))
            found = self._settle([entry for entry, _ in found], settle)
            found = self._examine([entry for entry, _ in found], explained=True)
        return found

    def leaking_now(self, owners: Iterable[Owner] | None, live: Sequence[Owner]) -> Found:
        """Return what is open at this moment although its peer has gone."""
        wanted = None if owners is None else set(map(id, owners))
        entries = self._ledger.open()
        mine = [entry for entry in entries if wanted is None or id(entry.owner) in wanted]
        return self._give_away(self._examine(mine), live)

    def _descriptors(self, owners: Iterable[Owner] | None) -> set[int]:
        wanted = set(map(id, owners or ()))
        return {entry.record.fd for entry in self._ledger.open() if id(entry.owner) in wanted}

    @staticmethod
    def not_ignored(found: Found, settings: Settings) -> list[Finding]:
        return [finding for _, finding in found if not is_ignored(finding, settings.ignore)]

    def _examine(self, entries: Iterable[Entry], *, explained: bool = False) -> Found:
        by_serial = {entry.record.serial: entry for entry in entries if not entry.owner.spared}
        if not by_serial:
            return []
        for entry in by_serial.values():
            stack = entry.record.stack
            if stack and stack[0].co_filename == tripwire.__file__:  # the very first socket
                entry.record.stack = stack[2:]
        records = [entry.record for entry in by_serial.values()]
        findings = self._guard.examine(records, explained=explained)
        return [(by_serial[finding.serial], finding) for finding in findings]

    @staticmethod
    def _give_away(found: Found, live: Sequence[Owner]) -> Found:
        for owner in live if found else ():
            held = [(sock, entry) for entry, _ in found if (sock := entry.record()) is not None]
            root = owner.root() if owner.root is not None else None
            kept = reached(root, [sock for sock, _ in held])
            for sock, entry in held:
                if id(sock) in kept:
                    entry.owner = owner
            found = [pair for pair in found if pair[0].owner is not owner]
        return found

    def _settle(self, entries: list[Entry], seconds: float) -> Found:
        """Wait until ``entries`` are closed, at most ``seconds``; return those that are not."""
        deadline = time.monotonic() + seconds
        with _closing() as wait_for_a_close:
            while found := self._examine(entries):
                left = deadline - time.monotonic()
                if left <= 0:
                    return found
                wait_for_a_close(min(left, _LOOK_AGAIN_S))
        return []

    # -- judging -----------------------------------------------------------------------

    def verdict(
        self, found: Found, test: Owner, settings: Settings, expected: int | None
    ) -> SocketLeak | None:
        """Count what was found, once; return what fails ``test``, if anything does."""
        self._ledger.forget([entry for entry, _ in found])
        groups: dict[tuple[Owner, str], list[Finding]] = defaultdict(list)
        for entry, finding in found:
            if not is_ignored(finding, settings.ignore):
                groups[entry.owner, finding.fingerprint].append(finding)
        blocks: list[str] = []
        sites: list[str] = []
        for (owner, fingerprint), findings in groups.items():
            known = self._count(owner, fingerprint, findings)
            if not self._update and len(findings) > known:
                blocks.append(_report(owner, findings, known, test))
                sites.append(site(findings))
        if expected is not None:
            of_test = sum(len(group) for (owner, _), group in groups.items() if owner is test)
            if of_test == expected and all(owner is test for owner, _ in groups):
                return None
            if of_test != expected:
                sentence = f"{wording.plural(of_test, 'socket')} leaked, {expected} expected"
                blocks.insert(0, sentence)
                sites.insert(0, sentence)
        elif sum(map(len, groups.values())) <= settings.allow:
            return None
        return SocketLeak("\n\n".join(blocks), sites) if blocks else None

    def _count(self, owner: Owner, fingerprint: str, findings: list[Finding]) -> int:
        """Note the leaks for the baseline; return how many of them it knows."""
        frame = culprit(findings[0].created.stack)
        # Without the line: the file is not to change with every edit above it.
        where = "unknown" if frame is None else f"{frame.function}, {module_name(frame.file)}"
        self._reporter.count(owner.key, fingerprint, Known(count=len(findings), site=where))
        known = self._reporter.known.get(owner.key, {}).get(fingerprint)
        return 0 if known is None else known.count

    def late(self, live: Sequence[Owner], settle: float) -> list[str]:
        """Return a line for each socket that nobody has been blamed for; it is told now."""
        found = self.leaking(None, live, settle)
        self._ledger.forget([entry for entry, _ in found])
        return [f"{entry.owner.name}: {site([finding])}" for entry, finding in found]

    def close_peers(self, test: Owner) -> int:
        mine = [entry.record for entry in self._ledger.open() if entry.owner is test]
        pairs = peers.far_sides(mine, self._guard.records())
        for _, far in pairs:
            peers.close(far)
        return len(pairs)

    def complaint(self) -> pytest.PytestWarning | None:
        """Give out what our collection stirred up, as pytest does.

        Return it if it is an error and this test's. An error of anybody else's garbage fails no
        test: it waits for ``end``, where pytest itself collects and tells.
        """
        failure = None
        while self._stirred:
            text, is_own = self._stirred.pop(0)
            try:
                warnings.warn(pytest.PytestUnraisableExceptionWarning(text), stacklevel=2)
            except pytest.PytestWarning as error:
                if is_own:
                    failure = failure or error
                else:
                    self._others.append(text)
        return failure

    def end(self) -> None:
        """Tell what was nobody's, as pytest does when it ends: an error is raised."""
        texts = [*self._others, *(text for text, _ in self._stirred)]
        self._others.clear()
        self._stirred.clear()
        for text in texts:
            warnings.warn(pytest.PytestUnraisableExceptionWarning(text), stacklevel=2)


def site(findings: list[Finding]) -> str:
    frame = culprit(findings[0].created.stack)
    where = "at an unknown place" if frame is None else f"at {wording.place(frame)}"
    return f"{wording.plural(len(findings), 'socket')} leaked, opened {where}"


def _report(owner: Owner, findings: list[Finding], known: int, test: Owner) -> str:
    oldest = max(findings, key=lambda finding: finding.since_fin_ns)
    count = len(findings)
    event = Event(
        name=LEAK, finding=oldest, at_ns=oldest.at_ns, group_count=count, group_open=count
    )
    lines = wording.leak(event, count, None)
    if owner is not test:
        lines.insert(1, f"  {'of':<8} {owner.name}, which ended with this test")
    if known:
        lines.insert(1, f"  {'known':<8} {known} of them, by the baseline")
    return "\n".join(lines)


@contextmanager
def _closing() -> Iterator[Callable[[float], object]]:
    """Yield a function that waits until a socket is closed somewhere, or a time is up."""
    closed = allocate_lock()
    closed.acquire()

    def hook(original: Method) -> Any:
        def _real_close(self: Any, *args: Any, **kwargs: Any) -> None:
            try:
                original(self, *args, **kwargs)
            except BaseException as error:
                strip(error)
                raise
            with suppress(RuntimeError):  # it is told already
                closed.release()

        return dress(_real_close, original)  # type: ignore[arg-type]

    placement = Placement()
    placement.place(socket_class(), "_real_close", hook)
    try:
        yield lambda seconds: closed.acquire(timeout=seconds)
    finally:
        placement.remove()


def _collect(stirred: list[tuple[str, bool]], own: set[int]) -> None:
    """Collect garbage; put what objects complain of at their end into ``stirred``.

    With it, whether the object is a socket with a descriptor of ``own``. pytest would tell
    it of the next test, where it fails under ``-W error``.
    """

    def note(unraisable: Any) -> None:
        told = traceback.format_exception(
            unraisable.exc_type, unraisable.exc_value, unraisable.exc_traceback
        )
        head = unraisable.err_msg or "Exception ignored in"
        thing = unraisable.object
        is_own = isinstance(thing, socket_class()) and thing.fileno() in own
        stirred.append((f"{head}: {thing!r}\n\n{''.join(told)}", is_own))

    before, sys.unraisablehook = sys.unraisablehook, note
    try:
        gc.collect()
    finally:
        sys.unraisablehook = before
