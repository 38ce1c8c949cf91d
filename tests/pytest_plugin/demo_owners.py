"""Whose socket it is: fixtures, threads, executors, classes."""

from __future__ import annotations

import socket
import threading
import unittest
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import KEPT, OneLine, ask, serving

POOL: list[socket.socket] = []


def setup_module() -> None:
    global POOL
    POOL = []
    with serving(OneLine) as address:
        POOL.append(ask(address))


def teardown_module() -> None:
    for sock in POOL:
        sock.close()


def test_clean_what_the_module_keeps(one_line):
    POOL.append(ask(one_line))


@pytest.fixture
def leaking(one_line):
    KEPT.append(ask(one_line))


def test_leaks_by_its_fixture(leaking):
    """The fixture is the test's."""


def test_clean_without_the_fixture():
    """What the test before left behind is not this one's."""


def test_leaks_a_client_of_the_sessions_server(session_one_line):
    KEPT.append(ask(session_one_line))


def test_clean_client_of_the_sessions_server(session_one_line):
    ask(session_one_line).close()


def test_clean_for_a_server_that_closes_late(lazy_server):
    socket.create_connection(lazy_server).close()


def test_leaks_in_a_thread(one_line, in_a_thread):
    in_a_thread(lambda: KEPT.append(ask(one_line)))


def test_leaks_in_a_job_of_the_sessions_executor(one_line, session_executor):
    session_executor.submit(lambda: KEPT.append(ask(one_line))).result()


def test_clean_job_of_the_sessions_executor(one_line, session_executor):
    session_executor.submit(lambda: ask(one_line).close()).result()


def test_leaks_in_an_executor_of_its_own(one_line):
    with ThreadPoolExecutor(1) as executor:
        KEPT.append(executor.submit(ask, one_line).result())


class TestClass:
    """The class's fixture leaks: its last test says so."""

    @pytest.fixture(scope="class")
    def connection(self):
        with serving(OneLine) as address:
            sock = ask(address)
        KEPT.append(sock)
        return sock

    def test_either(self, connection):
        """Whichever comes last."""

    def test_or(self, connection):
        """Whichever comes last."""


class TestCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.stack = serving(OneLine)
        cls.address = cls.stack.__enter__()
        cls.connection = ask(cls.address)

    @classmethod
    def tearDownClass(cls) -> None:
        cls.stack.__exit__(None, None, None)
        cls.connection.close()

    def test_leaks_in_a_case(self) -> None:
        KEPT.append(ask(self.address))

    def test_clean_in_a_case(self) -> None:
        for number in range(3):
            with self.subTest(number=number):
                ask(self.address).close()

    def test_clean_what_the_class_keeps(self) -> None:
        type(self).connection.close()
        type(self).connection = ask(self.address)


def test_clean_thread_that_outlives_its_test(until_the_end):
    thread = threading.Thread(target=lambda: socket.create_connection(until_the_end).close())
    thread.start()
