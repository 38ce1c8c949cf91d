"""One look at all sockets that need one: adopt, ask, judge, group, publish.

``tick()`` is the whole of it; the thread in ``heartbeat`` only repeats it, and tests call it.
"""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from sockguard import detector, endpoints, narrate
from sockguard.cases import Case, note_peer
from sockguard.config import Config
from sockguard.descriptors import Identity, identity
from sockguard.detector import Trouble
from sockguard.findings import (
    Event,
    Evidence,
    Finding,
    GroupTotal,
    Observation,
    Reading,
    Summary,
)
from sockguard.leaks import Leaks
from sockguard.listeners import Listeners
from sockguard.native import original
from sockguard.observers import LostError, Observer
from sockguard.readings import Readings
from sockguard.records import SocketRecord
from sockguard.registry import Collected, Registry, alive, reachable
from sockguard.sites import culprit
from sockguard.stacks import StackTable

# Sockets freed unclosed that `check` may still ask for: the newest, not more.
MAX_BURIED: Final = 1000


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
    ) -> None:
        self._config: Final = config
        self._registry: Final = registry
        self._observer: Final = observer
        self._decode: Final = decode
        self._publish: Final = publish
        self._clock: Final = clock
        self._lock: Any = original("_thread", "RLock")()
        self._ignore: Final = [re.compile(pattern) for pattern in config.ignore]
        self._stacks: Final = StackTable()
        self._listeners: Final = Listeners(registry)
        self._cases: dict[int, Case] = {}
        self._leaking: dict[Identity | None, Case] = {}
        self._outlived: SocketRecord | None = None
        self._adopted: SocketRecord | None = None
        self._ticked: SocketRecord | None = None
        self._buried: deque[tuple[Collected, Trouble]] = deque(maxlen=MAX_BURIED)
        self._unpublished: list[Event] = []
        self._dying: dict[SocketRecord, Collected] = {}
        self._collected = 0
        self.leaks: Final = Leaks()
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
            events = [self.leaks.up_to_date(event) for event in self._unpublished]
            self._unpublished.clear()
        if events:  # decided inside the lock, said outside: an exporter may block
            self._publish(events)

    def due_in_ns(self) -> int | None:
        """Return how long until the next socket in trouble becomes a leak; any thread."""
        with self._looking() as now:
            threshold_ns = self._config.threshold_ns
            due = [
                case.trouble.clock_ns + threshold_ns - now
                for case in self._cases.values()
                if case.finding is None and not case.spared
            ]
        return min((ns for ns in due if ns > 0), default=None)

    def check(self, threshold_ns: int, now_ns: int | None = None) -> list[Finding]:
        """Look at every socket, also those younger than a tick; publish nothing.

        Sockets freed unclosed are told once. 2 µs a healthy socket.
        """
        with self._looking(now_ns) as now:
            self._bury()
            cases = [case for case in self._look_at_all(now) if case is not None]
            findings = [
                self._find(case, now) or case.finding
                for case in self._one_a_socket(cases)
                if detector.is_leak(case.trouble, now_ns=now, threshold_ns=threshold_ns)
            ]
            while self._buried:
                freed, trouble = self._buried.popleft()
                if detector.is_leak(trouble, now_ns=freed.at_ns, threshold_ns=threshold_ns):
                    findings.append(self._find_collected(freed, trouble))
            self._drop_closed()
        return [finding for finding in findings if finding is not None]

    def examine(self, records: Iterable[SocketRecord], now_ns: int | None = None) -> list[Finding]:
        """Look at these alone; return those in trouble, however short. 2 µs a healthy one."""
        with self._looking(now_ns) as now:
            findings: dict[Identity | None, Finding | None] = {}
            for record in records:
                case = self._look_at(record, now) if _is_open_stream(record) else None
                if case is not None and (socket_id := identity(record.fd)) not in findings:
                    findings[socket_id] = self._find(case, now)
            self._drop_closed()
        return [finding for finding in findings.values() if finding is not None]

    def summarize(self) -> Summary:
        """Return what the process leaves behind: exact groups, and who is merely late."""
        with self._looking() as now:
            late: Counter[str] = Counter()
            examples: dict[str, Finding] = {}
            cases = [case for case in self._look_at_all(now) if case is not None]
            for case in self._one_a_socket(cases):
                finding = None if case.finding else self._find(case, now)
                if finding is not None:
                    late[finding.fingerprint] += 1
                    examples.setdefault(finding.fingerprint, finding)
            registry = self._registry
            groups = tuple(
                _total(leak.fingerprint, leak.example, leak.count, leak.open)
                for leak in self.leaks.groups()
            )
        return Summary(
            at_ns=now,
            groups=groups,
            open_at_exit=tuple(
                _total(name, examples[name], count, count) for name, count in late.most_common()
            ),
            tracked=registry.tracked(),
            collected_unclosed=self._collected if registry.notes_freed else None,
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
        collected = self._registry.collected
        dying, self._dying = self._dying, {}
        collected.extend(dying.values())
        while collected:
            freed = collected.popleft()
            record, info, _, at_ns = freed
            if alive(record) is not None:
                # Somebody looked at its __del__; or another thread is in the midst of
                # freeing it: then it is gone at the next look.
                if record not in dying:
                    self._dying[record] = freed
                continue
            self._collected += 1
            if info is None or self._was_found(record):
                continue  # it ends by itself
            case = self._cases.get(record.serial)
            before = self._cases.pop(record.serial).trouble if case is not None else None
            trouble = detector.follow(record, before, self._decode(info), now_ns=at_ns)
            if trouble is None:
                continue
            self._buried.append((freed, trouble))
            threshold_ns = self._config.threshold_ns
            if detector.is_leak(trouble, now_ns=at_ns, threshold_ns=threshold_ns):
                finding = self._find_collected(freed, trouble)
                if finding is not None:
                    self._queue(self.leaks.add(finding))

    def _was_found(self, record: SocketRecord | None) -> bool:
        """Tell whether a socket is a leak already, perhaps by an earlier object of its."""
        while record is not None:
            case = self._cases.get(record.serial)
            if case is not None and case.finding is not None:
                return True
            record = record.previous
        return False

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
        """Make a leak of a case, unless its kernel socket is one already, or ignored."""
        case.identity = identity(case.record.fd)
        first = self._leaking.get(case.identity)
        if first is not None and first is not case and first.is_open():
            if case.record not in first.twins:
                first.twins.append(case.record)
            return
        finding = self._find(case, now)
        if finding is not None:
            case.finding = finding
            self._leaking[case.identity] = case
            self._queue(self.leaks.add(finding))

    def _end(self, case: Case, now: int) -> None:
        """The socket is closed, or well again."""
        self._cases.pop(case.record.serial, None)
        self._readings.note_end(case, now)
        if case.finding is not None:
            self._cases.pop(case.finding.serial, None)
            self._leaking.pop(case.identity, None)
            self._queue(self.leaks.resolve(case.finding, now))

    def _find(self, case: Case, now: int) -> Finding | None:
        """Return the finding that a case amounts to; ``None`` if it is ignored or gone."""
        record = case.record
        sock = alive(record)
        if sock is None:
            return None
        evidence = self._observer.evidence(sock, record)
        if alive(record) is None:  # closed while we looked: all that was another's number
            return None
        return self._narrate(record, case.trouble, evidence, now)

    def _find_collected(self, freed: Collected, trouble: Trouble) -> Finding | None:
        record = freed.record
        evidence = Evidence(local=endpoints.render(freed.local), peer=record.peer)
        return self._narrate(record, detector.collected(trouble), evidence, freed.at_ns)

    def _narrate(
        self, record: SocketRecord, trouble: Trouble, evidence: Evidence, now: int
    ) -> Finding | None:
        listener = self._listeners.find(evidence.local, now) if record.accepted else None
        finding = narrate.finding(
            record, trouble, evidence, listener, depth=self._config.depth, now_ns=now
        )
        if not (narrate.is_ignored(finding, self._ignore) or narrate.is_telemetry(record, finding)):
            return finding
        if record.serial in self._cases:
            self._cases[record.serial].spared = True
        return None

    def _queue(self, event: Event | None) -> None:
        if event is not None:
            self._unpublished.append(event)


def _is_open_stream(record: SocketRecord) -> bool:
    sock = alive(record)
    return sock is not None and endpoints.is_stream(sock)


def _total(fingerprint: str, example: Finding, count: int, still_open: int) -> GroupTotal:
    return GroupTotal(
        fingerprint=fingerprint,
        kind=example.kind,
        verdict=example.verdict,
        count=count,
        open=still_open,
        # The overflow group has many sites.
        site=culprit(example.created.stack) if fingerprint == example.fingerprint else None,
    )
