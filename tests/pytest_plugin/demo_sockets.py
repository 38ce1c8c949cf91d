"""Plain sockets and threads. The name of each test says what is to come out."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import threading

import pytest
from conftest import KEPT, ask, meet_the_end


def test_leaks_a_client_that_is_not_closed(one_line):
    KEPT.append(ask(one_line))


def test_clean_a_client_that_is_closed(one_line):
    ask(one_line).close()


def test_clean_fifty_short_connections(one_line):
    for _ in range(50):
        ask(one_line).close()


def test_leaks_a_server_that_forgets_to_close_when_it_fails():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            KEPT.append(sock)
            try:
                sock.recv(100).decode("ascii")
                sock.close()
            except UnicodeDecodeError:
                pass  # and no close

        thread = threading.Thread(target=serve)
        thread.start()
        with socket.create_connection(listener.getsockname()) as client:
            client.sendall(b"\xff")
            thread.join()


def test_leaks_over_ipv6():
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        KEPT.append(socket.create_connection(listener.getsockname()[:2]))
        listener.accept()[0].close()


def test_leaks_one_end_of_a_pair():
    near, far = socket.socketpair()
    KEPT.append(near)
    far.close()


def test_clean_a_pair_that_is_still_connected():
    KEPT.extend(socket.socketpair())


def test_clean_a_listener_that_stays():
    KEPT.append(socket.create_server(("127.0.0.1", 0)))


def test_leaks_a_connection_that_was_reset():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        KEPT.append(socket.create_connection(listener.getsockname()))
        accepted = listener.accept()[0]
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()


def test_leaks_a_file_made_of_a_socket_that_was_closed(one_line):
    sock = ask(one_line)
    KEPT.append(sock.makefile("rb"))
    sock.close()


def test_clean_a_file_that_is_closed_too(one_line):
    sock = ask(one_line)
    with sock.makefile("rb"):
        sock.close()


def test_leaks_what_only_an_exception_holds(one_line):
    def work() -> None:
        sock = ask(one_line)
        raise ValueError(f"no good, {sock.fileno()}")

    with pytest.raises(ValueError, match="no good") as caught:
        work()
    KEPT.append(caught)


def test_clean_a_cycle_that_only_the_collector_frees(one_line):
    class Connection:
        def __init__(self, sock: socket.socket) -> None:
            self.sock = sock
            self.self = self

        def __del__(self) -> None:
            self.sock.close()

    Connection(ask(one_line))


def test_clean_a_closer_that_takes_its_time(one_line):
    sock = ask(one_line)
    threading.Timer(0.1, sock.close).start()


def test_clean_a_descriptor_closed_by_its_number(one_line):
    os.close(ask(one_line).detach())


def test_leaks_a_duplicate(one_line):
    with ask(one_line) as sock:
        KEPT.append(sock.dup())


def test_clean_a_half_close_that_is_answered(until_the_end):
    with socket.create_connection(until_the_end) as sock:
        sock.sendall(b"hello\n")
        sock.shutdown(socket.SHUT_WR)
        assert sock.makefile("rb").read() == b"hello\n"


def tls_pair(certificates):
    server, client = certificates
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepted = []

        def serve() -> None:
            plain, _ = listener.accept()
            accepted.append(server.wrap_socket(plain, server_side=True))

        thread = threading.Thread(target=serve)
        thread.start()
        plain = socket.create_connection(listener.getsockname())
        near = client.wrap_socket(plain, server_hostname="localhost")
        thread.join()
        return near, accepted[0]


def test_leaks_a_tls_client(certificates):
    near, far = tls_pair(certificates)
    KEPT.append(near)
    far.close()
    meet_the_end(near)


def test_clean_a_tls_client_that_is_closed(certificates):
    near, far = tls_pair(certificates)
    assert isinstance(near, ssl.SSLSocket)
    far.close()
    near.close()


@pytest.mark.parametrize("closes", [True, False], ids=["clean", "leaks"])
def test_depends(one_line, closes):
    sock = ask(one_line)
    KEPT.append(sock)
    if closes:
        sock.close()


def connected(address: tuple[str, int]) -> socket.socket:
    sock = socket.create_connection(address)
    sock.sendall(b"hello\n")
    assert sock.recv(100) == b"hello\n"  # so it has been accepted
    return sock


def test_leaks_what_shows_only_when_the_peer_closes(until_the_end, sockguard):
    KEPT.append(connected(until_the_end))
    assert sockguard.leaks() == []
    assert sockguard.close_peers() == 1


def test_clean_when_the_peer_closes(until_the_end, sockguard):
    with connected(until_the_end):
        assert sockguard.close_peers() == 1


def test_clean_pair_whose_far_end_is_closed_for_it(sockguard):
    near, far = socket.socketpair()
    with near, far:
        assert sockguard.close_peers() == 1
        assert near.recv(1) == b""


def test_clean_with_as_many_as_expected(one_line, sockguard):
    KEPT.append(ask(one_line))
    assert len(sockguard.leaks()) == 1
    sockguard.expect(1)


@pytest.mark.sockguard(allow=1)
def test_clean_as_one_is_allowed(one_line):
    KEPT.append(ask(one_line))


@pytest.mark.sockguard(allow=1)
def test_leaks_more_than_allowed(one_line):
    KEPT.extend([ask(one_line), ask(one_line)])


@pytest.mark.sockguard(ignore=["demo_sockets.py:.* test_clean_as_it_is_ignored"])
def test_clean_as_it_is_ignored(one_line):
    KEPT.append(ask(one_line))


@pytest.mark.sockguard(enabled=False)
def test_clean_as_nobody_looks(one_line):
    KEPT.append(ask(one_line))


@pytest.mark.sockguard(settle=1)
def test_clean_with_more_time(one_line):
    threading.Timer(0.4, ask(one_line).close).start()
