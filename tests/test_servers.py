"""Real servers under guard: each leak found once, at its line, as many as the kernel shows."""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import trustme
from support import kernel
from support.ldjson import (
    Line,
    leaks,
    line_of,
    lines_in,
    summaries,
    wait_for,
    wait_for_leaks,
)
from support.programs import SERVERS, Program, guarded, running, service_environment

import sockguard

CLIENTS = 4  # the first five events of a group are all published
Connect = Callable[[], socket.socket]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "leaks.jsonl"


def visit(connect: Connect) -> None:
    """Come, be greeted and go: then the server has accepted, and nothing unread resets it."""
    with closing(connect()) as client:
        client.settimeout(20)
        assert client.recv(5) == b"hello"


def visits(output: Path, connect: Connect) -> list[Line]:
    for _ in range(CLIENTS):
        visit(connect)
    return wait_for_leaks(output, CLIENTS)


def assert_exact(output: Path, program: Program, count: int) -> None:
    """End the program: it leaked ``count`` sockets, said each once, and had no complaint."""
    assert program.end() == 0, program.errors()
    assert program.errors() == ""
    assert len({line["fd"] for line in leaks(output)}) == len(leaks(output)) == count
    assert {line["pid"] for line in leaks(output)} == {program.pid}
    summary = summaries(output)[program.pid]
    assert (summary["leaked"], summary["open_at_exit"]) == (count, [])
    assert [group["open"] for group in summary["groups"]] == [count]


def test_a_threaded_server_is_found_at_its_accept(output: Path) -> None:
    file = SERVERS / "threaded_server.py"
    with guarded(output, file.name, "inet") as program:
        port = int(program.line()[1])
        found = visits(output, lambda: socket.create_connection(("127.0.0.1", port)))
        assert kernel.close_wait(program.pid) == CLIENTS
        for line in found:
            assert lines_in(line["created"]["stack"], file)[0] == line_of(file, ".accept()")
            assert line["created"]["stack"][0]["function"] == "serve"
            opened = lines_in(line["listener"]["stack"], file)
            assert opened[0] == line_of(file, 'create_server(("127.0.0.1"')
            assert (line["kind"], line["state"]) == ("peer_closed", "close_wait")
            assert line["local"] == f"127.0.0.1:{port}"
        assert_exact(output, program, CLIENTS)


def test_an_ipv6_server_is_found(output: Path) -> None:
    file = SERVERS / "threaded_server.py"
    with guarded(output, file.name, "inet6") as program:
        port = int(program.line()[1])
        found = visits(output, lambda: socket.create_connection(("::1", port)))
        assert kernel.close_wait(program.pid) == CLIENTS
        for line in found:
            assert lines_in(line["created"]["stack"], file)[0] == line_of(file, ".accept()")
            assert line["local"] == f"[::1]:{port}"
            assert line["peer"].startswith("[::1]:")
        assert_exact(output, program, CLIENTS)


def test_a_unix_domain_server_is_found(output: Path, tmp_path: Path) -> None:
    file = SERVERS / "threaded_server.py"
    path = str(tmp_path / "s")

    def connect() -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(path)
        return client

    with guarded(output, file.name, "unix", path) as program:
        assert program.line() == ["ready", path]
        found = visits(output, connect)
        assert kernel.unix_connections(program.pid, path) == CLIENTS
        for line in found:
            assert lines_in(line["created"]["stack"], file)[0] == line_of(file, ".accept()")
            assert (line["kind"], line["state"]) == ("peer_closed", None)
            assert line["local"] == path
        assert_exact(output, program, CLIENTS)


def test_an_asyncio_server_is_found_at_its_listener(output: Path) -> None:
    file = SERVERS / "asyncio_server.py"
    with guarded(output, file.name) as program:
        port = int(program.line()[1])
        found = visits(output, lambda: socket.create_connection(("127.0.0.1", port)))
        assert kernel.close_wait(program.pid) == CLIENTS
        for line in found:
            # asyncio accepts: of the program's own lines only asyncio.run() is below.
            assert lines_in(line["created"]["stack"], file) == [line_of(file, "asyncio.run(")]
            opened = lines_in(line["listener"]["stack"], file)
            assert opened[0] == line_of(file, "start_server(")
        assert_exact(output, program, CLIENTS)


def test_a_socket_is_judged_by_the_family_that_the_kernel_gives_it() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as inherited,
        # `uvicorn --fd` says so of every listener, and the accepted sockets repeat it.
        socket.fromfd(inherited.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as listener,
        sockguard.watch() as guard,
    ):
        client = socket.create_connection(inherited.getsockname())
        with listener.accept()[0] as server:
            client.close()
            (finding,) = guard.check()
            assert finding.fd == server.fileno()


# -- TLS -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the files of an authority's certificate, and of a server's with its key."""
    folder = tmp_path_factory.mktemp("tls")
    root = trustme.CA()
    root.cert_pem.write_to_path(folder / "root.pem")
    root.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(folder / "s.pem")
    return folder / "root.pem", folder / "s.pem"


def test_a_tls_server_is_found_at_the_accept_of_the_plain_socket(
    output: Path, authority: tuple[Path, Path]
) -> None:
    root, certificate = authority
    file = SERVERS / "tls_server.py"
    context = ssl.create_default_context(cafile=str(root))

    with guarded(output, file.name, certificate) as program:
        port = int(program.line()[1])

        def connect() -> socket.socket:
            plain = socket.create_connection(("127.0.0.1", port))
            return context.wrap_socket(plain, server_hostname="localhost")

        found = visits(output, connect)
        assert kernel.close_wait(program.pid) == CLIENTS
        for line in found:
            assert lines_in(line["created"]["stack"], file)[0] == line_of(file, ".accept()")
            assert line_of(file, ".wrap_socket(") not in lines_in(line["created"]["stack"], file)
            assert lines_in(line["listener"]["stack"], file) == [line_of(file, "create_server(")]
        assert_exact(output, program, CLIENTS)


def test_a_tls_client_is_found_at_the_connect_of_the_plain_socket(
    output: Path, authority: tuple[Path, Path]
) -> None:
    root, certificate = authority
    file = SERVERS / "tls_client.py"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        arguments = (str(listener.getsockname()[1]), root, str(CLIENTS))
        with guarded(output, file.name, *arguments) as program:
            for _ in range(CLIENTS):
                plain, _ = listener.accept()
                plain.settimeout(20)
                context.wrap_socket(plain, server_side=True).close()
            assert program.line() == ["ready"]
            found = wait_for_leaks(output, CLIENTS)
            assert kernel.close_wait(program.pid) == CLIENTS
            for line in found:
                own = lines_in(line["created"]["stack"], file)
                assert own[0] == line_of(file, "create_connection(")
                assert line_of(file, ".wrap_socket(") not in own
                assert line["peer"] == f"127.0.0.1:{listener.getsockname()[1]}"
                assert line["verdict"] == "unread"
            assert_exact(output, program, CLIENTS)


# -- services with workers, by SOCKGUARD=1 in the environment and no change of code -----

WORKERS = 2


def ask(port: int) -> int:
    """Send one HTTP request; return the process id that a worker answers."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        with client.makefile("rb") as answer:
            head, _, body = answer.read().partition(b"\r\n\r\n")
    assert b" 200 " in head
    return int(body)


@contextmanager
def service(
    output: Path, words: list[str], environment: dict[str, str]
) -> Iterator[tuple[Program, int, socket.socket]]:
    """Run a server that takes its listener from us; yield it, its port, and the upstream."""
    with socket.create_server(("127.0.0.1", 0)) as listener, upstream() as behind:
        fd = listener.fileno()
        command = [sys.executable, "-m", *(word.format(fd=fd) for word in words)]
        environment["UPSTREAM"] = str(behind.getsockname()[1])
        with running(command, output.parent, environment, pass_fds=[fd]) as program:
            yield program, listener.getsockname()[1], behind


@contextmanager
def upstream() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        yield listener


def hang_up(listener: socket.socket, connections: int) -> None:
    """Close each of the connections that wait; fail if there is another."""
    for _ in range(connections):
        listener.accept()[0].close()
    listener.settimeout(0)
    with pytest.raises(BlockingIOError):
        listener.accept()


def all_workers(port: int) -> set[int]:
    """Ask until every worker has answered once."""
    pids: set[int] = set()
    wait_for("all workers", lambda: pids.add(ask(port)) or len(pids) == WORKERS)
    return pids


GUNICORN = ["gunicorn", "--no-control-socket", "--bind", "fd://{fd}", "--workers", str(WORKERS)]
GUNICORN += ["--pythonpath", str(SERVERS)]
UVICORN = ["uvicorn", "--app-dir", str(SERVERS), "--fd", "{fd}", "--workers", str(WORKERS)]
UVICORN += ["--lifespan", "off"]


@pytest.mark.parametrize(
    ("words", "file", "call"),
    [
        ([*GUNICORN, "-k", "sync", "wsgi_app:app"], "wsgi_app.py", "create_connection("),
        (
            [*GUNICORN, "-k", "gthread", "--threads", "2", "wsgi_app:app"],
            "wsgi_app.py",
            "create_connection(",
        ),
        ([*UVICORN, "asgi_app:app"], "asgi_app.py", "open_connection("),
    ],
    ids=["gunicorn-sync", "gunicorn-gthread", "uvicorn"],
)
def test_each_worker_s_leak_is_reported_once_by_its_own_process(
    output: Path, words: list[str], file: str, call: str
) -> None:
    environment = service_environment(output)
    with service(output, words, environment) as (program, port, behind):
        pids = all_workers(port)
        hang_up(behind, WORKERS)
        found = wait_for_leaks(output, WORKERS)
        assert sorted(line["pid"] for line in found) == sorted(pids)
        assert program.pid not in pids
        path = SERVERS / file
        for line in found:
            assert lines_in(line["created"]["stack"], path) == [line_of(path, call)]
            assert line["peer"] == "127.0.0.1:" + environment["UPSTREAM"]
            assert kernel.close_wait(line["pid"]) == 1
        assert len({line["fingerprint"] for line in found}) == 1
        program.terminate()
        assert len(leaks(output)) == WORKERS
        assert "sockguard" not in program.errors()
