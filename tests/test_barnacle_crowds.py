"""Dialling a crowd leaves the event loop to everybody else."""

from __future__ import annotations

from itertools import pairwise

import trio
from trio.testing import MockClock

from barnacle_trio._dials import AT_ONCE
from barnacle_trio._names import NodeName
from barnacle_trio.testing import FakeTransport
from tests.barnacles import open_world
from tests.plan_players import A, complete, make, with_up

CROWD = [f"n{n}@10.1.0.{n}" for n in range(1, 201)]


class _DialsPerPass(trio.abc.Instrument):
    """How many dials each pass of the loop began."""

    def __init__(self, transport: FakeTransport) -> None:
        self._transport = transport
        self._totals = [0]

    def before_io_wait(self, timeout: float) -> None:
        self._totals.append(len(self._transport.dials))

    @property
    def most(self) -> int:
        return max(after - before for before, after in pairwise(self._totals))


async def test_a_pass_of_the_loop_begins_few_dials(autojump_clock: MockClock) -> None:
    """They fail as fast as they are begun, so that all slots are free all the time."""
    transport = FakeTransport(reachable=[A])
    passes = _DialsPerPass(transport)
    trio.lowlevel.add_instrument(passes)
    try:
        async with open_world(A, *CROWD, transport=transport) as world:
            await world.barnacle.refresh()
    finally:
        trio.lowlevel.remove_instrument(passes)
    assert {name for _at, name in transport.dials} == {A, *map(NodeName, CROWD)}
    assert trio.current_time() < 0.1, "nor do they wait for anything else"
    assert passes.most == AT_ONCE


def test_of_a_crowd_the_lost_peer_is_dialled_first() -> None:
    plan = with_up(make(), A)
    plan.answer(complete(A, *CROWD), 100.0)
    assert len(plan.take_dials(100.0, most=AT_ONCE)) == AT_ONCE
    plan.down(A, "lost", 100.0)
    taken = plan.take_dials(plan.status()[A].next_attempt or 0.0, most=AT_ONCE)
    assert taken[0] == A
    assert len(taken) == AT_ONCE
