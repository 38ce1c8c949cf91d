"""Reports in words: whole texts for made-up findings."""

from __future__ import annotations

import re
import socketserver

import pytest
from support.builders import (
    MS,
    SECOND,
    a_finding,
    a_frame,
    a_leak_event,
    a_resolved_event,
    a_summary,
    a_total,
    an_origin,
)

from sockguard import stderr
from sockguard.exporters.text import TextExporter
from sockguard.exporters.wording import duration, leak, place, plural, resolved, summary, trail
from sockguard.findings import Event, Kind, Verdict
from sockguard.leaks import MAX_GROUPS, Leaks
from sockguard.stacks import Frame
from sockguard.tcp import TcpState


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
    """Work in a folder that the made-up files are not in: their paths stay whole."""
    monkeypatch.chdir(tmp_path)


def report(event: Event, fresh: int, pid: int | None = None) -> str:
    return "\n".join(leak(event, fresh, pid))


def row(event: Event, label: str, fresh: int = 1) -> str:
    """Return the rows of a report under ``label``, as one text."""
    text = "\n".join(leak(event, fresh, None))
    match = re.search(rf"^  {label} *(.*(?:\n {{8,}}.*)*)", text, re.MULTILINE)
    assert match is not None, text
    return match[1]


# -- words ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 sockets"), (1, "1 socket"), (2, "2 sockets"), (1000, "1000 sockets")],
)
def test_one_is_singular_and_all_else_is_plural(count, words):
    assert plural(count, "socket") == words


@pytest.mark.parametrize(
    ("ns", "words"),
    [
        (-5, "0 ms"),
        (0, "0 ms"),
        (850 * MS, "850 ms"),
        (999 * MS, "999 ms"),
        (SECOND, "1.0 s"),
        (12_340 * MS, "12.3 s"),
        (119 * SECOND, "119.0 s"),
        (120 * SECOND, "2 min"),
        (720 * SECOND, "12 min"),
        (7199 * SECOND, "120 min"),
        (7200 * SECOND, "2 h"),
        (90_000 * SECOND, "25 h"),
    ],
)
def test_a_time_span_is_said_as_a_person_says_it(ns, words):
    assert duration(ns) == words


def test_a_time_span_just_below_a_second_is_not_a_thousand_milliseconds():
    assert duration(SECOND - 1) == "1.0 s"


# -- one report -------------------------------------------------------------------------


def test_a_report_of_one_socket_says_all_of_it():
    event = a_leak_event(
        created=an_origin(
            a_frame("connect", "/srv/shop/db.py", 88),
            a_frame("refresh", "/srv/shop/jobs.py", 31),
            thread="worker-1",
            task="Task-7",
            trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
        ),
        listener=an_origin(a_frame("open_shop", "/srv/shop/main.py", 9)),
        eof=an_origin(a_frame("read", "/srv/shop/db.py", 120)),
        holders=("shop.db.POOL -> Pool._idle[2]", "Connection._sock"),
    )

    assert report(event, 1, pid=42) == (
        "1 socket leaked here: the peer closed, we did not"
        "                        [a1f39c000000 pid 42]\n"
        "  socket   60.0 s since the peer's FIN (CLOSE_WAIT), fd 41, peer 10.0.0.9:5432,"
        " FIN unread\n"
        "  opened   /srv/shop/db.py:88 in connect\n"
        "             <- /srv/shop/jobs.py:31 in refresh\n"
        "  by       thread worker-1, task Task-7, trace 4bf92f3577b34da6a3ce929d0e0e4736\n"
        "  listener /srv/shop/main.py:9 in open_shop\n"
        "  told at  /srv/shop/db.py:120 in read\n"
        "  held by  shop.db.POOL -> Pool._idle[2]\n"
        "           and by Connection._sock\n"
        "  why      nobody has read what the peer sent last (unread)\n"
        "  next     close the socket"
    )


def test_what_is_unknown_is_called_unknown():
    event = a_leak_event(
        verdict=Verdict.UNKNOWN,
        why="unknown: nothing was seen",
        peer=None,
        local=None,
        unread_bytes=None,
        end_unread=None,
        created=an_origin(),
    )

    assert report(event, 1) == (
        "1 socket leaked here: the peer closed, we did not"
        "                        [a1f39c000000]\n"
        "  socket   60.0 s since the peer's FIN (CLOSE_WAIT), fd 41, peer unknown,"
        " unread bytes unknown\n"
        "  opened   unknown\n"
        "  by       unknown\n"
        "  held by  unknown\n"
        "  why      unknown: nothing was seen (unknown)\n"
        "  next     close the socket"
    )


@pytest.mark.parametrize(
    ("count", "fresh", "head"),
    [
        (1, 1, "1 socket leaked here: the peer closed, we did not"),
        (5, 5, "5 sockets leaked here: the peer closed, we did not"),
        (8, 3, "3 more leaked here, 8 by now: the peer closed, we did not"),
        (16, 1, "1 more leaked here, 16 by now: the peer closed, we did not"),
    ],
)
def test_the_headline_counts_what_is_new_and_what_there_is(count, fresh, head):
    first = leak(a_leak_event(count=count), fresh, None)[0]

    assert first == f"{head:<72} [a1f39c000000]"


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_has_a_headline_of_its_own(kind):
    heads = {leak(a_leak_event(kind=other), 1, None)[0] for other in Kind if other is not kind}

    assert leak(a_leak_event(kind=kind), 1, None)[0] not in heads


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        ({}, "FIN unread"),
        ({"unread_bytes": 1}, "1 byte unread"),
        ({"unread_bytes": 9}, "9 bytes unread"),
        ({"end_unread": None}, "nothing unread"),
        ({"end_unread": None, "unread_bytes": None}, "unread bytes unknown"),
        ({"kind": Kind.PEER_RESET, "state": TcpState.CLOSED}, "error unread"),
    ],
)
def test_what_nobody_has_read_is_told(seen, words):
    assert row(a_leak_event(**seen), "socket").endswith(f", {words}")


def test_a_dead_connection_is_not_said_to_have_been_reset_where_nothing_shows_it():
    # Both sides shut down in good order, and the descriptor is open: CLOSED as well.
    event = a_leak_event(kind=Kind.PEER_RESET, state=TcpState.CLOSED, end_unread=None)

    text = row(event, "socket")
    assert "(CLOSED), fd 41" in text
    assert "reset" not in text
    assert "FIN" not in text


def test_a_socket_freed_after_a_reset_is_not_said_to_have_had_a_fin():
    event = a_leak_event(kind=Kind.COLLECTED, state=TcpState.CLOSED, end_unread=None)

    assert "FIN" not in row(event, "socket")


def test_an_af_unix_peer_without_a_name_is_unnamed():
    event = a_leak_event(state=None, peer=None, end_unread=None)

    assert "(peer hung up), fd 41, peer unnamed" in row(event, "socket")


def test_the_example_of_several_new_ones_is_the_oldest():
    assert row(a_leak_event(count=3, still_open=3), "oldest", fresh=3).startswith("60.0 s")


def test_a_later_example_is_not_called_the_oldest():
    # Those that were reported before are older than the ones that are new.
    text = report(a_leak_event(count=8, still_open=8), 3)

    assert "oldest" not in text


# -- frames -----------------------------------------------------------------------------

LIBRARY = [Frame(f"/x/site-packages/poolib/f{n}.py", n, f"lib{n}") for n in range(9)]
LOOP = Frame(socketserver.__file__, 230, "serve_forever")


def functions(stack: list[Frame]) -> list[str]:
    return [line.rpartition(" in ")[2] for line in trail(stack)]


def test_a_file_below_the_working_directory_is_told_from_there(tmp_path):
    frame = a_frame("handle", f"{tmp_path}/shop/app.py", 12)

    assert place(frame) == "shop/app.py:12 in handle"


def test_a_file_elsewhere_is_told_whole():
    assert place(a_frame("handle", "/srv/shop/app.py", 12)) == "/srv/shop/app.py:12 in handle"


def test_a_place_can_be_told_from_a_folder_that_is_gone(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    assert place(a_frame("handle", "/srv/shop/app.py", 12)) == "/srv/shop/app.py:12 in handle"


def test_a_line_that_is_unknown_is_a_question_mark():
    assert place(Frame("<string>", None, "<module>")) == "<string>:? in <module>"


def test_frames_above_the_program_s_outermost_are_left_out():
    assert functions([a_frame("inner"), a_frame("outer"), LOOP, *LIBRARY]) == [
        "inner (yours)",
        "outer",
    ]


def test_library_frames_between_the_program_s_own_are_shown():
    assert functions([a_frame("inner"), LOOP, a_frame("outer")]) == [
        "inner (yours)",
        "serve_forever",
        "outer",
    ]


@pytest.mark.parametrize(
    ("deep", "shown"),
    [
        (0, ["handle"]),
        (1, ["lib0", "handle (yours)"]),
        (2, ["lib0", "lib1", "handle (yours)"]),
        (3, ["lib0", "lib2", "handle (yours)"]),
        (9, ["lib0", "lib8", "handle (yours)"]),
    ],
)
def test_of_a_deep_library_call_both_ends_are_shown(deep, shown):
    assert functions([*LIBRARY[:deep], a_frame("handle")]) == shown


def test_a_long_stack_of_the_program_s_own_is_cut_and_that_is_said():
    stack = [a_frame(f"f{n}", line=n) for n in range(1, 10)]

    assert functions(stack) == ["f1", "f2", "f3", "f4", "f5", "f6", "… 3 more"]
    assert functions(stack[:6]) == ["f1", "f2", "f3", "f4", "f5", "f6"]


def test_a_stack_without_a_line_of_the_program_is_shown_as_it_is():
    assert functions([LOOP, *LIBRARY[:2]]) == ["serve_forever", "lib0", "lib1"]


def test_no_stack_is_unknown():
    assert trail([]) == ["unknown"]


# -- withdrawal and summary -------------------------------------------------------------


def test_a_withdrawal_says_how_late_the_close_was_and_how_many_are_left():
    event = a_resolved_event(count=5, still_open=3)

    assert resolved(event) == "closed after all: fd 41, 63.0 s after the peer; 3 of 5 still open"


def test_a_clean_summary_is_one_line():
    assert summary(a_summary(tracked=1)) == ["sockguard: no leak; 1 socket tracked"]
    assert summary(a_summary(tracked=0)) == ["sockguard: no leak; 0 sockets tracked"]


def test_a_summary_lists_the_places_that_leaked():
    totals = a_summary(
        tracked=30,
        groups=(
            a_total(count=12, open=10),
            a_total(fingerprint="b2", count=1, open=0, site=None, verdict=Verdict.UNKNOWN),
        ),
    )

    assert summary(totals) == [
        "sockguard: 13 sockets leaked at 2 places, 10 still open at exit; 30 sockets tracked",
        "      12  [a1f39c000000] /srv/shop/app.py:12 in handle (unread)",
        "       1  [b2] unknown (unknown)",
    ]


def test_a_summary_of_one_leak_is_singular():
    (first, _) = summary(a_summary(tracked=1, groups=(a_total(),)))

    assert first == "sockguard: 1 socket leaked at 1 place, 1 still open at exit; 1 socket tracked"


def test_sockets_that_were_only_late_are_told_apart_from_leaks():
    totals = a_summary(open_at_exit=(a_total(count=2), a_total(fingerprint="b2", count=1)))

    assert summary(totals) == [
        "sockguard: no leak; 3 sockets tracked",
        "sockguard: 3 sockets open at exit whose peer had closed, for less than the threshold",
        "       2  [a1f39c000000] /srv/shop/app.py:12 in handle",
        "       1  [b2] /srv/shop/app.py:12 in handle",
    ]


# -- the exporter's batches -------------------------------------------------------------


@pytest.fixture
def said(monkeypatch, capfd):
    """Return what went to standard error since the last call."""
    monkeypatch.setattr(stderr, "_ours", stderr._ours)  # put back in the end

    def read() -> str:
        text: str = capfd.readouterr().err
        return text

    return read


def an_exporter() -> TextExporter:
    """Return the exporter of a program that starts now.

    Called by the test, not by a fixture: pytest puts another file under descriptor 2
    between the two.
    """
    stderr.remember()
    return TextExporter(is_root=True)


def test_findings_of_one_cause_and_tick_make_one_report_of_the_oldest(said):
    exporter = an_exporter()
    ages = {1: 60 * SECOND, 2: 63 * SECOND, 3: 61 * SECOND}
    exporter.export([a_leak_event(count=3, still_open=3, fd=n, since_fin_ns=ages[n]) for n in ages])

    text = said()
    assert text.count("leaked here") == text.count("3 sockets leaked here") == 1
    assert "oldest   63.0 s since the peer's FIN (CLOSE_WAIT), fd 2," in text


def test_the_next_report_of_a_cause_counts_what_is_new(said):
    exporter = an_exporter()
    exporter.export([a_leak_event(count=5, still_open=5)])
    said()
    exporter.export([a_leak_event(count=8, still_open=8)])

    assert said().startswith("\n3 more leaked here, 8 by now")


def test_a_cause_beyond_the_bound_is_not_said_to_have_leaked_all_that_it_is_counted_with(said):
    leaks = Leaks()
    for n in range(MAX_GROUPS):
        leaks.add(a_finding(fingerprint=f"cause {n}"))
    exporter = an_exporter()
    for name in ("first late", "second late", "third late"):
        event = leaks.add(a_finding(fingerprint=name))
        assert event is not None
        exporter.export([leaks.up_to_date(event)])

    assert "3 sockets leaked here" not in said()
