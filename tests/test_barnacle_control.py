"""Pause, resume, shutdown, crashes, and how the block is left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from barnacle_trio._barnacle import Barnacle
from barnacle_trio._errors import (
    BarnacleCrashed,
    BarnaclePaused,
)
from barnacle_trio._events import (
    NodeDown,
    Paused,
    Restarted,
    Resumed,
    ShutDown,
)
from barnacle_trio._running import open_barnacle
from barnacle_trio._supervisor import RestartPolicy
from barnacle_trio.testing import HANG, EventRecorder, FakeTransport, ScriptedStrategy
from tests.barnacles import A, B, World, open_world, settle
from tests.checkpoints import cancel_at_every_checkpoint

# -- pause and resume ------------------------------------------------------------------------------


async def test_nothing_is_asked_dialled_or_pruned_while_paused(autojump_clock: MockClock) -> None:
    """B9: a pause cannot be undone by a timer that was set before it."""
    async with open_world(A, B, prune_after=0) as world:
        await world.barnacle.wait_for_nodes(2)
        await world.barnacle.pause()
        world.strategy.answer = [A]
        asked, dialled = world.strategy.count, len(world.transport.dials)
        world.transport.lose(A)
        await trio.sleep(1000)
        assert world.strategy.count == asked
        assert len(world.transport.dials) == dialled
        assert world.transport.disconnects == []
        assert world.barnacle.status().state == "paused"
        assert world.transport.connected == {B}, "connections stay"


async def test_ups_and_downs_are_told_while_paused(autojump_clock: MockClock) -> None:
    for abilities in ({"subscribe"}, set[str]()):
        transport = FakeTransport(reachable=[A, B], abilities=abilities)
        async with open_world(A, B, transport=transport) as world:
            await world.barnacle.wait_for_nodes(2)
            await world.barnacle.pause()
            transport.lose(A)
            await trio.sleep(2)
            transport.dial_in(A)
            await trio.sleep(2)
            assert [event.node for event in world.recorder.of(NodeDown)] == [A]
            assert world.barnacle.nodes.value == {A, B}


async def test_resume_goes_on_with_a_round_at_once(autojump_clock: MockClock) -> None:
    async with open_world(A) as world:
        await world.barnacle.wait_for_nodes(1)
        await world.barnacle.pause()
        await trio.sleep(100)
        world.transport.lose(A)
        await world.barnacle.resume()
        await world.barnacle.wait_for_nodes(1)
        assert trio.current_time() <= 100.1
        assert world.strategy.asked[-1] == 100.0
        told = [type(e) for e in world.recorder.events if isinstance(e, Paused | Resumed)]
        assert told == [Paused, Resumed]


async def test_pause_and_resume_do_nothing_twice(autojump_clock: MockClock) -> None:
    async with open_world(A) as world:
        await world.barnacle.resume()
        await world.barnacle.pause()
        await world.barnacle.pause()
        await world.barnacle.resume()
        await world.barnacle.resume()
        assert len(world.recorder.of(Paused)) == len(world.recorder.of(Resumed)) == 1


async def test_refresh_resumes(autojump_clock: MockClock) -> None:
    async with open_world(A) as world:
        await world.barnacle.pause()
        await trio.sleep(100)
        before = world.strategy.count
        assert (await world.barnacle.refresh()).nodes == {A}
        assert world.strategy.count == before + 1
        assert world.barnacle.status().state == "running"
        assert len(world.recorder.of(Resumed)) == 1
        await trio.sleep(20)
        assert world.strategy.count >= before + 4


@pytest.mark.parametrize("stuck", ["strategy", "dial", "listing"])
async def test_pause_cancels_a_round_under_way(stuck: str, autojump_clock: MockClock) -> None:
    """B8: nobody waits for dials or lookups."""
    async with open_world(A, B) as world:
        await world.barnacle.wait_for_nodes(2)
        if stuck == "strategy":
            world.strategy.answer = HANG
        elif stuck == "dial":
            world.transport.lose(A)
            world.transport.peer(A).on_connect = HANG
        else:
            world.transport.on_list = HANG
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def refresh() -> None:
                with pytest.raises(BarnaclePaused):
                    await world.barnacle.refresh()

            await trio.sleep(1)
            await world.barnacle.pause()
            assert trio.current_time() == 1.0
            assert world.transport._dialling == 0
        assert B in world.barnacle.nodes.value


async def test_pause_before_anything_ran(autojump_clock: MockClock) -> None:
    async with open_world(A) as world:
        await world.barnacle.pause()
        count = world.strategy.count
        await trio.sleep(100)
        assert world.strategy.count == count


async def test_pause_and_refresh_race(autojump_clock: MockClock) -> None:
    """Whoever comes last has it, and nobody is left waiting."""
    async with open_world(A) as world:
        for _ in range(20):
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def refresh() -> None:
                    with suppress(BarnaclePaused):
                        await world.barnacle.refresh()

                nursery.start_soon(world.barnacle.pause)
                nursery.start_soon(world.barnacle.resume)
                nursery.start_soon(world.barnacle.pause)
            assert world.barnacle.status().state in ("running", "paused")
            assert (await world.barnacle.refresh()).nodes == {A}


async def test_pause_is_cancelled_cleanly_at_every_checkpoint(autojump_clock: MockClock) -> None:
    async with open_world(A) as world:

        async def pause() -> None:
            world.transport.peer(A).on_connect = HANG
            world.transport.lose(A)
            await settle()
            await world.barnacle.pause()

        async def works() -> None:
            world.transport.peer(A).on_connect = None
            assert (await world.barnacle.refresh()).nodes == {A}

        assert await cancel_at_every_checkpoint(pause, works) > 0


# -- shutdown --------------------------------------------------------------------------------------


async def test_shutdown_ends_the_barnacle_and_leaves_connections(
    autojump_clock: MockClock,
) -> None:
    async with open_world(A) as world:
        await world.barnacle.wait_for_nodes(1)
        await world.barnacle.shutdown()
        await world.barnacle.shutdown()
        count = world.strategy.count
        await trio.sleep(100)
        assert world.strategy.count == count
        assert world.transport.connected == {A}
        assert world.barnacle.status().state == "closed"
        assert world.transport._callbacks == []
    assert len(world.recorder.of(ShutDown)) == 1
    assert isinstance(world.recorder.events[-1], ShutDown)


CALLS: dict[str, Callable[[Barnacle], Awaitable[Any]]] = {
    "refresh": lambda barnacle: barnacle.refresh(),
    "wait_for_nodes": lambda barnacle: barnacle.wait_for_nodes(7),
    "held_for": lambda barnacle: barnacle.wait_for_nodes(1, held_for=1000),
    "pause": lambda barnacle: barnacle.pause(),
    "resume": lambda barnacle: barnacle.resume(),
    "drain": lambda barnacle: barnacle.drain(),
}


@pytest.mark.parametrize("call", ["refresh", "wait_for_nodes", "held_for"])
async def test_pending_calls_raise_when_it_ends(call: str, autojump_clock: MockClock) -> None:
    async with open_world(A, strategy=ScriptedStrategy([A], HANG)) as world:
        await world.barnacle.wait_for_nodes(1)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def waiting() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await CALLS[call](world.barnacle)

            await trio.sleep(1)
            await world.barnacle.shutdown()


@pytest.mark.parametrize("call", CALLS)
async def test_later_calls_raise(call: str, autojump_clock: MockClock) -> None:
    async with open_world(A) as world:
        await world.barnacle.wait_for_nodes(1)
    with pytest.raises(trio.ClosedResourceError):
        await CALLS[call](world.barnacle)
    with pytest.raises(trio.ClosedResourceError), world.barnacle.open_listener():
        pass
    assert world.barnacle.nodes.value == {A}
    await world.barnacle.shutdown()


async def _leave_plainly(_world: World) -> None:
    await trio.sleep(1)


async def _leave_by_error(_world: World) -> None:
    await trio.sleep(1)
    raise ZeroDivisionError


async def _leave_by_shutdown(world: World) -> None:
    await world.barnacle.shutdown()


async def _leave_by_drain(world: World) -> None:
    await world.barnacle.drain()


async def _leave_by_cancellation(_world: World) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize(
    "leave",
    [_leave_plainly, _leave_by_error, _leave_by_shutdown, _leave_by_drain, _leave_by_cancellation],
)
async def test_shutdown_is_told_on_every_way_out(
    leave: Callable[[World], Awaitable[None]], autojump_clock: MockClock
) -> None:
    worlds: list[World] = []

    async def run() -> None:
        async with open_world(A) as world:
            worlds.append(world)
            await world.barnacle.wait_for_nodes(1)
            await leave(world)

    with suppress(ZeroDivisionError), trio.move_on_after(10):
        await run()
    [world] = worlds
    assert isinstance(world.recorder.events[-1], ShutDown)
    assert len(world.recorder.of(ShutDown)) == 1
    world.recorder.send.close()
    with pytest.raises(trio.EndOfChannel):  # the clone was closed too
        await world.recorder.wait_for(Restarted)


async def test_shutdown_is_told_when_it_crashes(autojump_clock: MockClock) -> None:
    recorder = EventRecorder()
    with pytest.raises(BarnacleCrashed):
        async with open_barnacle(
            ScriptedStrategy(ValueError()),
            FakeTransport(),
            listener=recorder.send,
            restart_policy=RestartPolicy(max_restarts=0),
        ):
            await trio.sleep_forever()
    assert isinstance(recorder.events[-1], ShutDown)
