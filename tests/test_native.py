"""The interpreter's own primitives, also where gevent or eventlet put theirs in place first."""

from __future__ import annotations

import _thread
import importlib.util
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sockguard
from sockguard.native import original

CHECKOUT = Path(sockguard.__file__).parents[1]

# Each primitive that is used anywhere, asked for before and after the runtime patched.
PRIMITIVES = """
import _thread, importlib, select, sys, time
NAMES = [("_thread", "RLock"), ("_thread", "allocate_lock"), ("_thread", "start_new_thread"),
         ("_thread", "get_native_id"), ("time", "sleep"), ("select", "poll"), ("select", "epoll")]
before = {name: getattr(importlib.import_module(name[0]), name[1]) for name in NAMES}
"""

AGREES = """
from sockguard.native import original
for name in NAMES:
    found = original(*name)
    assert type(found) is type(before[name]), (name, found)
    assert found.__module__ == before[name].__module__, (name, found.__module__)
    assert found.__name__ == before[name].__name__, (name, found)
"""

# The program hogs its only green thread, as a CPU-bound handler does; a green watcher
# would not run before it is done.
HOGGED = """
import time as clock
from sockguard.heartbeat import Heartbeat
beats = []
heart = Heartbeat(lambda: beats.append(1), 0.01)
heart.start()
deadline = clock.monotonic() + 20
while len(beats) < 3 and clock.monotonic() < deadline:
    pass
assert heart.stop(5)
assert len(beats) >= 3
print("ok")
"""


def run(*parts: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "\n".join(parts)],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_without_a_green_runtime_it_is_the_module_s_own():
    assert original("_thread", "allocate_lock") is _thread.allocate_lock
    assert original("time", "sleep") is time.sleep
    assert original("select", "poll") is select.poll


def test_what_the_platform_has_not_is_an_attribute_error():
    with pytest.raises(AttributeError):
        original("select", "no_such_thing")


PATCHES = {
    "gevent": "import gevent.monkey; gevent.monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
}
RUNTIMES = pytest.mark.parametrize("runtime", PATCHES)


def needs(runtime: str) -> str:
    """Return the program text that patches; skip where the runtime is not installed.

    Looked up, not imported: its import would change what the other tests run on.
    """
    if importlib.util.find_spec(runtime) is None:
        pytest.skip(f"{runtime} is not installed; it is not in the test extra")
    return PATCHES[runtime]


@RUNTIMES
def test_a_runtime_that_patched_first_does_not_change_what_we_get(runtime):
    done = run(PRIMITIVES, needs(runtime), AGREES, HOGGED)

    assert (done.stdout, done.stderr) == ("ok\n", "")


@RUNTIMES
def test_a_runtime_that_is_only_imported_does_not_change_what_we_get(runtime):
    importing = needs(runtime).partition(";")[0]

    done = run(PRIMITIVES, importing, AGREES, HOGGED)

    assert (done.stdout, done.stderr) == ("ok\n", "")


@RUNTIMES
def test_a_runtime_that_comes_after_the_watcher_does_not_stop_it(runtime):
    begin = HOGGED.replace("deadline =", needs(runtime) + "\ndeadline =")

    done = run(begin)

    assert (done.stdout, done.stderr) == ("ok\n", "")


# A leak through the runtime's own sockets: made in the patched class or not tracked at
# all, but the watcher must live.
LEAKS = """
import socket, sockguard
guard = sockguard.install(threshold=0.0, interval=60.0, level="full", quiet=True)
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
taken, _ = server.accept()
taken.close()
while client.recv(1):
    pass
watcher = guard._the_engine().watcher
watcher.tick(); watcher.tick()
print([(f.kind.value, f.fd == client.fileno()) for f in guard.check()])
client.close(); server.close()
sockguard.uninstall()
"""


@RUNTIMES
def test_a_leak_under_a_runtime_that_patched_first_is_found(runtime):
    done = run(needs(runtime), LEAKS)

    assert (done.stdout, done.stderr) == ("[('peer_closed', True)]\n", "")
