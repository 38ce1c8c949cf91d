"""Why does it stay open? Programs that really are in each situation, and some that look alike.

Those named "looks like" in their docstring differ from a neighbour in one thing, and must get
another verdict.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future

import pytest
from situations.staging import (
    POOLED,
    Report,
    Situation,
    check,
    performances,
    rows,
    selected,
)

A_SYNC_CONNECTION = (
    r" -> HTTPConnection\._connection -> HTTP11Connection\._network_stream -> SyncStream\._sock"
)
A_TRANSPORT = r"\._transport -> _SelectorSocketTransport\._sock"

MAKEFILE = (
    Situation(
        program="makefile_kept",
        verdict="makefile",
        held=(r"{app}\.READERS\[0\] -> BufferedReader\.raw -> SocketIO\._sock",),
    ),
    Situation(
        program="urlopen_kept",
        verdict="makefile",
        held=(
            r"{app}\.RESPONSES\[0\] -> HTTPResponse\.fp -> BufferedReader\.raw -> SocketIO\._sock",
        ),
    ),
    Situation(
        program="makefile_open_socket",
        verdict="unread",
        held=(r"{app}\.LINK\['socket'\]",),
    ),
)

POOLS = (
    Situation(
        program="requests_idle",
        verdict="pooled",
        why="idle in a pool",
        event=POOLED,
        held=(r".*HTTPConnectionPool.*",),
        needs=("requests",),
    ),
    Situation(
        program="httpx_idle",
        verdict="pooled",
        why="idle in a pool",
        event=POOLED,
        held=(r"{app}\.CLIENT -> .*ConnectionPool\._connections\[0\]" + A_SYNC_CONNECTION,),
        needs=("httpx",),
    ),
    Situation(
        program="redis_idle",
        verdict="pooled",
        why="idle in a pool",
        event=POOLED,
        held=(
            r"{app}\.CLIENT -> Redis\.connection_pool"
            r" -> ConnectionPool\._available_connections\[0\] -> Connection\._sock",
        ),
        needs=("redis",),
    ),
    Situation(
        program="http_client_idle",
        verdict="pooled",
        why="idle in a pool",
        event=POOLED,
        held=(r"{app}\.LINK -> HTTPConnection\.sock",),
    ),
    Situation(
        program="sessions_multiply",
        verdict="pooled",
        why=r"^\d pools made at one line",
        count=6,
        held=(r".*HTTPConnectionPool.*",),
        needs=("requests",),
    ),
    Situation(
        program="requests_stream",
        verdict="unread",
        held=(r"{app}\.RESPONSES\[0\] -> Response\.raw -> .*",),
        needs=("requests",),
    ),
    Situation(
        program="httpx_stream",
        verdict="unread",
        held=(r"{app}\.RESPONSES\[0\] -> Response\..* -> SyncStream\._sock",),
        needs=("httpx",),
    ),
    Situation(
        program="redis_taken",
        verdict="unread",
        held=(r"{app}\.TAKEN\[0\] -> Connection\._sock",),
        needs=("redis",),
    ),
    Situation(
        program="http_client_mid_response",
        verdict="unread",
        held=(r"{app}\.(LINK|RESPONSE) -> .*",),
    ),
)

STUCK = (
    Situation(
        program="thread_in_queue_get",
        verdict="stuck",
        held=(r"thread worker in {app}\.work: conn",),
        waits=r"thread worker: .*get \(queue\.py\) < work \({app}\.py\)",
    ),
    Situation(
        program="thread_with_argument",
        verdict="stuck",
        held=(r"thread worker in {app}\.handle: conn",),
        waits=r"thread worker: .*wait \(threading\.py\) < handle \({app}\.py\)",
    ),
    Situation(
        program="main_thread_waits",
        verdict="stuck",
        held=(r"thread MainThread in {app}\.main: client -> Client\._sock",),
        waits=r"thread MainThread: stay \(peer\.py\) < main \({app}\.py\)",
    ),
    Situation(
        program="requests_in_thread",
        verdict="stuck",
        held=(r"thread fetcher in {app}\.fetch: (response|session) -> .*",),
        waits=r"thread fetcher: .*put \(queue\.py\) < fetch \({app}\.py\)",
        needs=("requests",),
    ),
    Situation(
        program="task_in_event_wait",
        verdict="stuck",
        held=(r"task reporter in {app}\.handler: (reader|writer) -> Stream\w+" + A_TRANSPORT,),
        waits=r"task reporter: wait \(locks\.py\) < handler \({app}\.py\)",
    ),
    Situation(
        program="streams_server_handler",
        verdict="stuck",
        # The function's class and outer function are in its code from 3.11 on.
        held=(
            r"task Task-\d+ in {app}\.(serve\.<locals>\.)?handle: (reader|writer) -> Stream\w+"
            + A_TRANSPORT,
        ),
        waits=r"task Task-\d+: wait \(locks\.py\) < handle \({app}\.py\)",
    ),
    Situation(
        program="httpx_in_task",
        verdict="stuck",
        held=(r"task fetcher in .*: \w+ -> .*_SelectorSocketTransport\._sock",),
        waits=r"task fetcher: acquire \(locks\.py\) < fetch \({app}\.py\)",
        needs=("httpx",),
    ),
    Situation(
        program="thread_and_registry",
        verdict="unread",
        held=(r".*", r"{app}\.REGISTRY\['peer'\]", r"thread worker in {app}\.work: conn"),
    ),
    Situation(
        program="thread_and_deep_table",
        verdict="unread",
        held=(r".*", r"{app}\.APP -> Part\.parts\['database'\] -> .*Part\.parts\['link'\]"),
    ),
    Situation(
        program="thread_has_ended",
        verdict="unread",
        held=(r"{app}\.WORKERS\[0\] -> Worker\.conn",),
    ),
    Situation(
        program="task_has_ended",
        verdict="unread",
        held=(r"{app}\.TASKS\[0\] -> Task\.(_result|result\(\))",),
    ),
)

EXCEPTIONS = (
    Situation(
        program="exception_in_list",
        verdict="exception",
        held=(r"{app}\.ERRORS\[0\] -> ValueError\.__traceback__ -> {app}\.handle: sock",),
    ),
    Situation(
        program="exception_in_future",
        verdict="exception",
        held=(
            r"{app}\.FUTURES\[0\] -> Future\._exception -> LookupError\.__traceback__"
            r" -> {app}\.fetch: conn",
        ),
    ),
    Situation(
        program="exception_in_context",
        verdict="exception",
        held=(
            r"{app}\.ERRORS\[0\] -> RuntimeError\.__context__ -> ConnectionError\.__traceback__"
            r" -> {app}\.connect: sock",
        ),
    ),
    Situation(
        program="exception_and_list",
        verdict="unread",
        held=(
            r"{app}\.CONNECTIONS\['eu'\]\['busy'\]\[0\]",
            r"{app}\.ERRORS\[0\] -> ValueError\.__traceback__ -> {app}\.handle: sock",
        ),
    ),
    Situation(
        program="exception_and_deep_table",
        verdict="unread",
        held=(r".*", r"{app}\.APP -> Part\.parts\['database'\] -> .*Part\.parts\['link'\]"),
    ),
    Situation(
        program="exception_still_running",
        verdict="stuck",
        held=(r"thread worker in {app}\.work: conn",),
        waits=r"thread worker: .*wait \(threading\.py\) < work \({app}\.py\)",
    ),
)

CYCLES = (
    Situation(
        program="cycle_of_nodes",
        verdict="cycle",
        held=(r"a cycle: (Node\.other -> )*Node\._sock",),
    ),
    Situation(
        program="cycle_of_asyncio",
        verdict="cycle",
        held=(r"a cycle: (.* -> )?_SelectorSocketTransport\._sock",),
    ),
    Situation(
        program="cycle_through_traceback",
        verdict="cycle",
        held=(r"a cycle: .*{app}\.(Job\.)?run: sock",),
    ),
    Situation(
        program="cycle_within_reach",
        verdict="unread",
        held=(r"{app}\.NODES\[0\] -> Node\._sock",),
    ),
    Situation(
        program="cycle_in_frame",
        verdict="stuck",
        held=(r"thread worker in {app}\.work: node -> Node\._sock",),
        waits=r"thread worker: .*wait \(threading\.py\) < work \({app}\.py\)",
    ),
)

EOF_IGNORED = (
    Situation(
        program="eof_read_and_kept",
        verdict="eof_ignored",
        held=(r"{app}\.CONNECTIONS\['peer'\]",),
    ),
    Situation(
        program="eof_unregistered",
        verdict="eof_ignored",
        held=(r"{app}\.SESSIONS\['127\.0\.0\.1'\]",),
    ),
    Situation(
        program="half_open_protocols",
        verdict="eof_ignored",
        held=(r"{app}\.MEMBERS\{…\} -> Chat\.transport -> _SelectorSocketTransport\._sock",),
    ),
    Situation(
        program="read_but_not_the_end",
        verdict="unread",
        held=(r"{app}\.CONNECTIONS\['peer'\]",),
    ),
)

UNREAD = (
    Situation(
        program="httpx_response_dropped",
        verdict="unread",
        why=r"in use",
        held=(r"{app}\.CLIENT -> .*ConnectionPool\._connections\[0\]" + A_SYNC_CONNECTION,),
        needs=("httpx",),
    ),
    Situation(
        program="redis_dropped",
        verdict="unread",
        why=r"in use",
        held=(r"{app}\.POOL -> ConnectionPool\._in_use_connections\{…\} -> Connection\._sock",),
        needs=("redis",),
    ),
    Situation(
        program="paused_transport",
        verdict="unread",
        why=r"pause_reading",
        held=(r"{app}\.TRANSPORTS\[0\] -> _SelectorSocketTransport\._sock",),
    ),
    Situation(
        program="work_queue",
        verdict="unread",
        why=r"queue of work",
        held=(r"{app}\.WORK -> Queue\.queue\[0\]",),
    ),
    Situation(
        program="work_deque",
        verdict="unread",
        held=(r"{app}\.BACKLOG\[0\]\[0\]",),
    ),
    Situation(
        program="executor_queue",
        verdict="unread",
        why=r"queue of work",
        held=(r".*_WorkItem\.args\[0\]",),
    ),
)

UNKNOWN = (
    Situation(
        program="end_read_with_data",
        verdict="unknown",
        held=(r"{app}\.CONNECTIONS\[0\]",),
    ),
    Situation(
        program="socketserver_subscriber",
        verdict="unknown",
        held=(r"{app}\.SUBSCRIBERS\[0\]",),
    ),
)

SITUATIONS = (
    *MAKEFILE,
    *POOLS,
    *STUCK,
    *EXCEPTIONS,
    *CYCLES,
    *EOF_IGNORED,
    *UNREAD,
    *UNKNOWN,
)

# One of each verdict, and what looks most like it.
QUICK = {
    "makefile_kept",
    "makefile_open_socket",
    "http_client_idle",
    "http_client_mid_response",
    "requests_idle",
    "requests_stream",
    "thread_in_queue_get",
    "thread_and_registry",
    "task_in_event_wait",
    "exception_in_list",
    "exception_and_list",
    "cycle_of_nodes",
    "cycle_within_reach",
    "eof_read_and_kept",
    "read_but_not_the_end",
    "paused_transport",
    "end_read_with_data",
}


@pytest.fixture(scope="module")
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Report]]]:
    with performances(selected(request), tmp_path_factory.mktemp("verdicts")) as futures:
        yield futures


@pytest.mark.parametrize("situation", rows(SITUATIONS, QUICK))
def test_the_verdict_is_true(situation: Situation, running: dict[str, Future[Report]]) -> None:
    check(situation, running)
