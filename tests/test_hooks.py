"""What is noted of a new socket, however it is made; and what the program sees of that."""

from __future__ import annotations

import _socket
import _thread
import asyncio
import contextlib
import inspect
import os
import resource
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Iterator

import pytest
from support.hooked import hooks

import sockguard
from sockguard.records import SocketRecord
from sockguard.registry import Registry, alive
from sockguard.stacks import Frame, capture, resolve

OURS = os.path.dirname(sockguard.__file__)
HERE = os.path.abspath(__file__)


@pytest.fixture
def registry():
    with hooks() as made:
        yield made


def record_of(registry: Registry, sock: socket.socket) -> SocketRecord:
    record = registry.by_fd[sock.fileno()]
    assert record() is sock
    return record


def frames(record: SocketRecord) -> list[Frame]:
    return list(resolve(record.stack))


def make() -> socket.socket:
    return socket.socket()


def nested(depth: int) -> socket.socket:
    return nested(depth - 1) if depth else socket.socket()


# -- what a record holds ---------------------------------------------------------------


def test_a_record_holds_where_when_and_by_whom_the_socket_was_made(registry):
    before = time.monotonic_ns()
    with make() as sock:
        after = time.monotonic_ns()
        record = record_of(registry, sock)
        line = inspect.getsourcelines(make)[1] + 1
        assert frames(record)[0] == Frame(HERE, line, "make")
        assert frames(record)[1].function == inspect.currentframe().f_code.co_name
        assert before <= record.created_ns <= after
        assert record.fd == sock.fileno()
        assert record.thread == "MainThread"
        assert registry.newest is record
        unset = (record.task, record.span, record.eof, record.peer, record.accepted)
        assert unset == (None, None, None, None, None)


def test_the_stack_is_pythons_own_without_the_frames_of_socket_and_of_ours(registry):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as client:
            expected = traceback.extract_stack()[-32:][::-1]
            found = frames(record_of(registry, client))
        assert [frame.function for frame in found] == [frame.name for frame in expected]
        # The innermost frame has moved on by a line between the two looks.
        assert [(frame.file, frame.line) for frame in found[1:]] == [
            (frame.filename, frame.lineno) for frame in expected[1:]
        ]
        for record in registry.records():
            assert frames(record)[0].file == HERE
            assert not any(frame.file.startswith(OURS) for frame in frames(record))


def walked(frame) -> list:
    stack = []
    while frame is not None:
        stack += [frame.f_code, frame.f_lasti]
        frame = frame.f_back
    return stack


def captured_at(depth: int, wanted: int) -> tuple[list, list]:
    if depth:
        return captured_at(depth - 1, wanted)
    frame = sys._getframe()
    return list(capture(frame, wanted)), walked(frame)


def test_a_stack_of_any_length_is_taken_whole():
    results: list[tuple[list, list]] = []

    def run() -> None:  # a thread's stack has no pytest below it: short ones can be had
        results.extend(captured_at(depth, 1000) for depth in range(20))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert len({len(found) for found, _ in results}) == 20
    for found, expected in results:
        # The innermost frame has moved on between the two looks.
        assert found[2:] == expected[2:]
        assert found[0] is expected[0]


@pytest.mark.parametrize(("depth", "kept"), [(1, 8), (8, 8), (9, 16), (32, 32)])
def test_the_depth_bounds_the_stack_rounded_up_to_eight(depth, kept):
    with hooks(depth=depth) as registry, nested(50) as sock:
        assert [frame.function for frame in frames(record_of(registry, sock))] == ["nested"] * kept


def test_the_threads_name_is_noted_and_a_raw_thread_has_none(registry):
    made: list[socket.socket] = []
    thread = threading.Thread(target=lambda: made.append(make()), name="the maker")
    thread.start()
    thread.join()
    before = threading.enumerate()
    done = threading.Event()
    _thread.start_new_thread(lambda: (made.append(make()), done.set()), ())
    assert done.wait(5)
    with made[0], made[1]:
        assert [record_of(registry, sock).thread for sock in made] == ["the maker", None]
    assert set(threading.enumerate()) <= set(before)  # no dummy for the raw one


def test_the_asyncio_tasks_name_is_noted_in_a_task_and_nothing_in_a_callback(registry):
    made = {}

    async def in_a_task() -> None:
        made["task"] = make()
        called = asyncio.Event()

        def callback() -> None:
            made["callback"] = make()
            called.set()

        asyncio.get_running_loop().call_soon(callback)
        await called.wait()

    async def main() -> None:
        await asyncio.create_task(in_a_task(), name="the opener")

    asyncio.run(main())
    with made["task"], made["callback"]:
        assert record_of(registry, made["task"]).task == "the opener"
        assert record_of(registry, made["callback"]).task is None


def test_the_active_spans_context_is_noted_and_nothing_else_of_the_span(registry):
    from opentelemetry.sdk.trace import TracerProvider

    tracer = TracerProvider(shutdown_on_exit=False).get_tracer(__name__)
    with make() as without:
        assert record_of(registry, without).span is None
    with tracer.start_as_current_span("opening") as span, make() as within:
        assert record_of(registry, within).span == span.get_span_context()


def test_a_span_that_raises_costs_the_span_and_no_socket(registry):
    from opentelemetry import context, trace

    class Broken(trace.NonRecordingSpan):
        def get_span_context(self) -> trace.SpanContext:
            raise RuntimeError("a bug of somebody's")

    token = context.attach(trace.set_span_in_context(Broken(trace.INVALID_SPAN_CONTEXT)))
    try:
        with make() as sock:
            record = record_of(registry, sock)
            assert (record.span, frames(record)[0].function) == (None, "make")
    finally:
        context.detach(token)


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_no_span_is_noted_and_opentelemetry_not_loaded_where_the_program_does_not():
    code = """
import socket, sys
from sockguard.config import Config
from sockguard.guard import Guard
guard = Guard(Config(), watches=False)
guard.start()
with socket.socket() as sock:
    record = guard._registry.by_fd[sock.fileno()]
    print(record.span, "opentelemetry" in sys.modules)
guard.stop()
"""
    assert run(code).split() == ["None", "False"]


def test_a_record_keeps_neither_the_socket_nor_its_frames_locals_alive(registry):
    class Local:
        pass

    def opening() -> tuple[socket.socket, weakref.ref]:
        local = Local()
        return socket.socket(), weakref.ref(local)

    sock, local = opening()
    record = record_of(registry, sock)
    gone = weakref.ref(sock)
    sock.close()
    del sock
    assert (gone(), record(), local()) == (None, None, None)
    assert frames(record)[0].function == "opening"


# -- every way to make one -------------------------------------------------------------


def test_accept_is_told_apart_and_so_are_both_ends_of_a_pair(registry):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
        one, other = socket.socketpair()
        with client, accepted, one, other:
            made = [listener, client, accepted, one, other]
            records = [record_of(registry, sock) for sock in made]
            assert [record.accepted for record in records] == [None, None, True, None, None]
            assert len({record.serial for record in records}) == 5
            assert {frames(record)[0].file for record in records} == {HERE}


def duplicate(sock: socket.socket) -> socket.socket:
    return sock.dup()


def from_number(sock: socket.socket) -> socket.socket:
    return socket.fromfd(sock.fileno(), sock.family, sock.type)


@pytest.mark.parametrize("twice", [duplicate, from_number])
def test_a_duplicate_is_a_socket_of_its_own_made_where_it_was_duplicated(registry, twice):
    with make() as sock, twice(sock) as twin:
        assert frames(record_of(registry, sock))[0].function == "make"
        assert frames(record_of(registry, twin))[0].function == twice.__name__
        assert record_of(registry, twin).created_ns > record_of(registry, sock).created_ns


def test_a_file_object_is_no_new_socket(registry):
    with make() as sock:
        before = registry.tracked()
        with sock.makefile("rb"):
            assert registry.tracked() == before


def adopt(fd: int) -> socket.socket:
    return socket.socket(fileno=fd)


def test_an_object_for_a_foreign_descriptor_was_made_where_it_was_adopted(registry):
    with adopt(_socket.socket().detach()) as sock:
        assert frames(record_of(registry, sock))[0].function == "adopt"


def test_an_object_for_a_tracked_descriptor_inherits_and_outlives_the_first(registry):
    first = make()
    record = record_of(registry, first)
    second = adopt(first.fileno())
    inherited = record_of(registry, second)
    assert inherited.stack is record.stack
    assert (inherited.created_ns, inherited.thread) == (record.created_ns, record.thread)
    first.detach()
    third = adopt(second.fileno())
    second.detach()
    with third:
        assert record_of(registry, third).stack is record.stack
        assert [sock for _, sock in registry.live()] == [third]


def test_the_earlier_of_two_objects_on_a_descriptor_is_found_again_when_the_later_lets_go(registry):
    with make() as first:
        second = adopt(first.fileno())
        assert [sock for _, sock in registry.live()] == [second]
        second.detach()
        assert [sock for _, sock in registry.live()] == [first]


def test_an_object_on_a_reused_number_inherits_nothing(registry):
    first = make()
    fd = first.fileno()
    first.close()
    foreign = _socket.socket()
    assert foreign.fileno() == fd
    with adopt(foreign.detach()) as sock:
        assert frames(record_of(registry, sock))[0].function == "adopt"


def test_a_tls_socket_inherits_where_the_plain_one_was_made(registry):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()),
    ):
        plain, _ = listener.accept()
        record = record_of(registry, plain)
        with context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False) as tls:
            inherited = record_of(registry, tls)
            assert inherited.stack is record.stack
            assert inherited.accepted
            assert alive(record) is None


# -- subclasses ------------------------------------------------------------------------


class WithArguments(socket.socket):
    def __init__(self, host: str, *, port: int) -> None:
        super().__init__(socket.AF_INET, type=socket.SOCK_STREAM)
        self.target = (host, port)


class WithoutInit(socket.socket):
    pass


class CallsItByName(socket.socket):
    def __init__(self) -> None:
        socket.socket.__init__(self, proto=0, family=socket.AF_INET)


class Hostile(socket.socket):
    """Every method that we could be tempted to call."""

    def _refuse(self, *args: object) -> object:
        raise AssertionError("code of the program ran")

    fileno = getsockname = getpeername = getsockopt = __eq__ = _refuse
    __hash__ = __bool__ = __len__ = __repr__ = _refuse  # type: ignore[assignment]
    family = type = proto = property(_refuse)  # type: ignore[assignment]


@pytest.mark.parametrize(
    "build", [lambda: WithArguments("h", port=1), WithoutInit, CallsItByName], ids=["a", "b", "c"]
)
def test_a_subclass_is_tracked_whatever_its_init_looks_like(registry, build):
    with build() as sock:
        assert record_of(registry, sock).fd == sock.fileno()
        assert sock.type == socket.SOCK_STREAM


def test_no_method_of_a_subclass_is_called_by_tracking_or_looking():
    with sockguard.watch() as guard:
        sock = Hostile()
        try:
            assert guard.check() == []
            record = guard._registry.newest
            assert record() is sock
        finally:
            _socket.socket.close(sock)


def test_a_subclass_that_never_calls_init_is_left_alone(registry):
    class Empty(socket.socket):
        def __init__(self) -> None:
            pass

    assert Empty().fileno() == -1
    assert registry.records() == []


def test_init_called_twice_files_the_second_descriptor(registry):
    with make() as sock:
        first = sock.fileno()
        sock.__init__()
        assert sock.fileno() != first  # CPython loses the first: not ours to mend
        os.close(first)
        assert record_of(registry, sock).fd == sock.fileno()
        assert [found for _, found in registry.live()] == [sock]


# -- what the program sees -------------------------------------------------------------


def lines(error: BaseException) -> list[tuple[str, int | None]]:
    found = traceback.extract_tb(error.__traceback__)
    assert [frame for frame in found if frame.filename.startswith(OURS)] == []
    return [(frame.filename, frame.lineno) for frame in found]


@contextlib.contextmanager
def no_room_for_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def make_without_room() -> None:
    with no_room_for_descriptors():
        make()


MAKING = {
    "a family that does not exist": lambda: socket.socket(12345),
    "a descriptor that is none": lambda: socket.socket(fileno=65_000),
    "a descriptor of the wrong type": lambda: socket.socket(fileno="x"),
    "an argument too many": lambda: socket.socket(2, 1, 0, None, 5),
    "an argument that does not exist": lambda: socket.socket(bogus=1),
    "a pair that does not exist": lambda: socket.socketpair(socket.AF_INET6),
}


@pytest.mark.parametrize("how", MAKING)
def test_an_init_that_raises_is_as_without_us_and_leaves_no_record(how):
    seen = []
    for guarded in (False, True):
        with hooks() if guarded else contextlib.nullcontext() as registry:
            with pytest.raises((OSError, TypeError, ValueError)) as caught:
                MAKING[how]()
            seen.append((type(caught.value), lines(caught.value)))
            assert registry is None or registry.records() == []
    assert seen[0] == seen[1]


def test_a_process_that_has_no_descriptor_left_gets_the_same_error():
    seen = []
    for guarded in (False, True):
        with hooks() if guarded else contextlib.nullcontext() as registry:
            with pytest.raises(OSError, match="Too many open files") as caught:
                make_without_room()
            seen.append((repr(caught.value), lines(caught.value)))
            assert registry is None or registry.records() == []
    assert seen[0] == seen[1]


def test_the_signature_the_name_and_the_documentation_stay():
    def looks() -> tuple:
        init = socket.socket.__init__
        return (
            inspect.signature(socket.socket),
            *(init.__name__, init.__qualname__, init.__module__, init.__doc__),
        )

    before = looks()
    with hooks():
        assert looks() == before


def test_level_light_leaves_every_attribute_but_init_the_very_same_object():
    classes = (socket.socket, _socket.socket, ssl.SSLSocket)
    before = [dict(vars(cls)) for cls in classes]
    with hooks(full=False), socket.socket():
        after = [dict(vars(cls)) for cls in classes]
    changed = {
        (cls.__name__, name)
        for cls, old, new in zip(classes, before, after, strict=True)
        for name in old.keys() | new.keys()
        if old.get(name) is not new.get(name)
    }
    assert changed == {("socket", "__init__")}


def test_level_full_warns_of_an_unclosed_socket_at_the_programs_line():
    with hooks(full=True) as registry:
        sock = make()
        record = record_of(registry, sock)
        with pytest.warns(ResourceWarning, match="unclosed") as caught:
            del sock
        assert caught[0].filename == __file__
        [(collected, *_)] = registry.collected
        assert collected is record
        make().close()
        assert len(registry.collected) == 1  # closed before it was freed: nothing to tell


def test_a_finalizer_that_somebody_else_put_there_before_us_runs_for_every_socket(monkeypatch):
    freed = []

    class Mine(socket.socket):
        """Other tests' garbage may be collected just here."""

    def theirs(sock: socket.socket) -> None:
        if type(sock) is Mine:
            freed.append(sock.fileno())
            sock.close()

    monkeypatch.setattr(socket.socket, "__del__", theirs, raising=False)
    with hooks(full=True) as registry:
        closed, still_open = Mine(), Mine()
        closed.close()
        fd = still_open.fileno()
        del closed, still_open
        assert freed == [-1, fd]
        assert len(registry.collected) == 1
    assert vars(socket.socket)["__del__"] is theirs
