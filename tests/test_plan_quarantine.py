"""Who refused and who left, by the policy: not dialled for a while."""

from __future__ import annotations

import pytest

from barnacle_trio._errors import PeerUnreachable
from barnacle_trio._names import NodeName
from barnacle_trio._peers import QUIET
from barnacle_trio._plan import Plan
from tests.plan_players import A, B, C, complete, fail, make, refuse


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
