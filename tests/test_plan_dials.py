"""The policy of dials, without a clock: whom to dial, and when."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barnacle_trio._errors import HandshakeRefused, PeerUnreachable
from barnacle_trio._names import NodeName
from barnacle_trio._peers import CAP_REFUSED, CAP_SILENT, MAX_RETRIES
from barnacle_trio._plan import Plan
from tests.plan_players import LOCAL, A, B, C, D, complete, fail, make, with_up


def test_a_newly_discovered_name_is_dialled_at_once() -> None:
    plan = make()
    plan.answer(complete(A, B), 7.0)
    assert sorted(plan.take_dials(7.0)) == [A, B]
    assert plan.take_dials(7.0) == [], "each is dialled once at a time"


def test_the_local_node_is_never_dialled_nor_listed() -> None:
    plan = make()
    plan.answer(complete(LOCAL, A), 0.0)
    assert plan.take_dials(0.0) == [A]
    plan.up(LOCAL, 0.0)
    assert plan.nodes() == frozenset()
    assert LOCAL not in plan.status()


def test_backoff_starts_at_a_tenth_and_doubles_to_the_poll_interval() -> None:
    plan, now, delays = make(poll_interval=5.0), 0.0, []
    plan.answer(complete(A), now)
    for _ in range(9):
        assert plan.take_dials(now) == [A]
        due = fail(plan, A, now)
        delays.append(due - now)
        assert plan.next_dial() == due
        assert plan.take_dials(due - 0.001) == []
        now = due
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0])


def test_backoff_has_full_jitter() -> None:
    plan = make(rng=0.25)
    plan.answer(complete(A), 0.0)
    plan.take_dials(0.0)
    assert fail(plan, A, 0.0) == pytest.approx(0.025)


@pytest.mark.parametrize(("silent", "cap"), [(False, CAP_REFUSED), (True, CAP_SILENT)])
def test_a_peer_lost_a_moment_ago_is_dialled_at_a_brisk_pace(silent: bool, cap: float) -> None:
    plan, now = with_up(make(poll_interval=30.0), A), 100.0
    loss = plan.down(A, "lost", now)
    assert loss is not None
    assert loss.fresh
    delays = []
    while now < 158.0:
        now = max(now, plan.next_dial())
        assert plan.take_dials(now) == [A]
        due = fail(plan, A, now, silent=silent)
        delays.append(due - now)
    assert max(delays) == pytest.approx(cap)
    plan.take_dials(200.0)
    assert fail(plan, A, 200.0, silent=silent) - 200.0 > cap, "a minute later it is one of many"


def test_the_backoff_is_forgotten_only_after_half_a_minute_up() -> None:
    plan = make(poll_interval=100.0)
    plan.answer(complete(A), 0.0)
    for _ in range(6):
        plan.take_dials(1000.0)
        fail(plan, A, 0.0)
    plan.take_dials(1000.0)
    plan.up(A, 1000.0)
    plan.dial_ended(A, 1000.0)
    assert plan.status()[A].failures == 6
    plan.down(A, "lost", 1029.0)
    assert plan.status()[A].failures == 7, "it did not last"
    plan.up(A, 1029.0)
    plan.down(A, "lost", 1059.0)
    assert plan.status()[A].failures == 0
    assert plan.status()[A].next_attempt == pytest.approx(1059.1)


def test_a_peer_that_is_cut_off_again_and_again_is_dialled_at_a_brisk_pace() -> None:
    """Each time it had worked for a while; it is no crash loop."""
    plan, now = with_up(make(poll_interval=30.0), A), 0.0
    for _ in range(20):
        now += 12.0
        plan.down(A, "silent", now)
        pause = (plan.status()[A].next_attempt or 0.0) - now
        assert pause <= CAP_SILENT
        now += pause
        assert plan.take_dials(now) == [A]
        plan.up(A, now)
        plan.dial_ended(A, now)


def test_a_crash_loop_is_dialled_ever_more_slowly() -> None:
    """F24: up for 100 ms, down again, for two minutes."""
    plan, now, ups = make(poll_interval=5.0), 0.0, []
    plan.answer(complete(A), now)
    while now < 180.0:
        assert plan.take_dials(now) == [A]
        plan.up(A, now)
        plan.dial_ended(A, now)
        ups.append(now)
        loss = plan.down(A, "lost", now + 0.1)
        assert loss is not None
        assert loss.fresh == (len(ups) == 1), "only the first loss is news"
        now = plan.next_dial()
    assert [b - a for a, b in pairwise(ups)][-1] == pytest.approx(5.1)
    assert len(ups) < 200


def test_a_long_list_of_dead_names_costs_so_many_dials_a_second() -> None:
    chance = random.Random(7)
    plan = make(rng=chance.random)
    plan.answer(complete(*(f"dead{n}@h" for n in range(1000))), 0.0)
    dials = dial_in_vain(plan, until=120.0)
    first, early, late = (
        [at for at in dials if begin <= at < end]
        for begin, end in ((0, 0.01), (0.01, 20), (60, 120))
    )
    assert 1000 <= len(first) < 1010
    assert len(early) / 20 < MAX_RETRIES * 1.5
    assert MAX_RETRIES / 2 < len(late) / 60 < MAX_RETRIES * 1.5


def test_pauses_that_were_long_for_a_crowd_are_shortened_when_it_came() -> None:
    plan = make()
    names = [NodeName(f"n{n}@h") for n in range(3000)]
    plan.answer(complete(*names), 0.0)
    now = dial_in_vain(plan, until=60.0)[-1]
    assert longest(plan) > now + 50
    for name in names[20:]:
        plan.up(name, now)
    assert longest(plan) <= now + 5.0


def dial_in_vain(plan: Plan, *, until: float) -> list[float]:
    """Let each dial be refused at once; gives when they were made."""
    dials: list[float] = []
    now = 0.0
    while now < until:
        while taken := plan.take_dials(now):
            for name in taken:
                dials.append(now)
                plan.dial_ended(name, now)
                plan.failed(name, PeerUnreachable("no"), now, silent=False)
        now = plan.next_dial()
    return dials


def longest(plan: Plan) -> float:
    return max(each.next_attempt or 0.0 for each in plan.status().values())


def test_a_crowd_of_lost_and_silent_peers_leaves_slots_to_newcomers() -> None:
    """A part of the cluster dies, and is replaced under other names."""
    lost = [NodeName(f"lost{n}@h") for n in range(200)]
    plan = make(rng=0.0)
    plan.answer(complete(*lost), 0.0)
    for name in lost:
        plan.up(name, 0.0)
    for name in lost:
        plan.down(name, "silent", 50.0)
    assert len(plan.take_dials(50.0)) == 56
    plan.answer(complete(A, *lost), 51.0)
    assert plan.take_dials(51.0) == [A]


def test_a_long_list_of_dead_names_slows_down_nobody_who_was_there() -> None:
    plan = with_up(make(), A)
    plan.answer(complete(A, *(f"dead{n}@h" for n in range(1000))), 50.0)
    plan.down(A, "lost", 50.0)
    now = 50.0
    for _ in range(10):
        now = plan.status()[A].next_attempt or now
        assert A in plan.take_dials(now)
        assert fail(plan, A, now) <= now + CAP_REFUSED


def test_slots_go_to_recently_connected_peers_first() -> None:
    plan = make(max_dials=2, rng=0.0)
    with_up(plan, D, now=0.0)
    plan.answer(complete(A, B, C, D), 50.0)
    plan.down(D, "lost", 50.0)
    assert D in plan.take_dials(50.0)


def test_some_slots_are_kept_for_recently_connected_peers() -> None:
    """F14: hundreds of dead addresses do not hold up a peer that was there a moment ago."""
    plan = with_up(make(max_dials=64, rng=0.0), A)
    plan.answer(complete(A, *(f"dead{n}@h" for n in range(500))), 1.0)
    assert len(plan.take_dials(1.0)) == 56
    plan.down(A, "lost", 2.0)
    assert plan.take_dials(2.0) == [A]


def test_names_never_tried_go_before_those_that_failed() -> None:
    plan = make(max_dials=1, rng=0.0)
    plan.answer(complete(A), 0.0)
    plan.take_dials(0.0)
    fail(plan, A, 0.0)
    plan.answer(complete(A, B), 1.0)
    assert plan.take_dials(1.0) == [B]


@given(
    st.lists(st.sampled_from(["fail", "refuse", "up", "abort"]), max_size=200), st.integers(1, 20)
)
def test_no_more_dials_than_slots_and_none_twice(outcomes: list[str], slots: int) -> None:
    names = [NodeName(f"n{n}@h") for n in range(30)]
    plan = make(max_dials=slots, rng=0.5)
    plan.answer(complete(*names), 0.0)
    dialling: list[NodeName] = []
    now = 0.0
    for outcome in [*outcomes, "abort"]:
        taken = plan.take_dials(now)
        assert not set(taken) & set(dialling)
        dialling += taken
        assert len(dialling) <= slots
        if not dialling:
            now = plan.next_dial()
            if math.isinf(now):
                assert plan.connected() == set(names)
                return
            continue
        name = dialling.pop(0)
        now += 0.01
        if outcome == "up":
            plan.up(name, now)
        plan.dial_ended(name, now)
        if outcome == "fail":
            plan.failed(name, PeerUnreachable(""), now, silent=False)
        elif outcome == "refuse":
            plan.refused(name, HandshakeRefused(""), now)
    # whoever is not connected is being dialled, or will be
    for peer_name, peer in plan.status().items():
        assert peer.state == "connected" or peer_name in dialling or peer.next_attempt is not None


def test_a_loss_while_it_is_dialled_is_not_forgotten() -> None:
    plan = make(rng=0.5)
    plan.answer(complete(A), 0.0)
    plan.take_dials(0.0)
    plan.up(A, 1.0)
    plan.down(A, "lost", 2.0)
    assert plan.take_dials(3.0) == [], "its dial has not ended yet"
    plan.dial_ended(A, 4.0)
    assert plan.take_dials(4.0) == [A]
