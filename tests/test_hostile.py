"""Programs that open sockets where nobody should, and die where nobody does."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import opentelemetry.trace  # noqa: F401  # so that its frames take part, too
import pytest

import sockguard

OURS = os.path.dirname(sockguard.__file__) + os.sep
DEADLINE_S = 100  # of a deadlock, not of a slow machine


def run(
    program: str, folder: Path, *, guarded: bool = True, **options: object
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, guarded from its environment or plain."""
    script = folder / "program.py"
    script.write_text(program)
    environ = {name: text for name, text in os.environ.items() if not name.startswith("SOCKGUARD")}
    if guarded:
        environ |= {"SOCKGUARD": "1", "SOCKGUARD_LEVEL": "full", "SOCKGUARD_INTERVAL": "0.05"}
        environ |= {f"SOCKGUARD_{name.upper()}": str(value) for name, value in options.items()}
    return subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        cwd=folder,
        env=environ,
    )


CHURNING = """
import gc, signal, socket, sys, threading, time, weakref

LEAKED, DROPPED = 25, 10

def leak(listener):
    theirs = socket.create_connection(listener.getsockname())
    ours, _ = listener.accept()
    theirs.close()
    return ours

listener = socket.create_server(("127.0.0.1", 0))
held = [leak(listener) for _ in range(LEAKED)]

opened = {"signal": 0, "del": 0, "weakref": 0, "churn": 0}

def open_and_close(who):
    socket.socket().close()
    opened[who] += 1

signal.signal(signal.SIGALRM, lambda number, frame: open_and_close("signal"))

class Opener:
    def __del__(self):
        open_and_close("del")

class Watched:
    pass

over = threading.Event()
failed = []

def guarded_loop(turn):
    def loop():
        try:
            while not over.is_set():
                turn()
        except BaseException as error:
            failed.append(error)
    return loop

def churn():
    one, other = socket.socketpair()
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()  # mine or another thread's: as many as there are
    client.sendall(b"x")
    one.sendall(b"y")
    assert server.recv(1) == b"x"
    assert other.recv(1) == b"y"
    for sock in (server, client, other, one):
        sock.close()
    opened["churn"] += 1

def litter():
    cycle = [Opener()]
    cycle.append(cycle)
    Opener()
    watched = Watched()
    ref = weakref.ref(watched, lambda ref: open_and_close("weakref"))
    del watched

gc.set_threshold(60)
turns = (churn, churn, litter)
threads = [threading.Thread(target=guarded_loop(turn)) for turn in turns]
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
for thread in threads:
    thread.start()
end = time.monotonic() + 2.5
while time.monotonic() < end and not failed:
    for _ in range(100):
        litter()
for _ in range(DROPPED):
    socket.socket()  # freed by the reference count, unclosed
over.set()
for thread in threads:
    thread.join()
signal.setitimer(signal.ITIMER_REAL, 0)
print(failed, all(count > 20 for count in opened.values()), opened)
"""


def test_sockets_opened_in_handlers_finalizers_and_callbacks_amid_churn_are_survived(tmp_path):
    output = tmp_path / "leaks"
    result = run(CHURNING, tmp_path, threshold=1, output=output, quiet=1)
    assert result.stderr == ""
    assert result.returncode == 0
    assert result.stdout.startswith("[] True"), result.stdout
    events = [json.loads(line) for line in output.read_text().splitlines()]
    summary = events[-1]
    assert summary["event"] == "sockguard.summary"
    assert [(group["kind"], group["count"]) for group in summary["groups"]] == [("peer_closed", 25)]
    assert summary["collected_unclosed"] is None  # no finalizer where a thread watches
    leaks = [event for event in events if event["event"] == "sockguard.socket.leak"]
    assert {event["created"]["stack"][0]["function"] for event in leaks} == {"leak"}


SHUTDOWN = """
import atexit, gc, socket, sys, threading

gc.disable()  # only the end collects: else our allocations decide when the cycle goes

# Defaults, because at the very end the globals are gone.
def use(where, socketpair=socket.socketpair, write=sys.__stdout__.write):
    one, other = socketpair()
    one.close()
    data = other.recv(1)
    other.close()
    write(f"{where} {data!r}\\n")

class Late:
    def __init__(self, where, use=use):
        self.where = where
        self.use = use

    def __del__(self):
        self.use(self.where)

late = Late("globals")
atexit.register(use, "atexit")

ready = threading.Event()
def churn():
    while True:
        one, other = socket.socketpair()
        one.close()
        other.close()
        ready.set()

if "daemon" in WITH:
    threading.Thread(target=churn, daemon=True).start()
    ready.wait()
cycle = [Late("cycle"), socket.socket()]
cycle.append(cycle)
del cycle
"""


@pytest.mark.parametrize("daemon", [True, False])
def test_sockets_opened_while_the_interpreter_ends_are_as_without_us(tmp_path, daemon):
    program = f"WITH = {'daemon' if daemon else ''!r}\n{SHUTDOWN}"
    plain = run(program, tmp_path, guarded=False)
    assert plain.returncode == 0
    # A daemon thread keeps the module's globals, and with them the last of the three, alive.
    wheres = ["atexit", "cycle"] + ([] if daemon else ["globals"])
    assert sorted(plain.stdout.splitlines()) == [f"{where} b''" for where in wheres]
    guarded = run(program, tmp_path, quiet=1)
    assert guarded.stdout == plain.stdout
    assert (guarded.returncode, guarded.stderr) == (plain.returncode, plain.stderr)


# -- a handler that raises while we are at it ------------------------------------------


class Interruption(Exception):  # noqa: N818  # not an error; as `Exception` the harder case
    """What a signal handler raises."""


class Interrupter:
    """Lets a signal come in at the n-th line of ours that runs; its handler raises."""

    def __init__(self, error: type[BaseException], line: int) -> None:
        self._error = error
        self._left = line
        self.interrupted = False

    def _handle(self, number: int, frame: object) -> None:
        raise self._error

    def _trace(self, frame: FrameType, event: str, arg: object) -> Callable | None:
        code = frame.f_code
        # On entry any finalizer written in Python is lost, CPython does not call it again.
        if not code.co_filename.startswith(OURS) or code.co_name == "__get__":
            return None
        if event == "line":
            self._left -= 1
            if self._left == 0:
                self.interrupted = True
                signal.raise_signal(signal.SIGUSR1)
        return self._trace

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        before = signal.signal(signal.SIGUSR1, self._handle)
        tracer = sys.gettrace()
        sys.settrace(self._trace)
        try:
            yield
        finally:
            sys.settrace(tracer)
            signal.signal(signal.SIGUSR1, before)


def everywhere(error: type[BaseException]) -> Iterator[Interrupter]:
    """Interrupters, each a line of ours later, until one has nothing to interrupt any more."""
    for line in range(1, 500):
        interrupter = Interrupter(error, line)
        yield interrupter
        if not interrupter.interrupted:
            assert line > 5, "hardly a line of ours was run"
            return
    raise AssertionError("it never came to its end")


@pytest.fixture
def guard(capfd):
    """A guard at level `full` that must be whole in the end, and must have said nothing."""
    with sockguard.watch(level="full") as watching:
        yield watching
        with socket.socket() as sock:
            assert watching._registry.newest() is sock, "tracking is switched off"
    assert "sockguard" not in capfd.readouterr().err


ERRORS = pytest.mark.parametrize("error", [Interruption, KeyboardInterrupt])


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@ERRORS
@pytest.mark.usefixtures("guard")
def test_an_exception_of_a_handler_passes_through_the_creation_of_a_socket(error):
    before = descriptors()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # what was half made is freed
        for interrupter in everywhere(error):
            made: list[socket.socket] = []
            raised = False
            try:
                with interrupter.at_work():
                    made.append(socket.socket())
            except error:
                raised = True
            assert raised is interrupter.interrupted
            for sock in made:
                sock.close()
    assert descriptors() == before


def a_dead_socket() -> socket.socket:
    one, other = socket.socketpair()
    one.close()
    return other


@ERRORS
@pytest.mark.usefixtures("guard")
def test_an_exception_of_a_handler_passes_through_a_read(error):
    for interrupter in everywhere(error):
        raised = False
        with a_dead_socket() as sock:
            try:
                with interrupter.at_work():
                    sock.recv(1)
            except error:
                raised = True
        assert raised is interrupter.interrupted


def do_something() -> int:
    """Give the interpreter a moment in the program's code."""
    return sum(range(3))


@ERRORS
@pytest.mark.usefixtures("guard")
def test_an_exception_of_a_handler_in_a_finalizer_reaches_the_program_with_the_socket_closed(error):
    before = descriptors()
    for interrupter in everywhere(error):
        sock = socket.socket()
        raised = False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            try:
                with interrupter.at_work():
                    del sock
                    do_something()
            except error:
                raised = True
        assert raised is interrupter.interrupted
        assert descriptors() == before


# -- no room on the stack --------------------------------------------------------------


def at_depth(depth: int, act: Callable[[], object]) -> object:
    return at_depth(depth - 1, act) if depth else act()


def outcomes(act: Callable[[], object]) -> list[str]:
    """What becomes of ``act`` on the last frames before the recursion limit."""
    found = []
    limit = sys.getrecursionlimit()
    for depth in range(limit - 150, limit):
        try:
            at_depth(depth, act)
        except BaseException as error:
            found.append(type(error).__name__)
        else:
            found.append("done")
    return found


def create(stack: contextlib.ExitStack) -> Callable[[], object]:
    return lambda: socket.socket().close()


def meet_the_end(stack: contextlib.ExitStack) -> Callable[[], object]:
    unread = [stack.enter_context(a_dead_socket()) for _ in range(150)]
    return lambda: unread.pop().recv(1)


def find_nothing(stack: contextlib.ExitStack) -> Callable[[], object]:
    sock, peer = socket.socketpair()
    stack.callback(peer.close)
    stack.callback(sock.close)
    sock.setblocking(False)

    def read() -> None:
        try:  # not `suppress`: it takes frames itself
            sock.recv(1)
        except BlockingIOError:
            return

    return read


@pytest.mark.parametrize("act", [create, meet_the_end, find_nothing])
def test_a_stack_near_its_limit_costs_a_few_frames_and_nothing_else(act, capfd):
    found = []
    for level in (None, "full"):
        with contextlib.ExitStack() as stack, warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # made, but no frame for its close
            guard = None if level is None else stack.enter_context(sockguard.watch(level=level))
            found.append(outcomes(act(stack)))
            if guard is not None:
                with socket.socket() as sock:
                    assert guard._registry.newest() is sock, "tracking is switched off"
    plain, guarded = found
    assert set(plain) == set(guarded) == {"done", "RecursionError"}
    assert 0 <= guarded.count("RecursionError") - plain.count("RecursionError") <= 5
    assert guarded == sorted(guarded, reverse=True)  # where there is room, nothing is refused
    assert "sockguard" not in capfd.readouterr().err
