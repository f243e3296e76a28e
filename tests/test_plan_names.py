"""What answers add and take away, and who is disconnected for it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Literal

import pytest

from barnacle_trio._names import NodeName
from barnacle_trio._plan import MAX_PAST, Plan
from barnacle_trio._strategy import Discovery
from tests.plan_players import A, B, C, complete, fail, failed, make, partial, with_up

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
