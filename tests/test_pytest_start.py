"""The first socket of a run: who is at work is found in the midst of it, whatever that is."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.pytest_runs import FAILURE, LEAK, project, run

# Each is the whole of a run: what comes first in it is what counts.
RUNS = {
    "in a test": (
        """
        def test_clean():
            pass

        def test_leaks():
            leak()
        """,
        {"test_leaks": LEAK},
    ),
    "in a test's own fixture": (
        """
        @pytest.fixture
        def kept():
            return leak()

        def test_leaks(kept):
            pass

        def test_clean():
            pass
        """,
        {"test_leaks": LEAK},
    ),
    "in a fixture that is wider": (
        """
        @pytest.fixture(scope="module")
        def client():
            yield [leak()]

        @pytest.fixture
        def own(client):
            return leak()

        def test_leaks_its_own(own):
            pass

        def test_clean(client):
            pass

        def test_leaks(client):
            leak()

        def test_is_last_and_leaks_by_the_fixture(client):
            pass
        """,
        {
            "test_leaks_its_own": LEAK,
            "test_leaks": LEAK,
            "test_is_last_and_leaks_by_the_fixture": LEAK,
        },
    ),
    "in one of two fixtures, the wider of which goes on": (
        """
        @pytest.fixture(scope="module")
        def inner():
            leak()

        @pytest.fixture(scope="session")
        def outer(request):
            leak()
            yield

        @pytest.fixture(scope="module")
        def both(request, outer):
            request.getfixturevalue("inner")
            leak().close()

        def test_clean(both):
            pass

        def test_leaks(both):
            leak()

        def test_is_last_and_leaks_by_two_fixtures(both):
            pass
        """,
        {"test_leaks": LEAK, "test_is_last_and_leaks_by_two_fixtures": LEAK},
    ),
    "behind a fixture of an earlier test that opens later": (
        """
        class Pool:
            def __init__(self):
                self.idle = []
            def open(self):
                self.idle.append(leak())
            def close(self):
                for sock in self.idle:
                    sock.close()

        @pytest.fixture(scope="module")
        def pool(request):
            pool = Pool()
            yield pool
            pool.close()

        @pytest.fixture(scope="module")
        def asked_for_by_name():
            pool = Pool()
            yield pool
            pool.close()

        def test_clean_before(pool, request):
            request.getfixturevalue("asked_for_by_name")

        def test_clean_first_socket():
            leak().close()

        def test_clean_by_the_pool(pool):
            pool.open()

        def test_clean_by_the_other(request):
            request.getfixturevalue("asked_for_by_name").open()

        def test_leaks():
            leak()
        """,
        {"test_leaks": LEAK},
    ),
    "in setup_module": (
        """
        def setup_module():
            global POOL
            POOL = [socket.socket()]

        def teardown_module():
            for sock in POOL:
                sock.close()

        def test_clean():
            POOL.append(leak())

        def test_leaks():
            leak()
        """,
        {"test_leaks": LEAK},
    ),
    "behind setUpClass": (
        """
        import unittest

        class TestIt(unittest.TestCase):
            @classmethod
            def setUpClass(cls):
                cls.pool = []

            @classmethod
            def tearDownClass(cls):
                for sock in cls.pool:
                    sock.close()

            def test_clean(self):
                self.pool.append(leak())

            def test_leaks(self):
                leak()
        """,
        {"test_leaks": LEAK},
    ),
    "in the end of a fixture": (
        """
        @pytest.fixture
        def notifies():
            yield
            leak()

        def test_leaks(notifies):
            pass

        def test_clean():
            pass
        """,
        {"test_leaks": LEAK},
    ),
    "in the end of a fixture that is wider": (
        """
        @pytest.fixture(scope="module")
        def notifies():
            yield
            leak()

        def test_clean(notifies):
            pass

        def test_is_last_and_leaks(notifies):
            pass
        """,
        {"test_is_last_and_leaks": LEAK},
    ),
    "in the end of a test that has failed": (
        """
        @pytest.fixture
        def notifies():
            yield
            leak()

        def test_fails(notifies):
            assert False
        """,
        {"test_fails": FAILURE},
    ),
    "in the end of a test that was to fail, and did not": (
        """
        @pytest.fixture
        def notifies():
            yield
            leak()

        @pytest.mark.xfail(strict=True)
        def test_fails(notifies):
            pass
        """,
        {"test_fails": FAILURE},
    ),
    "while a mock stands in its place": (
        """
        from unittest import mock

        def test_clean():
            with mock.patch("socket.socket"):
                thread = threading.Thread(target=lambda: None)
                thread.start()
                thread.join()

        def test_leaks():
            leak()
        """,
        {"test_leaks": LEAK},
    ),
    "while a subclass stands in its place": (
        """
        def test_clean(monkeypatch):
            class Mine(socket.socket):
                pass
            monkeypatch.setattr(socket, "socket", Mine)
            Mine().close()

        def test_leaks():
            leak()
        """,
        {"test_leaks": LEAK},
    ),
    "before there are executors": (
        """
        def test_clean_first_socket():
            leak().close()

        @pytest.fixture(scope="module")
        def executor():
            from concurrent.futures import ThreadPoolExecutor
            with ThreadPoolExecutor(1) as executor:
                executor.submit(int).result()
                yield executor

        def test_leaks(executor):
            executor.submit(leak).result()

        def test_is_last_and_clean(executor):
            pass
        """,
        {"test_leaks": LEAK},
    ),
    "before there is a runner of anyio's": (
        """
        @pytest.fixture(scope="module")
        def anyio_backend():
            return "asyncio"

        @pytest.fixture(scope="module")
        async def shared_runner(anyio_backend):
            yield

        def test_clean_first_socket():
            leak().close()

        @pytest.mark.anyio
        async def test_clean(shared_runner):
            pass

        @pytest.mark.anyio
        async def test_leaks(shared_runner):
            leak()

        @pytest.mark.anyio
        async def test_clean_again(shared_runner):
            pass
        """,
        {"test_leaks": LEAK},
    ),
    "in a greenlet": (
        """
        from greenlet import greenlet

        @pytest.mark.sockguard(allow=1)
        def test_clean_by_its_marker():
            greenlet(leak).switch()

        def test_leaks():
            greenlet(leak).switch()
        """,
        {"test_leaks": LEAK},
    ),
    "in a thread that nobody saw start": (
        """
        import _thread

        def test_leaks():
            done = threading.Lock()
            done.acquire()
            def work():
                leak()
                done.release()
            _thread.start_new_thread(work, ())
            assert done.acquire(timeout=10)

        def test_clean():
            pass
        """,
        {"test_leaks": LEAK},
    ),
}


# Each is a process of its own: some seconds on two cores are what the default run has for them.
QUICK = ("in a test", "in a fixture that is wider", "in setup_module")


@pytest.mark.parametrize(
    "where", [w if w in QUICK else pytest.param(w, marks=pytest.mark.long) for w in RUNS]
)
def test_the_first_socket_is_whose_it_is(where, tmp_path: Path):
    code, expected = RUNS[where]
    done = run(project(tmp_path, test_first=code), "--sockguard", plugins=("anyio",))
    assert done.troubled == expected
    assert "switched off" not in done.out
    assert "outside of tests" not in done.out


@pytest.mark.parametrize("where", ["in a fixture that is wider", "in setup_module"])
def test_the_first_socket_of_a_worker_is_whose_it_is(where, tmp_path: Path):
    code, expected = RUNS[where]
    words = ["--sockguard", "-n", "2", "--dist", "loadfile"]
    done = run(project(tmp_path, test_first=code), *words, plugins=("xdist",))
    assert done.troubled == expected


FAILING = """
    @pytest.fixture(scope="module")
    def client():
        leak()
        raise LookupError

    def test_fails(client):
        pass

    def test_clean():
        pass
"""


def test_what_a_failing_fixture_leaks_is_told_with_its_failure(tmp_path: Path):
    done = run(project(tmp_path, test_first=FAILING), "--sockguard")
    assert done.troubled == {"test_fails": LEAK}
    assert (
        "of       fixture client (module scope)" in done.out.partition("socket leaks teardown")[2]
    )
