"""Whose line is it, and what is the name of the bug? On real files, by real interpreters."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socketserver
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from support.builders import a_frame

import sockguard
from sockguard import hooks, sites
from sockguard.sites import (
    culprit,
    fingerprint,
    is_application,
    is_ours,
    is_site,
    is_stdlib,
    module_name,
)
from sockguard.stacks import Frame

CHECKOUT = Path(sockguard.__file__).parents[1]
VERSIONS = ("3.10", "3.11", "3.12", "3.13")

# The library takes the stack, as a socket made there does.
LIBRARY = """
import sys
from sockguard import sites, stacks

def connect(depth=32):
    return opened(depth)

def opened(depth):
    stack = stacks.resolve(stacks.capture(sys._getframe(), depth))
    return sites.fingerprint(stack)
"""

SHOP = """
import poolib

def plain():
    return poolib.connect()

def other():
    return poolib.connect()

class Basket:
    def plain(self):
        return poolib.connect()

def comprehension():
    return [poolib.connect() for _ in range(1)][0]

def in_three_comprehensions():
    kinds = {poolib.connect() for _ in range(1)}, {1: poolib.connect() for _ in range(1)}
    return [*kinds[0], *kinds[1].values(), *[poolib.connect() for _ in range(1)]]

def recursive(times):
    return recursive(times - 1) if times else poolib.connect()

def to_and(times):
    return fro(times - 1) if times else poolib.connect()

def fro(times):
    return to_and(times)

def below():
    return poolib.opened(32)
"""

MAIN = """
import json, socketserver, sys, threading, time
from shop import orders
from sockguard import sites, stacks

def in_a_loop_of_the_standard_library():
    # No frame of the program's: a thread that waits in serve_forever.
    with socketserver.TCPServer(("127.0.0.1", 0), None) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            taken = stacks.capture(sys._current_frames()[thread.ident], 32)
            stack = stacks.resolve(taken)
            if [frame.function for frame in stack[:2]] == ["select", "serve_forever"]:
                break
        server.shutdown()
        thread.join()
    return sites.fingerprint(stack)

print(json.dumps({
    "plain": orders.plain(),
    "other": orders.other(),
    "method": orders.Basket().plain(),
    "comprehension": orders.comprehension(),
    "in_three_comprehensions": orders.in_three_comprehensions(),
    "recursive 1": orders.recursive(1),
    "recursive 9": orders.recursive(9),
    "to and fro 1": orders.to_and(1),
    "to and fro 4": orders.to_and(4),
    "below": orders.below(),
    "loop": in_a_loop_of_the_standard_library(),
}))
"""


def a_program(root: Path, shop: str = SHOP) -> Path:
    """Lay out an application and, below it, an installed library; return its script."""
    library = root / "lib" / "site-packages" / "poolib"
    package = root / "shop"
    for folder in (library, package):
        folder.mkdir(parents=True)
    (library / "__init__.py").write_text(LIBRARY)
    (package / "__init__.py").write_text("")
    (package / "orders.py").write_text(shop)
    (root / "main.py").write_text(MAIN)
    return root / "main.py"


def names(main: Path, *, how: str | None = None, cwd: Path | None = None, python: str = "") -> dict:
    """Run the program by ``python`` (default: this one); return its fingerprints by case."""
    library = main.parent / "lib" / "site-packages"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(library), str(CHECKOUT)])}
    done = subprocess.run(
        [python or sys.executable, how or str(main)],
        cwd=cwd or main.parent,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict = json.loads(done.stdout)
    return answer


@cache
def other_pythons() -> list[str]:
    """Return the interpreters on PATH that can import the checkout, this one's version apart."""
    found = []
    for version in VERSIONS:
        python = shutil.which(f"python{version}")
        if python is None or version == f"{sys.version_info[0]}.{sys.version_info[1]}":
            continue
        probe = [python, "-c", "import sockguard.sites"]
        environ = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        if not subprocess.run(probe, env=environ, capture_output=True, check=False).returncode:
            found.append(python)
    return found


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> dict:
    return names(a_program(tmp_path_factory.mktemp("one")))


# -- whose line -------------------------------------------------------------------------


def test_a_file_in_a_site_packages_folder_is_a_library(tmp_path):
    main = a_program(tmp_path)
    frame = a_frame(file=f"{main.parent}/lib/site-packages/poolib/__init__.py")

    assert is_site(frame.file)
    assert not is_application(frame)
    assert not is_stdlib(frame)


def test_a_package_of_the_distribution_is_a_library():
    assert is_site("/usr/lib/python3/dist-packages/poolib.py")


def test_the_program_s_own_files_are_the_application(tmp_path):
    assert is_application(a_frame(file=str(a_program(tmp_path))))


@pytest.mark.parametrize("module", [socketserver, asyncio, os])
def test_the_standard_library_is_told_by_its_place(module):
    frame = a_frame(file=module.__file__)

    assert is_stdlib(frame)
    assert not is_application(frame)


def test_the_standard_library_is_told_through_a_link(tmp_path):
    link = tmp_path / "lib"
    link.symlink_to(Path(os.__file__).parent)

    assert is_stdlib(a_frame(file=str(link / "socketserver.py")))


def test_a_package_installed_below_the_standard_library_is_none_of_it():
    folder = Path(os.__file__).parent / "site-packages" / "poolib"

    assert not is_stdlib(a_frame(file=str(folder / "api.py")))


def test_frozen_code_is_the_standard_library_s():
    assert is_stdlib(a_frame(file="<frozen importlib._bootstrap>"))


def test_code_given_on_the_command_line_is_the_application():
    assert is_application(a_frame(file="<string>", function="<module>"))


def test_our_own_frames_are_told_and_are_not_the_application():
    frame = a_frame(file=hooks.__file__)

    assert is_ours(frame)
    assert not is_application(frame)


def test_whose_line_it_is_can_be_told_from_a_folder_that_is_gone(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.setattr(sites, "_is_stdlib", sites._is_stdlib.__wrapped__)
    monkeypatch.setattr(sites, "module_name", sites.module_name.__wrapped__)

    assert is_application(a_frame(file="<string>"))
    assert len(fingerprint([a_frame(file="/srv/gone/app.py")])) == 12


def test_sockguard_can_be_imported_in_a_folder_that_is_gone(tmp_path):
    source = (
        "import os, sys; os.mkdir(sys.argv[1]); os.chdir(sys.argv[1]); os.rmdir(sys.argv[1]);"
        "import sockguard.stacks"
    )
    done = subprocess.run(
        [sys.executable, "-c", source, str(tmp_path / "gone")],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("src/shop/orders.py", "shop.orders"),  # below both, nearest to src/
        ("src/shop/__init__.py", "shop"),
        ("setup.py", "setup"),
        ("../elsewhere/tool.py", "tool"),
    ],
)
def test_a_module_has_the_name_that_it_is_imported_by(tmp_path, monkeypatch, file, name):
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / "src"), *sys.path])

    assert module_name(os.path.normpath(tmp_path / file)) == name


# -- the name of the bug ----------------------------------------------------------------


def test_edits_elsewhere_leave_the_name_alone(tmp_path, known):
    edited = "# A new line.\n\nimport os\n\n\ndef newcomer():\n    pass\n" + SHOP

    assert names(a_program(tmp_path, edited)) == known


def test_another_root_on_another_host_gives_the_same_names(tmp_path, known):
    assert names(a_program(tmp_path / "srv" / "releases" / "7")) == known


@pytest.mark.parametrize("how", ["main.py", "./main.py", "../root/main.py"])
def test_the_way_the_script_is_named_is_not_part_of_the_bug(tmp_path, known, how):
    assert names(a_program(tmp_path / "root"), how=how) == known


def test_the_folder_it_is_started_from_is_not_part_of_the_bug(tmp_path, known):
    assert names(a_program(tmp_path / "root"), cwd=tmp_path, how="root/main.py") == known


def test_names_recorded_on_another_python_and_host_are_these(known):
    # Pinned: each Python's own run is held to them, also where it is the only one.
    recorded = {
        "plain": "fc18697352ac",
        "comprehension": "3ae9b083eabd",
        "recursive 1": "3a020364a5fd",
        "below": "8d8648e496d0",
        "loop": "d697db8acd36",
    }

    assert {case: known[case] for case in recorded} == recorded


def test_every_python_gives_the_same_names(tmp_path, known):
    main = a_program(tmp_path)
    pythons = other_pythons()
    if not pythons:
        pytest.skip("no other Python from 3.10 to 3.13 on PATH can import sockguard")

    assert {python: names(main, python=python) for python in pythons} == dict.fromkeys(
        pythons, known
    )


def test_moving_a_function_into_a_class_keeps_its_name(known):
    # A qualified name (co_qualname) exists from 3.11 on only.
    assert known["method"] == known["plain"]


def test_a_comprehension_is_its_function_s_on_every_python(tmp_path, known):
    loops = SHOP.replace("[poolib.connect() for _ in range(1)][0]", "poolib.connect()")

    assert names(a_program(tmp_path, loops))["comprehension"] == known["comprehension"]
    assert len(set(known["in_three_comprehensions"])) == 1


def test_the_depth_of_a_recursion_is_not_part_of_the_bug(known):
    assert known["recursive 1"] == known["recursive 9"]


def test_the_depth_of_a_mutual_recursion_is_not_part_of_the_bug(known):
    assert known["to and fro 1"] == known["to and fro 4"]


def test_different_functions_have_different_names(known):
    cases = ("plain", "other", "comprehension", "recursive 1", "to and fro 1", "below", "loop")

    assert len({known[case] for case in cases}) == len(cases)


def test_the_library_function_that_the_program_called_is_part_of_the_name():
    program = a_frame("handle")
    deeper = Frame("/x/site-packages/poolib/raw.py", 3, "retry")

    def called(function: str, *below: Frame) -> str:
        return fingerprint([*below, Frame("/x/site-packages/poolib/api.py", 9, function), program])

    assert called("get") != called("put")
    assert called("get") == called("get", deeper)


def test_library_frames_above_the_program_s_own_are_not_part_of_the_name():
    stack = [a_frame("handle"), a_frame("main")]
    runner = Frame("/x/site-packages/gunicorn/arbiter.py", 4, "spawn")

    assert fingerprint([*stack, runner]) == fingerprint(stack)


LOOP = [
    Frame(socketserver.__file__, 500, "get_request"),
    Frame(socketserver.__file__, 230, "serve_forever"),
]


def test_a_socket_accepted_by_library_code_is_named_by_its_listener():
    shop, admin = [a_frame("open_shop")], [a_frame("open_admin")]

    assert fingerprint(LOOP, shop) != fingerprint(LOOP, admin)
    assert fingerprint(LOOP, shop) != fingerprint(LOOP)
    assert fingerprint(LOOP, shop) == fingerprint(LOOP, [a_frame("open_shop", line=99)])


def test_where_the_program_accepted_the_listener_is_not_part_of_the_name():
    stack = [a_frame("serve"), *LOOP]

    assert fingerprint(stack, [a_frame("open_shop")]) == fingerprint(stack)


def test_a_stack_of_library_code_only_is_named_by_it():
    library = [Frame("/x/site-packages/poolib/api.py", 9, "get")]

    assert fingerprint([*library, *LOOP]) == fingerprint(library)
    assert fingerprint(LOOP) != fingerprint(LOOP[1:]) != fingerprint(())


def test_a_fingerprint_is_twelve_hexadecimal_digits_also_of_a_name_that_is_no_text():
    odd = a_frame(file="/srv/caf\udce9.py")

    assert all(re.fullmatch("[0-9a-f]{12}", fingerprint(stack)) for stack in ([odd], []))


# -- the program's own line -------------------------------------------------------------


def test_the_culprit_is_the_innermost_line_of_the_program():
    stack = [*LOOP, a_frame("inner"), a_frame("outer")]

    assert culprit(stack) == a_frame("inner")


def test_without_a_line_of_the_program_the_culprit_is_the_innermost():
    assert culprit(LOOP) == LOOP[0]
    assert culprit([]) is None


def test_the_culprit_is_a_line_that_a_person_can_open():
    # dataclasses and attrs make an __init__ in no file; its caller is the program's line.
    made = Frame("<string>", 3, "__init__")

    assert culprit([made, a_frame("handle")]) == a_frame("handle")


def test_code_in_no_file_is_the_culprit_where_there_is_nothing_else():
    code = Frame("<string>", 3, "<module>")

    assert culprit([*LOOP, code]) == code
