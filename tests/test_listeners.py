"""Which listening socket accepted a connection: real listeners on loopback."""

from __future__ import annotations

import contextlib
import queue
import socket
import socketserver
import threading
import warnings
from collections.abc import Iterator

import pytest
from support.builders import a_record, a_tracked

from sockguard import endpoints
from sockguard.config import Config
from sockguard.findings import Kind
from sockguard.guard import Guard
from sockguard.listeners import MAX_LISTENERS, Listeners
from sockguard.registry import Registry


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def listeners(registry) -> Listeners:
    return Listeners(registry)


@pytest.fixture
def opened() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def listen(opened: contextlib.ExitStack, host: str, port: int = 0, *, both: bool = False):
    """Open a TCP listener; ``both``: one that takes IPv4 on an IPv6 address, too."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = opened.enter_context(socket.socket(family))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if both else 1)
    sock.bind((host, port))
    sock.listen()
    return sock


def accepted_address(
    opened: contextlib.ExitStack, server: socket.socket, host: str = ""
) -> str | None:
    """Connect to ``server``; return the local address of what it accepted."""
    address = server.getsockname()
    if host:
        address = (host, address[1])
    family = socket.AF_UNIX if isinstance(address, (str, bytes)) else socket.AF_INET
    if ":" in (host or str(address[0])) and family == socket.AF_INET:
        family = socket.AF_INET6
    client = opened.enter_context(socket.socket(family))
    client.connect(address)
    taken, _ = server.accept()
    opened.enter_context(taken)
    return endpoints.render(endpoints.raw_local(taken))


def port_of(sock: socket.socket) -> int:
    port: int = sock.getsockname()[1]
    return port


def test_a_listener_is_found_by_its_exact_address(registry, listeners, opened):
    server = listen(opened, "127.0.0.1")
    a_tracked(registry, listen(opened, "127.0.0.1"))
    record = a_tracked(registry, server)

    assert listeners.find(accepted_address(opened, server), 1) is record


@pytest.mark.parametrize(
    ("bound", "reached", "both"),
    [
        ("0.0.0.0", "127.0.0.1", False),
        ("::1", "::1", False),
        ("::", "::1", False),
        ("::", "127.0.0.1", True),  # seen as [::ffff:127.0.0.1]
    ],
)
def test_a_listener_is_found_by_its_wildcard_address(
    registry, listeners, opened, bound, reached, both
):
    server = listen(opened, bound, both=both)
    record = a_tracked(registry, server)

    assert listeners.find(accepted_address(opened, server, reached), 1) is record


def test_an_exact_listener_goes_before_a_wildcard_one(registry, listeners):
    exact, wildcard = a_record(), a_record()
    listeners._by_address.update({"0.0.0.0:80": wildcard, "127.0.0.1:80": exact})

    assert listeners.find("127.0.0.1:80", 1) is exact
    assert listeners.find("127.0.0.2:80", 1) is wildcard


def test_an_ipv6_connection_is_not_laid_to_the_ipv4_listener_of_that_port(
    registry, listeners, opened
):
    old = listen(opened, "0.0.0.0")
    new = listen(opened, "::", port_of(old))
    records = a_tracked(registry, old), a_tracked(registry, new)

    assert listeners.find(accepted_address(opened, old, "127.0.0.1"), 1) is records[0]
    assert listeners.find(accepted_address(opened, new, "::1"), 1) is records[1]


def test_a_unix_listener_is_found_by_its_path(registry, listeners, opened, tmp_path):
    server = opened.enter_context(socket.socket(socket.AF_UNIX))
    server.bind(str(tmp_path / "s"))
    server.listen()
    record = a_tracked(registry, server)

    assert listeners.find(accepted_address(opened, server), 1) is record


def test_a_unix_path_with_a_colon_is_not_taken_for_a_port(registry, listeners, opened):
    server = listen(opened, "0.0.0.0")
    a_tracked(registry, server)

    assert listeners.find(f"/run/service:{port_of(server)}", 1) is None


def test_an_abstract_unix_listener_is_found(registry, listeners, opened):
    server = opened.enter_context(socket.socket(socket.AF_UNIX))
    server.bind(b"\0sockguard-test-%d" % id(opened))
    server.listen()
    record = a_tracked(registry, server)

    assert listeners.find(accepted_address(opened, server), 1) is record


def test_a_listener_that_was_seen_once_is_known_after_it_closed(registry, listeners, opened):
    server = listen(opened, "127.0.0.1")
    record = a_tracked(registry, server)
    address = accepted_address(opened, server)
    listeners.find(address, 1)

    server.close()

    assert listeners.find(address, 2) is record


def test_a_new_listener_at_an_old_address_is_the_one_that_is_named(registry, listeners, opened):
    old = listen(opened, "127.0.0.1")
    address = endpoints.render(old.getsockname())
    a_tracked(registry, old)
    listeners.find(address, 1)
    old.close()

    record = a_tracked(registry, listen(opened, "127.0.0.1", int(str(address).split(":")[1])))

    assert listeners.find(address, 2) is record


def test_a_listener_inherited_from_the_parent_is_found(registry, listeners, opened):
    server = listen(opened, "127.0.0.1")
    record = a_tracked(registry, server)
    registry.begin_child()

    assert listeners.find(accepted_address(opened, server), 1) is record


def test_a_listener_hidden_by_an_object_that_let_go_is_found(registry, listeners, opened):
    server = listen(opened, "127.0.0.1")
    record = a_tracked(registry, server)
    later = socket.socket(fileno=server.fileno())
    a_tracked(registry, later, previous=record)
    later.detach()

    assert listeners.find(accepted_address(opened, server), 1) is record


def test_a_socket_freed_unclosed_is_laid_to_its_listener_too():
    """One bug, one name: the same accept loop, one socket kept and one dropped."""
    guard = Guard(Config(level="full", threshold=0.0), watches=False, finalizes=True)
    guard.start()
    taken: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
    server = socketserver.TCPServer(("127.0.0.1", 0), None)
    server.process_request = lambda request, address: taken.put(request)
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    try:
        socket.create_connection(server.server_address).close()
        sock = taken.get(timeout=10)
        sock.settimeout(10)
        assert sock.recv(1) == b""
        (kept,) = [finding for finding in guard.check() if finding.fd == sock.fileno()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del sock
        (dropped,) = [finding for finding in guard.check() if finding.kind is Kind.COLLECTED]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        guard.stop()

    assert kept.listener is not None
    assert (dropped.fingerprint, dropped.listener) == (kept.fingerprint, kept.listener)


@pytest.mark.parametrize("local", [None, "127.0.0.1:1", "/nowhere"])
def test_nobody_is_named_where_nobody_listens(registry, listeners, opened, local):
    a_tracked(registry, listen(opened, "127.0.0.1"))

    assert listeners.find(local, 1) is None


def test_a_socket_that_is_only_bound_is_no_listener(registry, listeners, opened):
    bound = opened.enter_context(socket.socket())
    bound.bind(("127.0.0.1", 0))
    a_tracked(registry, bound)

    assert listeners.find(endpoints.render(bound.getsockname()), 1) is None


def test_an_address_of_a_family_that_we_do_not_judge_breaks_nothing():
    # AF_VSOCK's are two numbers; such a listener is met by every scan.
    assert endpoints.render((2, 1024)) == "2:1024"


def test_all_sockets_are_scanned_once_a_tick_at_most(registry, listeners, opened):
    assert listeners.find("127.0.0.1:1", 1) is None
    server = listen(opened, "127.0.0.1")
    record = a_tracked(registry, server)
    address = endpoints.render(server.getsockname())

    assert listeners.find(address, 1) is None
    assert listeners.find(address, 2) is record


def test_the_table_of_listeners_is_bounded(registry, listeners, opened):
    record = a_record()
    listeners._by_address.update({f"10.0.0.1:{n}": record for n in range(MAX_LISTENERS)})
    server = listen(opened, "127.0.0.1")
    a_tracked(registry, server)

    assert listeners.find(endpoints.render(server.getsockname()), 1) is not None
    assert len(listeners._by_address) == 1
