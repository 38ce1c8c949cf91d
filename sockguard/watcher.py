"""One look at all sockets that need one: adopt, ask, judge, group, publish.

``tick()`` is the whole of it; the thread in ``heartbeat`` only repeats it, and tests call it.
Some lines over 400: what begins, follows and ends a case shares its tables and its lock.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any, Final

from sockguard import descriptors, detector, endpoints, narrate
from sockguard.burials import Burials
from sockguard.cases import Case, note_peer
from sockguard.conclusions import Conclusion, conclude
from sockguard.config import Config
from sockguard.correspondence import MAX_ASKED, Correspondence
from sockguard.descriptors import Identity, identity
from sockguard.drafts import Draft, Drafter
from sockguard.explainer import Explainer
from sockguard.findings import (
    POOLED,
    Event,
    Finding,
    Observation,
    Reading,
    Summary,
)
from sockguard.growth import time_to_limit_ns
from sockguard.leaks import Leaks
from sockguard.native import original
from sockguard.observers import LostError, Observer
from sockguard.readings import Readings
from sockguard.records import SocketRecord
from sockguard.registry import Registry, alive, reachable
from sockguard.stacks import StackTable

# So often, and not more often than the threshold, an idle connection of a pool is looked at.
_LOOK_AGAIN_NS: Final = 1_000_000_000


class Watcher:
    """Looks at the registry's sockets through an observer, and publishes what it finds.

    Any thread may call; one looks at a time (a native, reentrant lock). Memory: one case a
    socket in trouble and the bounds of ``StackTable``, ``Leaks`` and ``Listeners``; nothing
    for a healthy socket but its record.
    """

    def __init__(
        self,
        config: Config,
        registry: Registry,
        observer: Observer,
        decode: Callable[[bytes], Observation],
        publish: Callable[[Sequence[Event]], None],
        clock: Callable[[], int] = time.monotonic_ns,
        gives_up: Callable[[], bool] = lambda: False,
    ) -> None:
        """``gives_up``: whether a search for holders is to end at once."""
        self._config: Final = config
        self._registry: Final = registry
        self._observer: Final = observer
        self._decode: Final = decode
        self._publish: Final = publish
        self._clock: Final = clock
        self._lock: Any = original("_thread", "RLock")()
        self._stacks: Final = StackTable()
        self._drafter: Final = Drafter(config, registry, observer)
        self._cases: dict[int, Case] = {}
        self._leaking: dict[Identity | None, Case] = {}
        self._outlived: SocketRecord | None = None
        self._adopted: SocketRecord | None = None
        self._ticked: SocketRecord | None = None
        self._burials: Final = Burials(registry, decode)
        self._unpublished: list[Event] = []
        self._drafts: list[Draft] = []
        self.leaks: Final = Leaks()
        self.pooled: Final = Leaks(POOLED)
        self._explainer: Final = Explainer(gives_up, most_ns=config.explain_ns, depth=config.depth)
        self._correspondence: Final = Correspondence(registry, config.depth)
        self._answers = False
        self._far_end: Final = self._correspondence.far_end
        # Two searches at a time would meet each other's lists. Never taken inside `_lock`.
        self._explaining: Any = original("_thread", "RLock")()
        self._readings: Final = Readings(registry, observer, self.leaks)
        #: Processor time spent in looks, whoever's thread it was.
        self.cpu_ns = 0

    @contextmanager
    def _looking(self, now_ns: int | None = None) -> Iterator[int]:
        began = time.thread_time_ns()
        with self._lock:
            try:
                yield self._clock() if now_ns is None else now_ns
            finally:
                self.cpu_ns += time.thread_time_ns() - began

    # -- what is asked of it -----------------------------------------------------------

    def tick(self, now_ns: int | None = None) -> None:
        """Look once, and publish what was found. ``now_ns``: another clock, for tests."""
        with self._looking(now_ns) as now:
            newest = self._registry.newest
            self._adopt()
            self._suspect(now)
            self._bury()  # before a case is given up because its socket is gone
            self._follow(now)
            self._ticked = newest
            self.leaks.note(now)
            drafts, self._drafts = self._drafts, []
            troubled = list(islice(self._young(), MAX_ASKED))
            events = self._take_events()
        if self._answers:
            self._correspondence.turn(troubled)
        if drafts:
            began = time.thread_time_ns()
            concluded = self._conclude(drafts)  # may take a while: not inside
            with self._looking(now_ns) as now:
                self.cpu_ns += time.thread_time_ns() - began
                for conclusion in concluded:
                    self._settle(conclusion, now)
                events += self._take_events()
        if events:  # decided inside the lock, said outside: an exporter may block
            self._publish(events)

    def _conclude(self, drafts: Iterable[Draft], *, asked: bool = False) -> list[Conclusion]:
        with self._explaining:
            return conclude(drafts, self._explainer, self._far_end, asked=asked)

    def _young(self) -> Iterator[SocketRecord]:
        """Yield sockets in trouble whose other end nobody has looked for, each once."""
        for case in self._cases.values():
            if case.finding is None and not (case.spared or case.is_asked):
                case.is_asked = True
                yield case.record

    def listen(self) -> None:
        """Be there for the questions of other guarded processes, at each tick from now on."""
        self._answers = True
        self._correspondence.turn(())

    def close(self) -> None:
        """Give back what is held outside the observer."""
        self._correspondence.close()

    def _take_events(self) -> list[Event]:
        events = [self._up_to_date(event) for event in self._unpublished]
        self._unpublished.clear()
        return events

    def due_in_ns(self) -> int | None:
        """Return how long until the next socket in trouble becomes a leak; any thread."""
        with self._looking() as now:
            threshold_ns = self._config.threshold_ns
            due = [
                case.trouble.clock_ns + threshold_ns - now
                for case in self._cases.values()
                if case.finding is None and case.pooled is None and not case.spared
            ]
        return min((ns for ns in due if ns > 0), default=None)

    def check(self, threshold_ns: int, now_ns: int | None = None) -> list[Finding]:
        """Look at every socket, also those younger than a tick; publish nothing.

        Sockets freed unclosed are told once. 2 µs a healthy socket.
        """
        with self._explaining:  # what another look has in its variables would count as a holder
            return self._check(threshold_ns, now_ns)

    def _check(self, threshold_ns: int, now_ns: int | None) -> list[Finding]:
        with self._looking(now_ns) as now:
            self._bury()
            cases = [case for case in self._look_at_all(now) if case is not None]
            drafts = [
                self._drafter.of_case(case, now)
                for case in self._one_a_socket(cases)
                if detector.is_leak(case.trouble, now_ns=now, threshold_ns=threshold_ns)
            ]
            for freed, trouble in self._burials.untold():
                if detector.is_leak(trouble, now_ns=freed.at_ns, threshold_ns=threshold_ns):
                    drafts.append(self._drafter.of_burial(freed, trouble))
            self._drop_closed()
        wanted = [draft for draft in drafts if draft is not None]
        concluded = self._conclude(wanted, asked=True)
        return [conclusion.finding for conclusion in concluded if not conclusion.is_normal]

    def examine(
        self,
        records: Iterable[SocketRecord],
        now_ns: int | None = None,
        *,
        explained: bool = False,
    ) -> list[Finding]:
        """Look at these alone; return those in trouble, however short. 2 µs a healthy one.

        ``explained``: with their holders. What is idle in a bounded pool is among them.
        """
        with self._looking(now_ns) as now:
            drafts: dict[Identity | None, Draft | None] = {}
            for record in records:
                case = self._look_at(record, now) if _is_open_stream(record) else None
                if case is not None and (socket_id := identity(record.fd)) not in drafts:
                    drafts[socket_id] = self._drafter.of_case(case, now)
            self._drop_closed()
        wanted = [draft for draft in drafts.values() if draft is not None]
        if not explained:
            return [draft.finding for draft in wanted]
        return [conclusion.finding for conclusion in self._conclude(wanted, asked=True)]

    def summarize(self) -> Summary:
        """Return what the process leaves behind: exact groups, and who is merely late."""
        with self._looking() as now:
            late: Counter[str] = Counter()
            examples: dict[str, Finding] = {}
            cases = [case for case in self._look_at_all(now) if case is not None]
            for case in self._one_a_socket(cases):
                draft = None if case.finding or case.pooled else self._drafter.of_case(case, now)
                if draft is not None:
                    late[draft.finding.fingerprint] += 1
                    examples.setdefault(draft.finding.fingerprint, draft.finding)
            registry = self._registry
            groups = narrate.totals(self.leaks)
            pooled = narrate.totals(self.pooled)
        return Summary(
            at_ns=now,
            groups=groups,
            pooled=pooled,
            open_at_exit=tuple(
                narrate.total(name, examples[name], count, count)
                for name, count in late.most_common()
            ),
            tracked=registry.tracked(),
            collected_unclosed=self._burials.count if registry.notes_freed else None,
            coverage={"python": registry.tracked(), "adapter": 0, "native": None},
            cpu_ns=self.cpu_ns,
        )

    def reading(self, *, with_states: bool, cpu_ns: int) -> Reading:
        """Return the numbers of now. ``with_states`` asks the kernel: 2 µs a socket."""
        with self._looking():
            return self._readings.take(with_states=with_states, cpu_ns=cpu_ns)

    # -- the tick, step by step --------------------------------------------------------

    def _adopt(self) -> None:
        """Begin to watch the sockets that were there at the tick before: most die younger."""
        outlived, self._outlived = self._outlived, self._registry.newest
        if self._config.threshold < 2 * self._config.interval:  # too short to let a tick go by
            outlived = self._outlived
        if outlived is None or outlived is self._adopted:
            return
        self._adopted = outlived
        for filed in self._registry.records():
            if not filed.seen and filed.serial <= outlived.serial:
                filed.seen = True
                self._adopt_one(filed)

    def _adopt_one(self, filed: SocketRecord) -> None:
        record = reachable(filed)
        sock = None if record is None else alive(record)
        if record is None or sock is None or not endpoints.is_stream(sock):
            return
        record.seen = True
        record.stack = self._stacks.intern(record.stack)
        while record.previous is not None and alive(record.previous) is None:
            record.previous = record.previous.previous
        note_peer(record, sock)
        self._observer.adopt(record.fd)

    def _suspect(self, now: int) -> None:
        try:
            hinted: Iterable[int] = self._observer.harvest()
        except LostError:  # the program closed our descriptors: adopt all again
            for known, sock in self._registry.live():
                if known.seen and endpoints.is_stream(sock):
                    self._observer.adopt(known.fd)
            hinted = self._observer.harvest()
        by_fd = self._registry.by_fd
        for fd in hinted:
            record = reachable(by_fd.get(fd))
            if record is not None:
                self._look_at(record, now)

    def _follow(self, now: int) -> None:
        threshold_ns = self._config.threshold_ns
        for case in list(self._cases.values()):
            if not case.is_open() and not self._has_heir(case):
                self._end(case, now)
            elif (
                case.finding is None
                and not case.spared
                and not (case.pooled and now - case.pooled_ns < max(threshold_ns, _LOOK_AGAIN_NS))
                and self._look_at(case.record, now) is case
                and detector.is_leak(case.trouble, now_ns=now, threshold_ns=threshold_ns)
            ):
                self._confirm(case, now)

    def _has_heir(self, case: Case) -> bool:
        """Tell whether a leak lives on in a descriptor made since the last tick (dup)."""
        if case.finding is None:
            return False
        since = 0 if self._ticked is None else self._ticked.serial
        for filed in self._registry.records():
            heir = reachable(filed) if filed.serial > since else None
            if heir is not None and identity(heir.fd) == case.identity:
                case.twins.append(heir)
                return case.is_open()
        return False

    def _bury(self) -> None:
        """Take in the sockets that were freed unclosed: had their peer gone before?"""
        threshold_ns = self._config.threshold_ns
        for freed, trouble in self._burials.take_in(self._cases):
            if detector.is_leak(trouble, now_ns=freed.at_ns, threshold_ns=threshold_ns):
                draft = self._drafter.of_burial(freed, trouble)
                if draft is not None:
                    self._queue(self.leaks.add(draft.finding))

    def _drop_closed(self) -> None:
        # Where nothing ticks, nobody else lets go of them.
        for case in list(self._cases.values()):
            if case.finding is None and not case.is_open():
                del self._cases[case.record.serial]

    # -- one socket --------------------------------------------------------------------

    def _look_at(self, record: SocketRecord, now: int) -> Case | None:
        """Ask the kernel about one socket; return its case if it is in trouble."""
        case = self._cases.get(record.serial)
        sock = alive(record)
        seen = None if sock is None else self._observer.observe(sock, record)
        if seen is None:
            return case
        note_peer(record, sock)
        before = None if case is None else case.trouble
        trouble = detector.follow(record, before, seen, now_ns=now)
        if trouble is None:
            if case is not None:
                self._end(case, now)
            return None
        if case is None:
            case = self._cases[record.serial] = Case(record, trouble)
        case.trouble = trouble
        return case

    def _look_at_all(self, now: int) -> Iterator[Case | None]:
        for record, sock in self._registry.live():
            if endpoints.is_stream(sock):
                yield self._look_at(record, now)

    def _one_a_socket(self, cases: Iterable[Case]) -> Iterator[Case]:
        """Leave out objects that share a kernel socket; a leak speaks for all of its."""
        known: set[Identity | None] = set()
        for case in sorted(cases, key=lambda case: case.finding is None):
            if (socket_id := identity(case.record.fd)) not in known:
                known.add(socket_id)
                yield self._leaking.get(socket_id, case)

    def _confirm(self, case: Case, now: int) -> None:
        """Draft a finding, unless the case's kernel socket is a leak already, or ignored."""
        if not self._is_known(case):
            draft = self._drafter.of_case(case, now)
            if draft is not None:
                self._drafts.append(draft)

    def _is_known(self, case: Case) -> bool:
        """Tell whether the kernel socket is a leak by another object; note it there."""
        case.identity = identity(case.record.fd)
        first = self._leaking.get(case.identity)
        if first is None or first is case or not first.is_open():
            return False
        if case.record not in first.twins:
            first.twins.append(case.record)
        return True

    def _settle(self, conclusion: Conclusion, now: int) -> None:
        """What was drafted is a leak, or idle in a pool, or closed by now."""
        case, finding = conclusion.draft.case, conclusion.finding
        if case is None or case.finding is not None or not case.is_open() or self._is_known(case):
            return
        before, case.pooled = case.pooled, None
        if conclusion.is_normal:
            case.pooled, case.pooled_ns = before or finding, now
            if before is None:
                self._queue(self.pooled.add(finding))
            return
        if before is not None:
            self.pooled.resolve(before, now)
        case.finding = finding
        self._leaking[case.identity] = case
        self._queue(self.leaks.add(finding))

    def _up_to_date(self, event: Event) -> Event:
        if event.name == POOLED:
            return self.pooled.up_to_date(event)
        event = self.leaks.up_to_date(event)
        growing = self.leaks.growth.trend()
        if growing is None or growing.per_hour <= 0:
            return event
        used, limit = descriptors.count(), descriptors.limit()
        known = used is not None and limit is not None
        left = time_to_limit_ns(growing, used or 0, limit or 0) if known else None
        return replace(event, limit_in_ns=left)

    def _end(self, case: Case, now: int) -> None:
        """The socket is closed, or well again."""
        self._cases.pop(case.record.serial, None)
        self._readings.note_end(case, now)
        if case.pooled is not None:
            self.pooled.resolve(case.pooled, now)
        if case.finding is not None:
            self._cases.pop(case.finding.serial, None)
            self._leaking.pop(case.identity, None)
            self._queue(self.leaks.resolve(case.finding, now))

    def _queue(self, event: Event | None) -> None:
        if event is not None:
            self._unpublished.append(event)


def _is_open_stream(record: SocketRecord) -> bool:
    sock = alive(record)
    return sock is not None and endpoints.is_stream(sock)
