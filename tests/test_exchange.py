"""Guarded processes tell each other where a socket was made; strangers get nothing."""

from __future__ import annotations

import json
import linecache
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.builders import a_frame, an_origin
from support.hooked import hooks
from support.programs import SERVERS, Program, clean_environment, running

from sockguard import descriptors
from sockguard.exchange import MAX_ASKED, MAX_BYTES, MAX_TURN, Exchange, encode_answer
from sockguard.farend import FarEnds
from sockguard.findings import Origin
from sockguard.stacks import Frame
from sockguard.tcp import TcpState

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="abstract AF_UNIX names")
as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root becomes another user"
)

PATIENCE_S = 10.0
NOBODY = 65534
ROOT_FOLDER = Path(__file__).parent


def knows_nothing(inode: int, fd: int) -> Origin | None:
    return None


def unexpected(inode: int, fd: int) -> Origin | None:
    raise AssertionError("a stranger was listened to")


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    with closing(Exchange()) as mine:
        mine.answer_all(knows_nothing)
        assert mine._sock is not None
        yield mine


def mail_came(exchange: Exchange) -> bool:
    assert exchange._sock is not None
    return bool(select.select([exchange._sock], [], [], PATIENCE_S)[0])


def answer_to(exchange: Exchange, inode: int) -> Origin:
    """Wait for one answer."""
    answers: dict[int, Origin] = {}
    while inode not in answers:
        assert mail_came(exchange), "no answer came"
        exchange.answer_all(knows_nothing)
        answers.update(exchange.answers())
    return answers[inode]


def name_of(exchange: Exchange) -> bytes:
    assert exchange._sock is not None
    name: bytes = exchange._sock.getsockname()
    return name


def to_itself(exchange: Exchange, data: bytes) -> None:
    """Put a datagram into its queue that comes from one of us: from itself."""
    assert exchange._sock is not None
    exchange._sock.sendto(data, name_of(exchange))


@contextmanager
def a_stranger(name: bytes | None = None) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        if name is not None:
            stranger.bind(name)
        stranger.setblocking(False)
        yield stranger


class Peer:
    """The other guarded process, and our ends of its connections."""

    def __init__(self, program: Program, listener: socket.socket, stack: ExitStack) -> None:
        self.program = program
        self.pid = program.pid
        self._listener = listener
        self._stack = stack

    def do(self, command: str) -> list[str]:
        self.program.tell(command)
        return self.program.line()

    def connection(self) -> tuple[socket.socket, int, int]:
        """Return our end, its descriptor and its inode. It has half-closed."""
        _, fd, inode = map(int, self.do("connect"))
        near = self._stack.enter_context(self._listener.accept()[0])
        poll = select.poll()
        poll.register(near, select.POLLRDHUP)
        assert poll.poll(PATIENCE_S * 1000)
        return near, fd, inode


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.settimeout(PATIENCE_S)
        path = os.pathsep.join([str(ROOT_FOLDER.parent), str(ROOT_FOLDER)])
        command = [sys.executable, SERVERS / "farend_peer.py", str(listener.getsockname()[1])]
        environment = clean_environment(PYTHONPATH=path)
        program = stack.enter_context(running(command, tmp_path, environment))
        assert program.line() == ["ready"]
        yield Peer(program, listener, stack)
        assert program.end() == 0, program.errors()
        assert program.errors() == ""


# -- two guarded processes -------------------------------------------------------------


def test_the_side_in_close_wait_learns_who_half_closed_and_where_it_was_made(peer, exchange):
    with hooks() as registry:
        near, fd, inode = peer.connection()
        record = next(record for record, sock in registry.live() if sock is near)
        far = FarEnds(registry, 32).find(record, budget_ns=int(PATIENCE_S * 1e9))
    assert far is not None
    assert (far.pid, far.fd, far.inode, far.held) == (peer.pid, fd, inode, True)
    # FIN_WAIT_1 until our kernel has acknowledged its FIN, up to 40 ms.
    assert far.state in (TcpState.FIN_WAIT_1, TcpState.FIN_WAIT_2)
    assert far.created is None
    assert exchange.ask(far.pid, far.inode, far.fd)
    far = replace(far, created=answer_to(exchange, far.inode))
    assert far.created.thread == "MainThread"
    files = [(Path(frame.file).name, frame.function) for frame in far.created.stack]
    assert ("farend_peer.py", "connect") in files
    line = far.created.stack[files.index(("farend_peer.py", "connect"))].line
    assert "create_connection" in linecache.getline(str(SERVERS / "farend_peer.py"), line or 0)
    assert exchange.answers() == {}, "each answer once"

    assert peer.do("close") == ["closed"]
    with hooks() as registry:
        again = socket.socket(fileno=near.detach())
        closed = FarEnds(registry, 32).find(registry.by_fd[again.fileno()])
        again.close()
    assert closed is not None
    assert closed.is_closed
    assert (closed.pid, closed.inode) == (None, None)


def test_many_may_be_asked_for_at_once(peer, exchange):
    ends = [peer.connection() for _ in range(5)]
    for _, fd, inode in ends:
        assert exchange.ask(peer.pid, inode, fd)
    answers: dict[int, Origin] = {}
    while len(answers) < len(ends):
        assert mail_came(exchange)
        exchange.answer_all(knows_nothing)
        answers.update(exchange.answers())
    assert set(answers) == {inode for _, _, inode in ends}
    assert exchange._asked == {}


def test_a_number_that_is_another_sockets_now_gets_no_answer(peer, exchange):
    _, _, inode = peer.connection()
    _, other_fd, other = peer.connection()
    assert exchange.ask(peer.pid, inode, other_fd)
    assert exchange.ask(peer.pid, other, other_fd)  # answered in order
    answer_to(exchange, other)
    assert inode in exchange._asked


def test_a_process_without_a_guard_is_not_asked(exchange):
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        assert not exchange.ask(process.pid, 1, 3)
    assert exchange._asked == {}


# -- who is refused --------------------------------------------------------------------


@as_root
def test_another_user_is_refused_though_he_takes_a_name_of_ours(peer, exchange):
    assert peer.do(f"become {NOBODY}") == ["done"]
    assert not exchange.ask(peer.pid, 1, 3), "it has a name of its own user's now"
    assert peer.do(f"question {os.getpid()} 1 3") == ["asked"]
    assert mail_came(exchange)
    exchange.answer_all(unexpected)


@as_root
def test_who_may_more_than_his_user_has_no_exchange():
    os.seteuid(NOBODY)
    try:
        with closing(Exchange()) as exchange:
            exchange.answer_all(unexpected)
            assert exchange._sock is None
    finally:
        os.seteuid(0)


@as_root
def test_a_far_end_of_another_users_is_told_without_its_process(peer):
    peer.connection()
    assert peer.do("look") == [str(os.getpid()), "True"]
    assert peer.do(f"become {NOBODY}") == ["done"]
    assert peer.do("look") == ["None", "True"]


@as_root
def test_another_user_is_not_asked(peer, exchange):
    assert peer.do(f"become {NOBODY}") == ["done"]
    assert peer.do(f"ask {os.getpid()} 1 3") == ["0"]


def test_the_same_user_under_a_name_that_is_not_his_pids_is_refused(exchange):
    question = json.dumps({"inode": 1, "fd": 3}).encode()
    for name in (b"\0a name of its own", name_of(exchange) + b"0"):
        with a_stranger(name) as stranger:
            stranger.sendto(question, name_of(exchange))
            assert mail_came(exchange)
            exchange.answer_all(unexpected)
    with a_stranger() as stranger:  # of no name at all
        stranger.sendto(question, name_of(exchange))
        assert mail_came(exchange)
        exchange.answer_all(unexpected)


def test_an_answer_that_nobody_asked_for_is_dropped(exchange):
    to_itself(exchange, encode_answer(7, an_origin(a_frame())))
    exchange.answer_all(unexpected)
    assert exchange.answers() == {}


def test_an_answer_counts_only_from_who_was_asked(peer, exchange):
    _, fd, inode = peer.connection()
    assert exchange.ask(peer.pid, inode, fd)
    to_itself(exchange, encode_answer(inode, an_origin(a_frame("forged"))))
    assert "forged" not in [frame.function for frame in answer_to(exchange, inode).stack]


GARBAGE = {
    "empty": b"",
    "cut": b'{"inode": 1, "fd"',
    "no object": b"[1, 2]",
    "nested": b"[" * 8000,
    "no text": b"\xff\xfe\xfd",
    "no inode": b'{"fd": 3}',
    "inode is true": b'{"inode": true, "fd": 3}',
    "inode is a float": b'{"inode": 1.5, "fd": 3}',
    "inode is infinite": b'{"inode": Infinity, "fd": 3}',
    "inode is huge": b'{"inode": ' + b"9" * 5000 + b', "fd": 3}',
    "fd is a word": b'{"inode": 1, "fd": "3"}',
    "oversized": b'{"inode": 1, "fd": 3}' + b" " * MAX_BYTES,
    "no origin": b'{"inode": 5}',
    "origin is a list": b'{"inode": 5, "created": []}',
    "no stack": b'{"inode": 5, "created": {"thread": "a"}}',
    "stack of words": b'{"inode": 5, "created": {"stack": ["a"]}}',
    "line is a word": b'{"inode": 5, "created": {"stack": [["a", "b", "c"]]}}',
    "thread is a number": b'{"inode": 5, "created": {"stack": [], "thread": 5}}',
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_dropped_and_what_comes_behind_it_is_read(data, exchange):
    exchange._asked[5] = os.getpid()
    to_itself(exchange, data)
    to_itself(exchange, json.dumps({"inode": 1, "fd": 4}).encode())
    asked: list[tuple[int, int]] = []

    def lookup(inode: int, fd: int) -> Origin | None:
        asked.append((inode, fd))
        return None

    exchange.answer_all(lookup)
    assert asked == [(1, 4)]
    assert exchange.answers() == {}


def test_descriptors_that_are_sent_along_do_not_arrive(exchange):
    before = set(os.listdir("/proc/self/fd"))
    with a_stranger() as stranger, open(os.devnull, "rb") as file:
        stranger.connect(name_of(exchange))
        socket.send_fds(stranger, [b"{}"], [file.fileno()] * 3)
    exchange.answer_all(unexpected)
    assert set(os.listdir("/proc/self/fd")) == before


# -- bounds ----------------------------------------------------------------------------


def flood(name: bytes) -> int:
    """Send until the queue is full; return how many went out."""
    with a_stranger() as stranger:
        for sent in range(100_000):
            try:
                stranger.sendto(b"x" * 1000, name)
            except BlockingIOError:
                return sent
    raise AssertionError("the kernel takes any number")


def test_a_flood_fills_the_queue_and_no_more(exchange):
    assert flood(name_of(exchange)) > 0
    for _ in range(1000):
        exchange.answer_all(unexpected)
        if not select.select([exchange._sock], [], [], 0)[0]:
            break
    to_itself(exchange, b'{"inode": 1, "fd": 4}')
    asked: list[int] = []
    exchange.answer_all(lambda inode, fd: asked.append(inode))
    assert asked == [1]


def test_a_turn_ends_though_more_comes_in_all_the_time(exchange):
    asked: list[int] = []

    def lookup(inode: int, fd: int) -> Origin | None:
        asked.append(inode)
        to_itself(exchange, b'{"inode": 1, "fd": 4}')
        return None

    to_itself(exchange, b'{"inode": 1, "fd": 4}')
    exchange.answer_all(lookup)
    assert len(asked) == MAX_TURN


def test_a_stopped_peer_holds_nobody_and_answers_when_it_goes_on(peer, exchange):
    _, fd, inode = peer.connection()
    assert peer.do("stop") == ["stopping"]
    os.waitid(os.P_PID, peer.pid, os.WSTOPPED)
    try:
        taken = 0
        while taken < 100_000 and exchange.ask(peer.pid, inode, fd):
            taken += 1
        assert 0 < taken < 100_000, "its queue is full, and we are not held"
        exchange.answer_all(knows_nothing)
        assert exchange.answers() == {}
    finally:
        os.kill(peer.pid, signal.SIGCONT)
    assert "connect" in [frame.function for frame in answer_to(exchange, inode).stack]


def test_open_questions_are_bounded(exchange):
    for inode in range(MAX_ASKED + 10):
        assert exchange.ask(os.getpid(), inode, 3)
        exchange.answer_all(knows_nothing)
    assert len(exchange._asked) == MAX_ASKED
    assert 0 not in exchange._asked


@pytest.mark.parametrize(
    "made",
    [
        an_origin(*(Frame(f"/srv/{'long' * 60}/{n}.py", n, "f" * 90) for n in range(64))),
        an_origin(*(a_frame(line=n) for n in range(1000))),
        an_origin(Frame("/" + "\N{PILE OF POO}" * 5000, 1, "f"), thread="\N{PILE OF POO}" * 5000),
        an_origin(a_frame(), thread="\udc80" * 5000, task="\N{PILE OF POO}" * 5000),
    ],
    ids=["long names", "many frames", "a huge frame", "huge words"],
)
def test_an_answer_fits_and_keeps_the_innermost_frames(made, exchange):
    data = encode_answer(7, made)
    assert len(data) <= MAX_BYTES
    exchange._asked[7] = os.getpid()
    to_itself(exchange, data)
    exchange.answer_all(unexpected)
    told = exchange.answers()[7].stack
    assert told == made.stack[: len(told)]
    assert len(told) > 0 or len(made.stack) == 1


def test_an_origin_arrives_as_it_was_sent(exchange):
    made = an_origin(
        a_frame(),
        Frame("<string>", None, "<module>"),
        thread="Thread-1",
        task="Task-7",
        trace_id="0" * 31 + "1",
        span_id="0" * 15 + "2",
        trace_flags=1,
    )
    assert exchange.ask(os.getpid(), 7, 3)
    exchange.answer_all(lambda inode, fd: made if (inode, fd) == (7, 3) else None)
    assert exchange.answers() == {7: made}  # its own question and answer: one turn


# -- our descriptor --------------------------------------------------------------------


def test_nothing_is_opened_before_it_is_used_and_nothing_is_left():
    before = set(os.listdir("/proc/self/fd"))
    with closing(Exchange()) as exchange:
        assert set(os.listdir("/proc/self/fd")) == before
        exchange.answer_all(knows_nothing)
        (ours,) = {int(fd) for fd in set(os.listdir("/proc/self/fd")) - before}
        assert ours >= descriptors.HIGH
        assert not os.get_inheritable(ours)
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("use", ["close", "answer_all", "ask"])
def test_a_number_that_is_the_programs_now_is_left_alone(use, tmp_path):
    exchange = Exchange()
    exchange.answer_all(knows_nothing)
    number = exchange._sock.fileno()
    with a_stranger() as theirs:
        os.dup2(theirs.fileno(), number)  # as a daemon does: all closed, then its own
        mine = descriptors.identity(number)
        uses: dict[str, Callable[[], object]] = {
            "close": exchange.close,
            "answer_all": lambda: exchange.answer_all(knows_nothing),
            "ask": lambda: exchange.ask(os.getpid(), 1, 3),
        }
        uses[use]()
        assert descriptors.identity(number) == mine
        if use != "close":
            assert exchange._sock.fileno() != number
            exchange.close()
        assert descriptors.identity(number) == mine
        os.close(number)


def test_a_program_that_closes_everything_answers_again(peer, exchange):
    peer.connection()
    assert peer.do("closerange") == ["closed"]
    _, fd, inode = peer.connection()
    assert exchange.ask(peer.pid, inode, fd)
    assert answer_to(exchange, inode).stack


def test_a_forked_child_answers_for_itself_and_so_does_the_parent(peer, exchange):
    _, fd, inode = peer.connection()
    assert peer.do(f"ask {os.getpid()} 1 3") == ["1"]
    child, inherited_is_closed, asked = map(int, peer.do("fork"))
    assert inherited_is_closed
    assert asked == 0, "that was the parent's question"
    for pid in (child, peer.pid):
        assert exchange.ask(pid, inode, fd)
        assert "connect" in [frame.function for frame in answer_to(exchange, inode).stack]


def test_a_name_that_is_taken_is_a_matter_of_later(exchange):
    found = set(os.listdir("/proc/self/fd"))
    with closing(Exchange()) as second:  # our own name, by the first
        second.answer_all(unexpected)
        assert not second.ask(os.getpid(), 1, 3)
        assert second._sock is None
        before = time.monotonic_ns()
        assert second._retry_ns > before
        assert set(os.listdir("/proc/self/fd")) == found
        exchange.close()
        second.answer_all(unexpected)
        assert second._sock is None, "not before its time"
        second._retry_ns = before
        second.answer_all(unexpected)
        assert second._sock is not None


AT_EXIT = """
import gc, os, sys
from sockguard.exchange import Exchange
exchange = Exchange()
exchange.answer_all(lambda inode, fd: None)
assert exchange._sock is not None
number = exchange._sock.fileno()
class Node: pass
node = Node()
node.itself, node.exchange = node, Exchange()
node.exchange._sock = type(exchange._sock)()
low = node.exchange._sock.fileno()
del node
gc.collect()
os.fstat(low)  # freed, it has closed nothing
"""


def test_being_freed_closes_nothing_and_warns_of_nothing():
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "always::ResourceWarning", "-c", AT_EXIT],
        env=clean_environment(PYTHONPATH=str(ROOT_FOLDER.parent)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


FORBIDDEN = """
import sys
def forbid(event, args):
    if event in ("socket.bind", "socket.sendto"):
        raise PermissionError(event) if sys.argv[1] == "os" else ValueError(event)
if sys.argv[2] == "bind":
    sys.addaudithook(forbid)
from sockguard.exchange import Exchange
exchange = Exchange()
exchange.answer_all(lambda inode, fd: None)
if sys.argv[2] == "sendto":
    sys.addaudithook(forbid)
assert not exchange.ask(1, 2, 3)
exchange.answer_all(lambda inode, fd: None)
exchange.close()
"""


@pytest.mark.parametrize("call", ["bind", "sendto"])
@pytest.mark.parametrize("error", ["os", "other"])
def test_where_it_is_forbidden_there_is_none(error, call):
    done = subprocess.run(
        [sys.executable, "-c", FORBIDDEN, error, call],
        env=clean_environment(PYTHONPATH=str(ROOT_FOLDER.parent)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
