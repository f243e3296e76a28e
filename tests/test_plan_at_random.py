"""The policy, whatever happens, and with ten thousand nodes."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barnacle_trio._errors import PeerUnreachable
from barnacle_trio._names import NodeName
from tests.plan_players import A, B, C, D, complete, failed, make, partial, refuse


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
