"""`refresh` beside a pause, and beside rounds that come while it waits for its dials."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock

from barnacle_trio._errors import BarnaclePaused
from barnacle_trio._events import Refreshed
from barnacle_trio.testing import HANG, ScriptedStrategy
from tests.barnacles import A, B, open_world


async def test_whoever_refreshes_around_a_pause_is_answered(autojump_clock: MockClock) -> None:
    """A poller that was woken before the pause, and ends by it, takes no request along."""
    async with open_world(A) as world:
        barnacle = world.barnacle
        await barnacle.wait_for_nodes(1)

        async def refresh() -> None:
            await trio.lowlevel.checkpoint()
            with suppress(BarnaclePaused):
                await barnacle.refresh()

        with trio.fail_after(60):
            for _ in range(50):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(refresh)
                    nursery.start_soon(barnacle.pause)
                    nursery.start_soon(refresh)


async def test_a_refresh_tells_whom_it_dialled_though_other_rounds_ended_meanwhile(
    autojump_clock: MockClock,
) -> None:
    strategy = ScriptedStrategy([])
    async with open_world(A, B, strategy=strategy, poll_interval=5.0) as world:
        await world.recorder.wait_for(Refreshed)
        world.transport.peer(B).on_connect = HANG
        strategy.answer = [A, B]
        await trio.sleep(1)
        result = await world.barnacle.refresh()
        assert world.barnacle.status().refreshes > 2, "timed rounds were completed meanwhile"
        assert result.connected == result.nodes == {A}
        await trio.sleep(60)
        assert (await world.barnacle.refresh()).connected == frozenset(), "it is told of once"


async def test_a_slow_refresh_does_not_hide_that_discovery_is_down(
    autojump_clock: MockClock,
) -> None:
    async with open_world(A, B, poll_interval=5.0) as world:
        await world.barnacle.wait_for_nodes(2)
        world.transport.peer(B).on_connect = HANG
        world.transport.lose(B)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.barnacle.refresh)
            await trio.sleep(1)
            world.strategy.answer = OSError("down")
            await trio.sleep(5.5)
            assert "down" in str(world.barnacle.status().last_error)
        assert "down" in str(world.barnacle.status().last_error)


@pytest.mark.parametrize("gap", [0.0, 1.0])
async def test_two_refreshes_tell_of_a_dial_that_both_waited_for(
    gap: float, autojump_clock: MockClock
) -> None:
    strategy = ScriptedStrategy([])
    async with open_world(A, strategy=strategy) as world:
        await world.recorder.wait_for(Refreshed)
        world.transport.peer(A).delay = 2.0
        strategy.answer = [A]
        told = []

        async def refresh() -> None:
            told.append((await world.barnacle.refresh()).connected)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(refresh)
            await trio.sleep(gap)
            nursery.start_soon(refresh)
        assert told == [{A}, {A}]
