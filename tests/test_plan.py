"""The policy, without a clock: whom to dial, whom to disconnect, when."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barnacle_trio._errors import DiscoveryError, HandshakeRefused, PeerUnreachable
from barnacle_trio._names import NodeName
from barnacle_trio._peers import CAP_REFUSED, CAP_SILENT, MAX_RETRIES, QUIET
from barnacle_trio._plan import MAX_PAST, Plan, Prune, Rules
from barnacle_trio._strategy import Discovery

LOCAL = NodeName("local@h")
A, B, C, D = (NodeName(f"{each}@h") for each in "abcd")


def complete(*names: str) -> Discovery:
    return Discovery(kind="complete", nodes=frozenset(map(NodeName, names)))


def partial(*names: str) -> Discovery:
    error = DiscoveryError("half of it", partial=names)
    return Discovery(kind="partial", nodes=frozenset(map(NodeName, names)), error=error)


def failed() -> Discovery:
    return Discovery(kind="failed", error=DiscoveryError("no"))


def make(
    *,
    rng: float | Callable[[], float] = 1.0,
    poll_interval: float = 5.0,
    prune: Prune = "discovered",
    prune_after: float = 60.0,
    max_prune: float = 1.0,
    max_dials: int = 64,
) -> Plan:
    rules = Rules(
        poll_interval=poll_interval,
        prune=prune,
        prune_after=prune_after,
        max_prune=max_prune,
        max_dials=max_dials,
    )
    return Plan(LOCAL, rules, rng if callable(rng) else lambda: rng)


def with_up(plan: Plan, *names: NodeName, now: float = 0.0) -> Plan:
    plan.answer(complete(*names), now)
    for name in plan.take_dials(now):
        plan.up(name, now)
        plan.dial_ended(name, now)
    return plan


def fail(plan: Plan, name: NodeName, now: float, *, silent: bool = False) -> float:
    """Fail the dial of a peer; returns when the next one is due."""
    plan.dial_ended(name, now)
    plan.failed(name, PeerUnreachable("no"), now, silent=silent)
    due = plan.status()[name].next_attempt
    assert due is not None
    return due


# -- dials -----------------------------------------------------------------------------------------


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


# -- quarantine ------------------------------------------------------------------------------------


def refuse(plan: Plan, name: NodeName, now: float, location: object = None) -> float:
    plan.dial_ended(name, now)
    plan.refused(name, HandshakeRefused("wrong cookie"), now, location=location)
    due = plan.status()[name].next_attempt
    assert due is not None
    return due - now


def test_a_refusal_is_quarantined_from_five_seconds_doubling_to_an_hour() -> None:
    plan, now, pauses = make(), 0.0, []
    plan.answer(complete(A), now)
    for _ in range(12):
        assert plan.take_dials(now) == [A]
        pauses.append(refuse(plan, A, now))
        assert plan.status()[A].state == "quarantined"
        now += pauses[-1]
    assert pauses[:4] == [5.0, 10.0, 20.0, 40.0]
    assert pauses[-2:] == [3600.0, 3600.0]


def test_a_quarantine_ends_when_the_peer_moved() -> None:
    plan = make()
    plan.answer(complete(A, B), 0.0)
    plan.take_dials(0.0)
    refuse(plan, A, 0.0, location=4711)
    refuse(plan, B, 0.0)
    assert plan.suspects(1.0) == {A}, "nothing is known of where the other one is"
    assert not plan.located(A, None, 1.0)
    assert not plan.located(A, 4711, 1.0)
    assert not plan.located(B, 4712, 1.0)
    assert plan.take_dials(1.0) == []
    assert plan.located(A, 4712, 1.0)
    assert plan.take_dials(1.0) == [A]
    assert refuse(plan, A, 1.0) == 5.0, "a new one, not the old one's second refusal"


def test_a_quarantine_ends_when_the_peer_connects_by_itself() -> None:
    plan = make()
    plan.answer(complete(A), 0.0)
    plan.take_dials(0.0)
    refuse(plan, A, 0.0)
    assert plan.up(A, 1.0)
    assert plan.status()[A].state == "connected"
    plan.down(A, "lost", 2.0)
    assert plan.status()[A].state == "backing_off"
    plan.take_dials(3.0)
    assert refuse(plan, A, 3.0) == 10.0, "it did not stay: refusals are remembered"


# -- who said goodbye ------------------------------------------------------------------------------


def leave(plan: Plan, *names: NodeName, at: float) -> None:
    plan.answer(complete(*names), at - 1)
    plan.take_dials(at - 1)
    for name in names:
        plan.up(name, at - 1)
        plan.dial_ended(name, at - 1)
        plan.down(name, "left", at)


@pytest.mark.parametrize("poll_interval", [0.1, 1.0, 60.0])
def test_who_left_is_quiet_for_a_while_however_often_we_poll(poll_interval: float) -> None:
    plan = make(poll_interval=poll_interval)
    leave(plan, A, at=100.0)
    plan.answer(complete(A), 101.0)  # a slow source names it still
    assert plan.take_dials(100.0 + QUIET - 0.01) == []
    assert plan.take_dials(100.0 + QUIET) == [A]


def test_who_left_and_is_named_no_longer_is_not_dialled_at_all() -> None:
    plan = make(prune_after=60.0)
    leave(plan, A, at=100.0)
    plan.answer(complete(B), 101.0)
    assert plan.take_dials(150.0) == [B]
    assert A not in plan.status()


def test_who_left_and_is_named_again_is_back() -> None:
    plan = make()
    leave(plan, A, at=100.0)
    plan.answer(complete(B), 101.0)
    plan.take_dials(101.0)
    plan.answer(complete(A, B), 102.0)
    assert plan.take_dials(102.0) == [A]


def test_who_left_and_is_found_at_a_new_place_is_back() -> None:
    plan = make()
    leave(plan, A, at=100.0)
    assert plan.suspects(101.0) == {A}
    assert not plan.located(A, None, 101.0), "it is gone"
    assert plan.take_dials(101.0) == []
    assert plan.located(A, 4712, 102.0)
    assert plan.take_dials(102.0) == [A]


def test_who_left_and_is_found_where_it_was_may_not_have_gone_yet() -> None:
    plan = make()
    leave(plan, A, at=100.0)
    assert not plan.located(A, 4711, 101.0)
    assert not plan.located(A, 4711, 102.0)
    assert plan.located(A, 4712, 103.0)
    assert plan.suspects(103.0) == frozenset()


def test_nobody_looks_for_who_left_long_ago() -> None:
    plan = make()
    leave(plan, A, at=100.0)
    assert plan.suspects(100.0 + QUIET) == frozenset()


def test_who_left_and_dials_us_is_one_like_any_other() -> None:
    plan = make(rng=1.0)
    leave(plan, A, at=100.0)
    assert plan.up(A, 101.0)
    plan.down(A, "lost", 201.0)
    assert plan.take_dials(201.2) == [A]


def test_force_ignores_backoff_and_quarantine() -> None:
    plan = make()
    plan.answer(complete(A, B, C), 0.0)
    plan.take_dials(0.0)
    refuse(plan, A, 0.0)
    fail(plan, B, 0.0)
    assert plan.force(0.0) == {A, B, C}, "C is being dialled: it is waited for"
    assert sorted(plan.take_dials(0.0)) == [A, B]


def test_only_news_is_worth_a_line() -> None:
    plan, error = make(rng=0.0), PeerUnreachable("no")
    plan.answer(complete(A), 0.0)
    news = []
    for now in range(20):
        plan.take_dials(float(now))
        plan.dial_ended(A, float(now))
        news.append(plan.failed(A, error, float(now), silent=False))
    assert news == [True] + [False] * 19


# -- discovery -------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [failed(), partial(B)])
def test_failed_and_partial_answers_take_nobody_away(answer: Discovery) -> None:
    plan = with_up(make(prune_after=1.0), A)
    for now in range(1, 100):
        plan.answer(answer, float(now))
        assert plan.take_prunes(float(now)) == []
    plan.down(A, "lost", 200.0)
    assert A in plan.take_dials(201.0), "the last good answer stays in use"


def test_a_partial_answer_adds() -> None:
    plan = make()
    plan.answer(partial(A), 0.0)
    assert plan.take_dials(0.0) == [A]


def test_a_connected_node_is_ours_once_it_is_named() -> None:
    plan = make()
    assert not plan.up(A, 0.0)
    assert plan.nodes() == frozenset()
    assert plan.answer(complete(A), 1.0).adopted == {A}
    assert plan.nodes() == {A}
    assert plan.answer(complete(A), 2.0).adopted == frozenset()


def test_a_lost_node_that_is_not_named_any_more_is_dialled_until_prune_after() -> None:
    plan = with_up(make(prune_after=60.0), A, B)
    plan.down(A, "lost", 10.0)
    plan.answer(complete(B), 10.0)
    assert plan.take_dials(11.0) == [A]
    fail(plan, A, 11.0)
    assert plan.take_dials(69.0) == [A]
    fail(plan, A, 69.0)
    assert plan.take_dials(71.0) == []
    assert plan.answer(complete(B), 72.0).dropped == {A}


def test_a_name_that_never_connected_is_dropped_with_the_answer() -> None:
    plan = make()
    plan.answer(complete(A), 0.0)
    plan.take_dials(0.0)
    fail(plan, A, 0.0)
    assert plan.answer(complete(B), 1.0).dropped == {A}
    assert A not in plan.status()
    assert plan.take_dials(99.0) == [B]


def test_memory_of_names_that_come_and_go_is_bounded() -> None:
    plan = make(prune_after=0.0)
    for generation in range(60):
        names = [f"n{generation}x{n}@h" for n in range(500)]
        with_up(plan, *map(NodeName, names), now=float(generation))
        for name in names:
            plan.down(NodeName(name), "lost", float(generation))
    plan.answer(complete(A), 100.0)
    assert len(plan._peers) == 1
    assert len(plan._past) == MAX_PAST


# -- pruning ---------------------------------------------------------------------------------------


def missing(plan: Plan, *named: str, times: Iterable[float]) -> list[tuple[float, NodeName]]:
    """Give answers at the times, and have what is to be pruned go."""
    gone = []
    for now in times:
        plan.answer(complete(*named), now)
        for name in plan.take_prunes(now):
            loss = plan.down(name, "closed_by_us", now)
            assert loss is not None
            assert loss.reason == "pruned"
            assert plan.prune_ended(name, now)
            gone.append((now, name))
    return gone


def test_a_node_is_pruned_when_it_was_missing_for_prune_after() -> None:
    plan = with_up(make(prune_after=60.0), A, B)
    assert missing(plan, A, times=range(5, 100, 5)) == [(65, B)]


def test_two_answers_are_needed_however_long_the_time_between() -> None:
    plan = with_up(make(prune_after=0.0), A, B)
    assert missing(plan, A, times=[100.0, 101.0]) == [(101.0, B)]


def test_being_named_once_starts_the_time_anew() -> None:
    plan = with_up(make(prune_after=10.0), A, B)
    assert missing(plan, A, times=[1.0, 6.0]) == []
    plan.answer(partial(B), 7.0)
    assert missing(plan, A, times=[8.0, 17.0]) == []
    assert missing(plan, A, times=[18.0]) == [(18.0, B)]


def test_empty_answers_prune_nobody() -> None:
    """F13, B5: live connections are better evidence, and empty answers are none for later."""
    plan = with_up(make(prune_after=10.0), A, B)
    assert missing(plan, times=range(1, 100)) == []
    assert missing(plan, A, times=[100.0]) == []
    assert plan.nodes() == {A, B}


def test_a_stranger_is_pruned_only_with_all() -> None:
    """B4: links made by hand or by others are none of ours."""
    times = range(100)
    for prune, gone in (("discovered", []), ("never", []), ("all", [B])):
        plan = with_up(make(prune=prune, prune_after=10.0), A)  # type: ignore[arg-type]
        plan.up(B, 0.0)
        assert [name for _at, name in missing(plan, A, times=times)] == gone


def test_all_spares_hidden_strangers() -> None:
    plan = with_up(make(prune="all", prune_after=0.0), A)
    plan.up(B, 0.0)
    plan.up(C, 0.0)
    for now in (1.0, 2.0):
        plan.answer(complete(A), now)
    assert plan.take_prunes(2.0, visible=[A, B]) == [B]


def test_a_hidden_node_that_was_named_is_pruned_as_any() -> None:
    """B15."""
    plan = with_up(make(prune="all", prune_after=0.0), A, B)
    for now in (1.0, 2.0):
        plan.answer(complete(A), now)
    assert plan.take_prunes(2.0, visible=[A]) == [B]


@pytest.mark.parametrize("prune", ["discovered", "all"])
def test_a_pruned_node_that_dials_back_is_let_be(prune: Literal["discovered", "all"]) -> None:
    plan = with_up(make(prune=prune, prune_after=10.0), A, B)
    assert [name for _at, name in missing(plan, A, times=range(1, 20))] == [B]
    assert not plan.up(B, 20.0), "and it is none of ours"
    assert missing(plan, A, times=range(21, 100)) == []
    assert plan.answer(complete(A, B), 100.0).adopted == {B}, "until it is named again"
    assert [name for _at, name in missing(plan, A, times=range(101, 120))] == [B]


def test_what_another_barnacle_names_is_spared() -> None:
    plan = with_up(make(prune_after=0.0), A, B, C)
    for now in (1.0, 2.0):
        plan.answer(complete(A), now)
    assert plan.take_prunes(2.0, held=lambda name: name == B) == [C]


def test_at_most_a_share_goes_within_prune_after() -> None:
    names = [NodeName(f"n{n}@h") for n in range(10)]
    plan = with_up(make(prune_after=60.0, max_prune=0.3), A, *names)
    gone = missing(plan, A, times=range(1, 400))
    waves: dict[float, int] = {}
    for at, _name in gone:
        waves[at] = waves.get(at, 0) + 1
    # 3 of 11, then 2 of 8, 1 of 6, ...
    assert list(waves.values())[:3] == [3, 2, 1]
    assert all(b - a >= 60.0 for a, b in pairwise(waves))
    assert plan.held_back > 0


def test_one_may_always_go_unless_the_share_is_nothing() -> None:
    for share, gone in ((0.1, [B]), (0.0, [])):
        plan = with_up(make(prune_after=1.0, max_prune=share), B)
        assert [name for _at, name in missing(plan, A, times=range(1, 9))] == gone


def test_a_prune_that_failed_is_tried_again_and_does_not_count() -> None:
    plan = with_up(make(prune_after=0.0, max_prune=0.5), A, B)
    for now in (1.0, 2.0):
        plan.answer(complete(A), now)
    assert plan.take_prunes(2.0) == [B]
    assert not plan.prune_ended(B, 2.0)
    loss_later = plan.take_prunes(3.0)
    assert loss_later == [B]
    plan.prune_ended(B, 3.0)
    loss = plan.down(B, "lost", 4.0)
    assert loss is not None
    assert loss.reason == "lost", "it was not our doing"


def test_planning_anew_again_and_again_leaves_nothing_behind() -> None:
    plan = make(max_dials=1)
    plan.answer(complete(A, B, C), 0.0)
    plan.take_dials(0.0)
    refuse(plan, A, 0.0)
    for _ in range(1000):
        plan.force(0.0)
        for name in plan.take_dials(0.0):
            refuse(plan, name, 0.0)
    assert len(plan._queue) < 100
    assert plan.force(0.0) == {A, B, C}


class Machine:
    """A world around a plan, for hypothesis: what must hold whatever happens."""

    def __init__(self) -> None:
        self.plan = make(prune_after=20.0, max_prune=0.5, max_dials=3, rng=0.5)
        self.now = 0.0
        self.named: set[NodeName] = set()
        self.dialling: list[NodeName] = []

    def step(self, what: str, name: NodeName, others: frozenset[NodeName]) -> None:
        plan, now = self.plan, self.now
        if what == "complete":
            plan.answer(complete(*others), now)
            self.named |= others
            missing_before = len(plan.nodes())
            prunes = plan.take_prunes(now) if others else []
            assert len(prunes) <= max(1, missing_before // 2)
            assert not set(prunes) & others
            assert set(prunes) <= self.named
            for each in prunes:
                plan.down(each, "closed_by_us", now)
                assert plan.prune_ended(each, now)
                self.named.discard(each)
        elif what == "partial":
            plan.answer(partial(*others), now)
            self.named |= others
        elif what == "failed":
            plan.answer(failed(), now)
        elif what == "up":
            plan.up(name, now)
        elif what == "down":
            plan.down(name, "lost", now)
        elif what == "dial":
            self.dialling += plan.take_dials(now)
        elif self.dialling:
            dialled = self.dialling.pop()
            plan.dial_ended(dialled, now)
            plan.failed(dialled, PeerUnreachable(""), now, silent=False)

    def check(self) -> None:
        nodes = self.plan.nodes()
        assert nodes == self.plan.connected() & self.named
        assert len(self.dialling) <= 3
        assert self.plan.next_dial() >= 0


NAMES = st.sampled_from([A, B, C, D])
STEPS = st.sampled_from(["complete", "partial", "failed", "up", "down", "dial", "fail"])


@settings(max_examples=200)
@given(st.lists(st.tuples(STEPS, NAMES, st.frozensets(NAMES), st.floats(0, 15)), max_size=60))
def test_whatever_happens_nodes_are_the_connected_ones_that_were_named(
    steps: list[tuple[str, NodeName, frozenset[NodeName], float]],
) -> None:
    machine = Machine()
    for what, name, others, passed in steps:
        machine.now += passed
        machine.step(what, name, others)
        machine.check()


def test_ten_thousand_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    names = [NodeName(f"n{n}@10.0.{n // 256}.{n % 256}") for n in range(10_000)]
    plan = make(max_dials=64, rng=0.5)
    began = time.perf_counter()
    plan.answer(complete(*names), 0.0)
    answered = time.perf_counter()
    done = 0
    while done < len(names):
        for name in plan.take_dials(0.0):
            plan.dial_ended(name, 0.0)
            plan.failed(name, PeerUnreachable(""), 0.0, silent=False)
            done += 1
    dialled = time.perf_counter()
    plan.answer(complete(*names), 5.0)
    again = time.perf_counter()
    with capsys.disabled():
        print(
            f"\n10,000 nodes: first answer {answered - began:.3f} s, "
            f"a dial of each {dialled - answered:.3f} s, same answer again {again - dialled:.3f} s"
        )
    assert done >= len(names)
