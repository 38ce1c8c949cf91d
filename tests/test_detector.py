"""When is it a leak: the rules, with the time passed in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.builders import (
    MS,
    SECOND,
    a_record,
    a_trouble,
    an_observation,
)

from sockguard.detector import JIFFY_NS, Trouble, collected, follow, is_leak
from sockguard.findings import Kind, Observation
from sockguard.tcp import TcpState

NOW = 100 * SECOND


def first_look(now_ns: int = NOW, created_ns: int = 0, **seen: object) -> Trouble:
    trouble = follow(a_record(created_ns=created_ns), None, an_observation(**seen), now_ns=now_ns)
    assert trouble is not None
    return trouble


def next_look(trouble: Trouble, now_ns: int, **seen: object) -> Trouble | None:
    return follow(a_record(), trouble, an_observation(**seen), now_ns=now_ns)


# -- the table of kinds -----------------------------------------------------------------

TROUBLE = {
    (TcpState.CLOSE_WAIT, True): Kind.PEER_CLOSED,
    (TcpState.CLOSE_WAIT, False): Kind.PEER_CLOSED,
    (TcpState.CLOSED, True): Kind.PEER_RESET,
}


@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("state", [*TcpState, None])
def test_each_state_is_the_kind_of_trouble_that_the_table_says(state, connected):
    seen = Observation(state=state, connected=connected)

    trouble = follow(a_record(), None, seen, now_ns=NOW)

    assert (trouble and trouble.kind) == TROUBLE.get((state, connected))
    assert trouble is None or trouble.state is state


def test_an_af_unix_socket_is_in_trouble_when_its_peer_hung_up():
    trouble = first_look(state=None, hung_up=True)

    assert (trouble.kind, trouble.fin_ns, trouble.clock_ns) == (Kind.PEER_CLOSED, NOW, NOW)


# -- the clock --------------------------------------------------------------------------


def test_the_clock_starts_at_the_fin_also_when_first_looked_at_later():
    trouble = first_look(last_ack_ms=5000)

    assert trouble.fin_ns == NOW - 5 * SECOND
    assert trouble.clock_ns == trouble.fin_ns + JIFFY_NS


def test_a_jiffy_of_rounding_never_accuses_before_the_threshold():
    trouble = first_look(last_ack_ms=5000)
    latest_fin_ns = NOW - 5 * SECOND + JIFFY_NS

    def accused(now_ns: int) -> bool:
        return is_leak(trouble, now_ns=now_ns, threshold_ns=60 * SECOND)

    assert not accused(latest_fin_ns + 60 * SECOND - 1)
    assert accused(latest_fin_ns + 60 * SECOND)


def test_the_margin_never_puts_the_clock_into_the_future():
    trouble = first_look(last_ack_ms=3)

    assert trouble.clock_ns == NOW
    assert is_leak(trouble, now_ns=NOW, threshold_ns=0)


def test_a_fin_may_be_older_than_the_object_which_gets_the_whole_threshold():
    # The client went while its connection waited for accept().
    trouble = first_look(created_ns=NOW - SECOND, last_ack_ms=5000)

    assert trouble.fin_ns == NOW - 5 * SECOND
    assert not is_leak(trouble, now_ns=NOW, threshold_ns=SECOND)
    assert is_leak(trouble, now_ns=NOW + SECOND // 10, threshold_ns=SECOND)


def test_where_the_kernel_tells_no_age_the_clock_starts_at_the_first_look():
    trouble = first_look(last_ack_ms=None)

    assert (trouble.fin_ns, trouble.clock_ns) == (NOW, NOW)


def test_bytes_acknowledged_restart_the_clock_and_never_the_time_since_the_fin():
    begun = first_look(last_ack_ms=5000, bytes_acked=10)

    trouble = next_look(begun, NOW + 9 * SECOND, last_ack_ms=40, bytes_acked=11)

    assert trouble is not None
    assert (trouble.clock_ns, trouble.fin_ns) == (NOW + 9 * SECOND, begun.fin_ns)
    assert trouble.bytes_acked == 11


def test_each_further_byte_acknowledged_restarts_the_clock_again():
    trouble = first_look(last_ack_ms=0, bytes_acked=10)
    for step in range(1, 4):
        trouble = next_look(trouble, NOW + step * SECOND, last_ack_ms=0, bytes_acked=10 + step)
        assert trouble is not None
        assert trouble.clock_ns == NOW + step * SECOND


@pytest.mark.parametrize("acked", [10, None])
def test_a_keep_alive_probe_that_is_answered_restarts_nothing(acked):
    begun = first_look(last_ack_ms=5000, bytes_acked=acked)

    trouble = next_look(begun, NOW + 9 * SECOND, last_ack_ms=40, bytes_acked=acked)

    assert trouble == begun


def test_a_later_look_that_knows_an_older_fin_is_believed():
    begun = first_look(last_ack_ms=None)

    trouble = next_look(begun, NOW + SECOND, last_ack_ms=3000)

    assert trouble is not None
    assert (trouble.fin_ns, trouble.clock_ns) == (NOW - 2 * SECOND, begun.clock_ns)


def test_a_reset_starts_its_clock_at_first_sight_however_long_the_connection_was_idle():
    trouble = first_look(state=TcpState.CLOSED, last_ack_ms=3_000_000)

    assert (trouble.kind, trouble.fin_ns, trouble.clock_ns) == (Kind.PEER_RESET, NOW, NOW)


def test_close_wait_that_turns_into_close_keeps_its_kind_and_its_times():
    begun = first_look(last_ack_ms=5000, bytes_acked=10)

    trouble = next_look(begun, NOW + SECOND, state=TcpState.CLOSED, bytes_acked=10)

    assert trouble is not None
    assert trouble.state is TcpState.CLOSED
    assert (trouble.kind, trouble.fin_ns, trouble.clock_ns) == (
        Kind.PEER_CLOSED,
        begun.fin_ns,
        begun.clock_ns,
    )


def test_a_reset_acknowledged_before_it_came_counts_as_the_answer_that_it_was():
    begun = first_look(last_ack_ms=5000, bytes_acked=10)

    trouble = next_look(begun, NOW + SECOND, state=TcpState.CLOSED, bytes_acked=20)

    assert trouble is not None
    assert trouble.clock_ns == NOW + SECOND


# -- waiting and withdrawal -------------------------------------------------------------

ENDING = pytest.mark.parametrize("ending", [TcpState.LAST_ACK, TcpState.CLOSING])


@ENDING
def test_while_our_own_fin_is_on_its_way_nobody_is_accused(ending):
    begun = first_look(last_ack_ms=0)

    trouble = next_look(begun, NOW + 999 * SECOND, state=ending)

    assert trouble is not None
    assert not is_leak(trouble, now_ns=NOW + 999 * SECOND, threshold_ns=0)


@ENDING
def test_a_socket_left_open_after_our_own_fin_is_judged_by_its_first_clock(ending):
    begun = first_look(last_ack_ms=5000)
    waiting = next_look(begun, NOW + SECOND, state=ending)
    assert waiting is not None

    trouble = next_look(waiting, NOW + 2 * SECOND, state=TcpState.CLOSED)

    assert trouble is not None
    assert (trouble.kind, trouble.fin_ns, trouble.clock_ns) == (
        begun.kind,
        begun.fin_ns,
        begun.clock_ns,
    )


@ENDING
def test_a_socket_first_seen_while_it_ends_is_in_no_trouble(ending):
    assert follow(a_record(), None, an_observation(state=ending), now_ns=NOW) is None


@pytest.mark.parametrize("state", [TcpState.ESTABLISHED, TcpState.SYN_SENT, None])
def test_trouble_is_withdrawn_when_the_kernel_shows_none(state):
    assert next_look(a_trouble(), NOW, state=state) is None


def test_a_finding_comes_at_the_threshold_and_not_a_nanosecond_before():
    trouble = a_trouble(clock_ns=NOW)

    assert not is_leak(trouble, now_ns=NOW + 60 * SECOND - 1, threshold_ns=60 * SECOND)
    assert is_leak(trouble, now_ns=NOW + 60 * SECOND, threshold_ns=60 * SECOND)


def test_a_socket_freed_unclosed_is_of_that_kind_and_keeps_its_times():
    before = a_trouble(fin_ns=5, clock_ns=7, bytes_acked=9)

    assert collected(before) == a_trouble(kind=Kind.COLLECTED, fin_ns=5, clock_ns=7, bytes_acked=9)


# -- whatever happens -------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.integers(min_value=0, max_value=90 * SECOND),
        st.sampled_from(["look", "ack", "probe", "ack unseen", "shut", "reset"]),
    ),
    max_size=12,
)


@given(
    fin_ns=st.integers(min_value=0, max_value=NOW),
    jiffy_ms=st.sampled_from([1, 4, 10]),
    threshold_ns=st.integers(min_value=0, max_value=120 * SECOND),
    steps=STEPS,
)
def test_no_order_of_events_brings_a_finding_before_the_threshold(
    fin_ns, jiffy_ms, threshold_ns, steps
):
    """The kernel counts whole jiffies; acknowledgements come seen and between two looks."""
    now_ns = last_heard_ns = last_progress_ns = fin_ns
    acked, state, trouble = 10, TcpState.CLOSE_WAIT, None
    for wait_ns, step in steps:
        now_ns += wait_ns
        if step.startswith("ack") and state is TcpState.CLOSE_WAIT:
            acked += 1
            last_heard_ns = last_progress_ns = now_ns
        elif step == "probe":
            last_heard_ns = now_ns
        elif step == "shut" and state is TcpState.CLOSE_WAIT:
            state = TcpState.LAST_ACK
        elif step == "reset":
            state = TcpState.CLOSED
        if step == "ack unseen":
            continue
        jiffy_ns = jiffy_ms * MS
        age_ms = (now_ns // jiffy_ns - last_heard_ns // jiffy_ns) * jiffy_ms
        seen = an_observation(state=state, last_ack_ms=age_ms, bytes_acked=acked)
        trouble = follow(a_record(), trouble, seen, now_ns=now_ns)
        if trouble is None:
            continue
        assert trouble.fin_ns > fin_ns - jiffy_ns
        if is_leak(trouble, now_ns=now_ns, threshold_ns=threshold_ns):
            assert now_ns - last_progress_ns >= threshold_ns
            assert state is not TcpState.LAST_ACK


@given(
    looks=st.lists(st.integers(min_value=1, max_value=30 * SECOND), min_size=1, max_size=12),
    threshold_ns=st.integers(min_value=0, max_value=120 * SECOND),
)
def test_a_socket_that_nobody_touches_is_found_a_jiffy_after_the_threshold(looks, threshold_ns):
    now_ns, trouble = 0, None
    for wait_ns in looks:
        now_ns += wait_ns
        seen = an_observation(last_ack_ms=now_ns // MS, bytes_acked=10)
        trouble = follow(a_record(), trouble, seen, now_ns=now_ns)
        assert trouble is not None
        late = now_ns >= threshold_ns + MS + JIFFY_NS
        assert is_leak(trouble, now_ns=now_ns, threshold_ns=threshold_ns) or not late
