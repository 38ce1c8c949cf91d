"""``pytest --sockguard`` among pytest's own features: what a run says, and how it ends."""

from __future__ import annotations

import re

import pytest
from support.pytest_runs import FAILURE, LEAK, Run, project, run

# -- one run of many kinds of tests --------------------------------------------------------

KINDS = """
    import multiprocessing
    import unittest

    @pytest.fixture(scope="module")
    def of_module():
        leak()

    @pytest.fixture(scope="session")
    def of_session():
        leak()

    @pytest.fixture
    def breaks_at_setup():
        leak()
        raise RuntimeError("broken at setup")

    @pytest.fixture
    def breaks_at_teardown():
        yield
        raise RuntimeError("broken at teardown")

    def test_clean(of_module, of_session):
        pass

    def test_leaks():
        leak()

    def test_clean_behind_a_leak():
        pass

    def test_fails_and_leaks():
        leak()
        raise RuntimeError("broken")

    @pytest.mark.xfail
    def test_xfails_and_leaks():
        leak()
        raise RuntimeError("broken")

    @pytest.mark.xfail
    def test_xpasses_and_leaks():
        leak()

    @pytest.mark.xfail(strict=True)
    def test_xpasses_where_that_fails_and_leaks():
        leak()

    def test_skips_and_leaks():
        leak()
        pytest.skip("half way")

    def test_breaks_at_setup_and_leaks(breaks_at_setup):
        pass

    def test_breaks_at_teardown_and_leaks(breaks_at_teardown):
        leak()

    @pytest.mark.parametrize("leaks", [False, True], ids=["clean", "leaks"])
    def test_parameter(leaks):
        if leaks:
            leak()

    class TestCase(unittest.TestCase):
        @classmethod
        def setUpClass(cls):
            leak()

        def test_1_clean_in_a_cleanup(self):
            self.addCleanup(leak().close)

        def test_2_leaks_in_subtests(self):
            for number in range(2):
                with self.subTest(number=number):
                    leak()

        def test_3_fails_and_leaks_in_a_subtest(self):
            with self.subTest():
                leak()
                self.fail("broken")

        def test_4_clean_and_last_of_its_class(self):
            pass

    def test_clean_and_forks():
        near, far = socket.socketpair()
        with near, far:
            child = os.fork()
            if not child:
                leak()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0

    def test_leaks_behind_a_process():
        child = multiprocessing.get_context("fork").Process(target=leak)
        child.start()
        child.join()
        assert child.exitcode == 0
        leak()

    def test_clean_and_last_of_its_module():
        pass
"""
DOCUMENTED = '''
    """
    >>> from leaky import leak
    >>> sock = leak()
    """

    def clean():
        """
        >>> from leaky import leak
        >>> leak().close()
        """
'''
LAST = "def test_clean_and_last_of_its_session():\n    pass\n"


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("kinds")
    project(folder, test_kinds=KINDS, documented=DOCUMENTED, test_last=LAST)
    return run(folder, "--sockguard", "--doctest-modules", "-rA")


def test_each_kind_of_test_has_the_outcome_that_is_its_own(kinds):
    assert kinds.troubled == {
        "documented": LEAK,
        "test_leaks": LEAK,
        "test_fails_and_leaks": FAILURE,
        "test_xfails_and_leaks": ["skipped", "error"],
        "test_xpasses_and_leaks": LEAK,
        "test_xpasses_where_that_fails_and_leaks": FAILURE,
        "test_skips_and_leaks": ["skipped", "error"],
        "test_breaks_at_setup_and_leaks": LEAK,
        "test_breaks_at_teardown_and_leaks": LEAK,
        "test_parameter[leaks]": LEAK,
        "test_2_leaks_in_subtests": LEAK,
        "test_3_fails_and_leaks_in_a_subtest": FAILURE,
        "test_4_clean_and_last_of_its_class": LEAK,
        "test_leaks_behind_a_process": LEAK,
        "test_clean_and_last_of_its_module": LEAK,
        "test_clean_and_last_of_its_session": LEAK,
    }
    assert kinds.cases.keys() - kinds.troubled.keys() == {
        "documented.clean",
        "test_clean",
        "test_clean_behind_a_leak",
        "test_parameter[clean]",
        "test_1_clean_in_a_cleanup",
        "test_clean_and_forks",
    }
    assert kinds.code == 1


def test_the_summary_counts_the_leaks_and_names_each_with_its_line(kinds):
    assert kinds.counts["socket leak"] == 11
    assert "SOCKET LEAK test_kinds.py::TestCase::test_2_leaks_in_subtests - 2 sockets" in kinds.out
    lines = re.findall(r"^SOCKET LEAK \S+ - \d sockets? leaked, (.*)$", kinds.out, re.MULTILINE)
    assert len(lines) == 11
    assert set(lines) == {"opened at leaky.py:9 in leak"}
    assert "after their test had been judged" not in kinds.out  # each is told of once


def test_junitxml_has_a_property_for_each_leak_also_of_a_test_that_fails_anyway(kinds):
    counted = {name: len(case.properties) for name, case in kinds.cases.items()}
    assert counted == {name: int(name in kinds.troubled) for name in kinds.cases}


@pytest.mark.parametrize(
    "place",
    [
        "test_fails_and_leaks",
        "test_xpasses_where_that_fails_and_leaks",
        "breaks_at_setup",
        "test_breaks_at_teardown_and_leaks",
        "test_3_fails_and_leaks_in_a_subtest",
    ],
)
def test_a_test_that_fails_anyway_shows_its_leak_in_a_section(kinds, place):
    assert re.search(rf"<- test_kinds\.py:\d+ in {place}$", kinds.out, re.MULTILINE)


@pytest.mark.parametrize(
    ("test", "fixture"),
    [
        ("test_clean_and_last_of_its_module", "fixture of_module (module scope)"),
        ("test_clean_and_last_of_its_session", "fixture of_session (session scope)"),
        ("test_4_clean_and_last_of_its_class", "(class scope)"),
    ],
)
def test_a_wider_fixtures_leak_is_told_where_it_ends_by_its_name(kinds, test, fixture):
    assert f"{fixture}, which ended with this test" in kinds.cases[test].text


# -- runs that end early -------------------------------------------------------------------

STOPS = """
    @pytest.fixture(scope="session")
    def of_session():
        leak()

    def test_clean(of_session):
        pass

    def test_leaks():
        leak()

    def test_is_not_reached():
        leak()
"""
LATE = "fixture of_session (session scope): 1 socket leaked, opened at leaky.py:9 in leak"


def test_x_stops_at_the_leak_and_lf_runs_the_leaker_again(tmp_path):
    project(tmp_path, test_stops=STOPS)
    quiet = ["--sockguard", "-x", "-q", "--tb=no", "--no-header"]
    first = run(tmp_path, *quiet, cache=True)
    again = run(tmp_path, "--sockguard", "--lf", cache=True)
    assert first.code == again.code == 1
    assert first.outcomes == {"test_clean": [], "test_leaks": LEAK}
    assert again.outcomes == {"test_leaks": LEAK}
    assert "SOCKET LEAKS" not in first.out
    assert "SOCKET LEAK test_stops.py::test_leaks - 1 socket leaked" in first.out
    assert LATE in first.out  # its end is the session's
    assert LATE not in again.out


def test_maxfail_counts_leaks(tmp_path):
    stops = STOPS.replace("test_clean", "test_also_leaks") + "\n    test_a = test_leaks\n"
    project(tmp_path, test_stops=stops.replace("        pass", "        leak()"))
    done = run(tmp_path, "--sockguard", "--maxfail=2", "-p", "no:unraisableexception")
    assert done.code == 1
    assert done.counts == {"passed": 2, "socket leak": 2}


@pytest.mark.parametrize("end", ["raise KeyboardInterrupt", "pytest.exit('enough')"])
def test_an_interrupted_run_tells_what_leaked_up_to_there(tmp_path, end):
    project(tmp_path, test_stops=STOPS.replace("        leak()", f"        leak(); {end}", 2))
    project(
        tmp_path, test_stops=STOPS.replace("s():\n        leak()", f"s():\n        leak(); {end}")
    )
    done = run(tmp_path, "--sockguard")
    assert done.code == pytest.ExitCode.INTERRUPTED
    assert LATE in done.out
    assert "test_stops.py::test_leaks: 1 socket leaked, opened at leaky.py:9 in leak" in done.out


def test_a_call_that_fails_with_x_shows_also_what_ended_by_that(tmp_path):
    project(
        tmp_path, test_stops=STOPS.replace("s():\n        leak()", "s():\n        leak(); 1 / 0")
    )
    done = run(tmp_path, "--sockguard", "-x")
    assert done.counts == {"failed": 1, "passed": 1}
    assert done.outcomes["test_leaks"] == FAILURE
    assert done.out.count("leaked here") + done.out.count(LATE) == 2


# -- warnings as errors --------------------------------------------------------------------

WARNS = """
    import gc
    import weakref

    class Cycle:
        def __init__(self):
            self.me = self

    def dropped_by_a_cycle():
        Cycle().sock = KEPT.pop()

    def closed_behind_a_cycle():
        weakref.finalize(Cycle(), KEPT.pop().close)

    def test_closes():
        leak()
        closed_behind_a_cycle()

    def test_drops():
        leak()
        dropped_by_a_cycle()
        # here

    def test_clean_behind_it():
        pass

    def test_leaks():
        leak()
"""


def test_what_our_collection_frees_is_told_of_the_test_that_left_it(tmp_path):
    project(tmp_path, ini="sockguard = true\nfilterwarnings = error\n", test_warns=WARNS)
    done = run(tmp_path)
    assert done.outcomes == {
        "test_closes": [],
        "test_drops": ["error"],
        "test_clean_behind_it": [],
        "test_leaks": LEAK,
    }
    assert "ResourceWarning: unclosed" in done.cases["test_drops"].text
    assert done.counts == {"passed": 4, "error": 1, "socket leak": 1}


LITTERS = """
    import gc
    import time
    gc.collect()
    gc.disable()  # only ours comes

    class Cycle:
        def __init__(self):
            self.me = self

    def test_clean_but_litters():
        Cycle().sock = socket.socket()

    def test_clean_and_slow_to_close():
        let_go = threading.Event()
        listener = socket.create_server(("127.0.0.1", 0))
        def serve():
            with listener, listener.accept()[0]:
                let_go.wait()
                time.sleep(0.1)  # the settle time is what this is about
        threading.Thread(target=serve).start()
        socket.create_connection(listener.getsockname()).close()
        let_go.set()
"""


def test_what_another_test_dropped_fails_no_test_where_our_collection_frees_it(tmp_path):
    project(tmp_path, ini="filterwarnings = error\n", test_litters=LITTERS)
    for switch in ("--no-sockguard", "--sockguard"):
        done = run(tmp_path, switch, "--sockguard-settle=5")
        assert done.troubled == {}
        told = done.out + done.err
        assert (done.code, "ResourceWarning: unclosed" in told) == (1, True), (switch, told)


def test_pytest_blames_the_same_test_where_the_test_itself_collects(tmp_path):
    ini = "filterwarnings = error\n"
    project(tmp_path, ini=ini, test_warns=WARNS.replace("# here", "gc.collect()"))
    done = run(tmp_path)
    assert set(done.troubled) == {"test_drops"}
    assert "ResourceWarning: unclosed" in done.cases["test_drops"].text
