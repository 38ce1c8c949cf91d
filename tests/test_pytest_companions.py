"""``pytest --sockguard`` beside other plugins, tools and guards."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from coverage import CoverageData
from support.pytest_runs import FAILURE, LEAK, installed_plugins, project, run

# -- switched on by some tests, or by none -------------------------------------------------

SOME = """
    def test_unmarked():
        leak()

    @pytest.mark.sockguard
    def test_marked():
        leak()

    @pytest.mark.sockguard(enabled=False)
    def test_marked_off():
        leak()

    def test_with_the_fixture(sockguard):
        sock = leak()
        print("seen", len(sockguard.leaks()))
        near, far = socket.socketpair()
        with near, far:
            print("closed", sockguard.close_peers())
        sockguard.expect(2)
        sock.close()
        sockguard.check()

    @pytest.mark.sockguard
    class TestMarked:
        def test_clean_of_a_marked_class(self):
            pass

        def test_of_a_marked_class(self):
            leak()
"""
CONFTEST = """
    import json
    import pathlib
    import sys

    def pytest_unconfigure():
        pathlib.Path("modules.json").write_text(json.dumps(sorted(sys.modules)))
"""


def test_marker_and_fixture_switch_it_on_for_just_their_tests(tmp_path):
    done = run(project(tmp_path, test_some=SOME), "-rP")
    assert done.code == 1
    # With the fixture, 2 were expected and none leaked.
    assert set(done.troubled) == {"test_marked", "test_with_the_fixture", "test_of_a_marked_class"}
    assert "seen 1\nclosed 1\n" in done.out


@pytest.mark.parametrize("environment", [{}, {"SOCKGUARD": "1", "SOCKGUARD_QUIET": "1"}])
def test_no_sockguard_wins_over_everything(tmp_path, environment):
    project(tmp_path, ini="sockguard = true\n", test_some=SOME)
    done = run(tmp_path, "--sockguard", "--no-sockguard", "-rP", **environment)
    assert done.code == 0
    assert done.counts == {"passed": 6}
    assert "seen 0\nclosed 0\n" in done.out


def modules(folder: Path) -> set[str]:
    return set(json.loads((folder / "modules.json").read_text()))


def test_a_run_without_it_loads_its_options_and_nothing_else(tmp_path):
    project(tmp_path, conftest=CONFTEST, test_plain="def test_plain():\n    pass\n")
    assert run(tmp_path).code == 0
    with_it = modules(tmp_path)
    assert run(tmp_path, "-p", "no:sockguard").code == 0
    ours = with_it - modules(tmp_path) - sys.stdlib_module_names
    assert ours == {"sockguard", "sockguard.pytest_options", "sockguard.pytest_plugin"}


def test_p_no_sockguard_leaves_no_option_and_no_marker(tmp_path):
    project(tmp_path, test_some=SOME)
    refused = run(tmp_path, "-p", "no:sockguard", "--sockguard")
    assert refused.code == pytest.ExitCode.USAGE_ERROR
    assert "unrecognized arguments: --sockguard" in refused.err
    done = run(tmp_path, "-p", "no:sockguard", "-W", "ignore::pytest.PytestUnknownMarkWarning")
    assert done.counts == {"passed": 5, "error": 1}
    assert "fixture 'sockguard' not found" in done.out


# -- other plugins -------------------------------------------------------------------------

TWO = """
    @pytest.mark.parametrize("number", [1, 2, 3])
    def test_leaks(number):
        leak()

    @pytest.mark.parametrize("number", [1, 2, 3])
    def test_clean(number):
        leak().close()
"""
# In the workers: after their last test, where nobody is left to be blamed.
ENDS_LATE = """
    import pytest
    from leaky import leak

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(session):
        if hasattr(session.config, "workerinput"):
            leak()
"""


def test_xdist_tells_everything_once_at_the_controller(tmp_path):
    project(tmp_path, test_two=TWO, conftest=ENDS_LATE)
    done = run(tmp_path, "--sockguard", "-n", "2", plugins=("xdist",))
    assert done.code == 1
    assert done.counts == {"passed": 6, "socket leak": 3}
    assert done.troubled == {f"test_leaks[{number}]": LEAK for number in (1, 2, 3)}
    assert done.out.count("= socket leak summary =") == 1
    assert done.out.count("\nSOCKET LEAK test_two.py::test_leaks[") == 3
    # Each worker has one of its own.
    assert done.out.count("what runs outside of tests: 1 socket leaked") == 2


def test_the_workers_of_xdist_fill_one_baseline(tmp_path):
    project(tmp_path, test_two=TWO)
    words = ["--sockguard", "-n", "2", "--sockguard-baseline=known.json"]
    written = run(tmp_path, *words, "--sockguard-update-baseline", plugins=("xdist",))
    assert written.counts == {"passed": 6}
    known = json.loads((tmp_path / "known.json").read_text())["leaks"]
    assert sorted(known) == [f"test_two.py::test_leaks[{number}]" for number in (1, 2, 3)]


RERUNS = """
    RUNS = []

    def test_leaks_each_time():
        leak()

    def test_leaks_at_first():
        RUNS.append(1)
        if len(RUNS) == 1:
            leak()

    def test_fails_at_first_and_leaks_then():
        RUNS.append(2)
        leak()
        assert RUNS.count(2) > 1

    def test_clean():
        pass
"""


def test_a_rerun_is_judged_by_what_it_leaks_itself(tmp_path):
    project(tmp_path, test_reruns=RERUNS)
    done = run(tmp_path, "--sockguard", "--reruns=1", plugins=("rerunfailures",))
    assert done.code == 1
    assert done.troubled == {
        "test_leaks_each_time": LEAK,
        "test_fails_at_first_and_leaks_then": LEAK,
    }
    assert done.counts["rerun"] == 3
    assert done.counts["socket leak"] == 2


RESTRICTED = """
    import pytest_socket

    def test_leaks():
        leak()

    @pytest.mark.timeout(1)
    def test_hangs_and_leaks():
        leak()
        threading.Event().wait(30)

    def test_leaks_a_pair():
        near, far = socket.socketpair()
        far.close()
        KEPT.append(near)

    def test_leaks_while_it_looks(sockguard):
        leak()
        with pytest.raises(pytest.fail.Exception, match="1 socket leaked"):
            sockguard.check()
        leak()

    def test_clean():
        leak().close()

    @pytest.mark.filterwarnings("ignore:A test tried to use")
    def test_clean_with_another_host():
        with pytest.raises(pytest_socket.SocketConnectBlockedError):
            socket.create_connection(("127.0.0.2", 9))

    @pytest.mark.disable_socket
    @pytest.mark.filterwarnings("ignore:A test tried to use")
    def test_clean_without_sockets():
        with pytest.raises(pytest_socket.SocketBlockedError):
            leak()
"""


def test_a_timeout_stays_one_failure_and_restricted_sockets_are_judged(tmp_path):
    project(tmp_path, test_restricted=RESTRICTED)
    restricted = ["--disable-socket", "--allow-hosts=127.0.0.1", "--allow-unix-socket"]
    words = ["--sockguard", "--timeout=30", "--timeout-method=signal", *restricted]
    done = run(tmp_path, *words, plugins=("timeout", "socket"))
    assert done.troubled == {
        "test_hangs_and_leaks": FAILURE,
        "test_leaks": LEAK,
        "test_leaks_a_pair": LEAK,
        "test_leaks_while_it_looks": LEAK,
    }
    assert done.counts == {"failed": 1, "passed": 6, "socket leak": 3}
    assert "in test_hangs_and_leaks\n" in done.out.partition("socket leaks teardown")[2]


ANYIO = """
    @pytest.fixture
    def anyio_backend():
        return "asyncio"

    @pytest.mark.anyio
    @pytest.mark.parametrize("func, runner, owner, original, args, kwargs", [(1, 2, 3, 4, 5, 6)])
    async def test_clean_with_any_name(func, runner, owner, original, args, kwargs):
        assert (func, runner, owner, original, args, kwargs) == (1, 2, 3, 4, 5, 6)

    @pytest.mark.anyio
    async def test_leaks():
        leak()
"""


def test_parameters_of_anyios_tests_may_have_any_name(tmp_path):
    done = run(project(tmp_path, test_anyio=ANYIO), "--sockguard", plugins=("anyio",))
    assert done.troubled == {"test_leaks": LEAK}


# A time limit strikes while the first socket, or the first one left open, has more of us loaded.
STRIKES = """
    import sys

    class Strikes:
        left = 1

        def find_spec(self, name, path=None, target=None):
            if name == "sockguard.MODULE" and self.left:
                self.left = 0
                pytest.fail("time is up")

    sys.meta_path.insert(0, Strikes())

    def test_is_struck():
        leak()

    def test_leaks():
        leak()
"""


@pytest.mark.parametrize(
    ("module", "outcome"), [("pytest_sockets", FAILURE), ("pytest_judge", ["error"])]
)
def test_a_time_limit_in_the_midst_of_our_start_does_not_switch_us_off(module, outcome, tmp_path):
    done = run(project(tmp_path, test_strikes=STRIKES.replace("MODULE", module)), "--sockguard")
    assert done.troubled == {"test_is_struck": outcome, "test_leaks": LEAK}


PYTESTER = """
    pytest_plugins = ["pytester"]

    INNER = '''
    from leaky import leak
    def test_leaks():
        leak()
    def test_clean():
        leak().close()
    '''

    def inner(pytester, *words):
        pytester.makepyfile(INNER)
        names = os.environ["OTHERS"].split()
        others = [word for name in names for word in ("-p", f"no:{name}")]
        return pytester.runpytest_inprocess(*words, *others, "--sockguard-settle=0")

    @pytest.mark.parametrize("time", [1, 2])
    @pytest.mark.sockguard(allow=1)
    def test_clean_but_for_the_inner_run(pytester, time):
        before = dict(vars(socket.socket)), threading.Thread.start
        result = inner(pytester, "--sockguard")
        result.stdout.fnmatch_lines(["SOCKET LEAK *::test_leaks - 1 socket leaked*"])
        assert result.ret == 1
        assert result.parseoutcomes()["passed"] == 2
        assert (dict(vars(socket.socket)), threading.Thread.start) == before

    def test_leaks_by_the_inner_run(pytester):
        assert inner(pytester).ret == 0

    def test_leaks():
        leak()

    def test_clean():
        leak().close()
"""


@pytest.mark.parametrize("switch", ["--sockguard", "--no-sockguard"])
def test_pytesters_inner_runs_and_the_outer_one_are_judged_apart(tmp_path, switch):
    project(tmp_path, test_outer=PYTESTER)
    done = run(tmp_path, switch, OTHERS=" ".join(installed_plugins()))
    leaking = {"test_leaks_by_the_inner_run", "test_leaks"} if switch == "--sockguard" else set()
    assert done.troubled == dict.fromkeys(leaking, LEAK)
    assert done.counts["passed"] == 5
    assert done.code == int(bool(leaking))


# -- what pytest is run by -----------------------------------------------------------------


def test_coverage_measures_the_same_and_changes_nothing(tmp_path):
    project(tmp_path, test_two=TWO)
    under_coverage = ("-m", "coverage", "run", "--source=.", "-m", "pytest")
    lines = []
    for switch, leaks in (("--sockguard", 3), ("--no-sockguard", None)):
        done = run(tmp_path, switch, python=under_coverage)
        assert (done.counts["passed"], done.counts.get("socket leak")) == (6, leaks)
        assert done.code == int(leaks is not None)
        data = CoverageData(str(tmp_path / ".coverage"))
        data.read()
        lines.append({Path(file).name: data.lines(file) for file in data.measured_files()})
        data.close()
    assert lines[0] == lines[1]
    assert set(lines[0]) == {"leaky.py", "test_two.py"}


UNDER_GUARD = ("-m", "sockguard", "--threshold=0", "--quiet", "--output=leaks", "-m", "pytest")
ENVIRONMENT = {
    "SOCKGUARD": "1",
    "SOCKGUARD_THRESHOLD": "0",
    "SOCKGUARD_QUIET": "1",
    "SOCKGUARD_OUTPUT": "leaks",
}


@pytest.mark.parametrize(
    ("python", "environment"),
    [(UNDER_GUARD, {}), (("-m", "pytest"), ENVIRONMENT)],
    ids=["by the runner", "by the environment"],
)
def test_a_process_that_is_under_guard_stays_so(tmp_path, python, environment):
    project(tmp_path, ini="filterwarnings = error\n", test_two=TWO)
    done = run(tmp_path, "--sockguard", python=python, **environment)
    assert done.code == 1
    assert done.counts == {"passed": 6, "socket leak": 3}
    events = [json.loads(line) for line in (tmp_path / "leaks").read_text().splitlines()]
    assert events[-1]["event"] == "sockguard.summary"
    assert events[-1]["leaked"] == 3
