"""Crashes of the poller, and how the block of a barnacle is left."""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from barnacle_trio._barnacle import Barnacle
from barnacle_trio._errors import (
    BarnacleCrashed,
    DiscoveryError,
)
from barnacle_trio._events import (
    Event,
    NodeUp,
    Paused,
    Refreshed,
    Restarted,
)
from barnacle_trio._names import NodeName
from barnacle_trio._running import open_barnacle, serve_barnacle
from barnacle_trio._supervisor import RestartPolicy
from barnacle_trio.testing import FakeTransport, ScriptedStrategy
from tests.barnacles import A, B, open_world, settle
from tests.checkpoints import cancel_at_every_checkpoint

# -- crashes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "junk",
    [
        ValueError("a bug"),
        lambda _local: None,
        lambda _local: "a@h",
        lambda _local: 42,
        lambda _local: open_barnacle,
        ExceptionGroup("bugs", [OSError("expected"), KeyError("not")]),
    ],
    ids=["raises", "None", "str", "int", "function", "group"],
)
async def test_a_bug_in_a_strategy_restarts_the_poller(
    junk: Any, autojump_clock: MockClock
) -> None:
    """F23: and keeps answer, backoffs and connections."""
    async with open_world(A, B, prune_after=0) as world:
        await world.barnacle.wait_for_nodes(2)
        world.strategy.answer = junk
        await world.recorder.wait_for(Restarted)
        await trio.sleep(100)
        assert world.barnacle.nodes.value == {A, B}
        assert world.barnacle.status().restarts > 10
        assert isinstance(world.barnacle.status().last_error, Exception)
        world.transport.lose(A)
        await world.barnacle.wait_for_nodes(2)
        assert trio.current_time() < 107, "the last good answer is still dialled"
        with pytest.raises(DiscoveryError, match="crashed"):
            await world.barnacle.refresh()
        world.strategy.answer = [A, B]
        assert (await world.barnacle.refresh()).nodes == {A, B}


async def test_restarts_come_ever_more_slowly_until_a_round_is_completed(
    autojump_clock: MockClock,
) -> None:
    async with open_world(strategy=ScriptedStrategy(ValueError("bug")), poll_interval=3) as world:
        await trio.sleep(11)
        asked = world.strategy.asked
        assert asked == pytest.approx([0.0, 0.1, 0.3, 0.7, 1.5, 3.1, 6.1, 9.1])
        world.strategy.answer = []
        await world.recorder.wait_for(Refreshed)
        world.strategy.answer = ValueError("bug")
        count = len(asked)
        await trio.sleep(3.5)
        assert asked[count + 1] - asked[count] == pytest.approx(0.1)


async def test_a_traceback_is_logged_once_for_each_kind(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_world(strategy=ScriptedStrategy(ValueError("bug"))) as world:
        await trio.sleep(100)
        world.strategy.answer = KeyError("another")
        await trio.sleep(100)
    errors = [record for record in caplog.records if record.levelno >= logging.WARNING]
    kinds = [record.exc_info[0] for record in errors if record.exc_info]
    assert kinds == [ValueError, KeyError]
    assert len(errors) == 2


async def test_a_crash_too_many_leaves_the_block(autojump_clock: MockClock) -> None:
    bug = ValueError("bug")
    with pytest.raises(BarnacleCrashed, match="more than 2 crashes within 5 s") as caught:
        async with open_world(
            strategy=ScriptedStrategy(bug), restart_policy=RestartPolicy(max_restarts=2)
        ):
            await trio.sleep_forever()
    assert caught.value.__cause__ is bug
    assert trio.current_time() == pytest.approx(0.3)


async def test_the_bodys_error_goes_along_with_a_crash(autojump_clock: MockClock) -> None:
    async def run() -> None:
        async with open_world(
            strategy=ScriptedStrategy(ValueError("bug")),
            restart_policy=RestartPolicy(max_restarts=0),
        ):
            try:
                await trio.sleep_forever()
            finally:
                raise KeyError("the body's own")

    with pytest.raises(BarnacleCrashed) as caught:
        await run()
    cause = caught.value.__cause__
    assert isinstance(cause, ExceptionGroup)
    assert [type(each) for each in cause.exceptions] == [BarnacleCrashed, KeyError]


async def test_pending_calls_raise_when_it_crashes(autojump_clock: MockClock) -> None:
    async def bug(_local: NodeName) -> list[str]:
        await trio.sleep(1)
        raise ValueError("bug")

    async def wait(barnacle: Barnacle) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await barnacle.wait_for_nodes(1)

    async def run(nursery: trio.Nursery) -> None:
        async with open_world(strategy=bug, restart_policy=RestartPolicy(max_restarts=0)) as world:
            nursery.start_soon(wait, world.barnacle)
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        with pytest.raises(BarnacleCrashed):
            await run(nursery)


# -- the border of the block -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [ZeroDivisionError(), ExceptionGroup("own", [KeyError()]), KeyboardInterrupt(), SystemExit(3)],
    ids=lambda error: type(error).__name__,
)
async def test_what_the_body_raises_comes_out_plain(
    error: BaseException, autojump_clock: MockClock
) -> None:
    async def run() -> None:
        async with open_barnacle(ScriptedStrategy([A]), FakeTransport()):
            await trio.sleep(1)
            raise error

    with pytest.raises(type(error)) as caught:
        await run()
    assert caught.value is error


async def test_a_keyboard_interrupt_in_the_strategy_is_never_hidden(
    autojump_clock: MockClock,
) -> None:
    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
        async with open_barnacle(ScriptedStrategy(KeyboardInterrupt()), FakeTransport()):
            await trio.sleep_forever()


async def test_cancellation_from_outside_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    transport = FakeTransport(reachable=[A])

    async def run() -> None:
        async with open_barnacle(ScriptedStrategy([A]), transport) as barnacle:
            await barnacle.wait_for_nodes(1)
            await barnacle.refresh()

    async def nothing_is_left() -> None:
        await settle()
        assert transport._callbacks == []
        assert transport._dialling == 0
        for name in transport.connected:
            transport.lose(name)

    assert await cancel_at_every_checkpoint(run, nothing_is_left) > 2


# -- serve_barnacle --------------------------------------------------------------------------------


async def test_serve_barnacle_gives_the_barnacle_through_start(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    strategy, transport = ScriptedStrategy([A]), FakeTransport(reachable=[A])
    barnacle: Barnacle = await nursery.start(
        partial(serve_barnacle, strategy, transport, name="served", poll_interval=1)
    )
    assert barnacle.name == "served"
    assert await barnacle.wait_for_nodes(1) == {A}
    await barnacle.shutdown()


async def test_serve_barnacle_ends_with_shutdown_and_raises_crashes_plainly(
    autojump_clock: MockClock,
) -> None:
    with pytest.raises(BarnacleCrashed) as caught:
        await serve_barnacle(
            ScriptedStrategy(ValueError("bug")),
            FakeTransport(),
            restart_policy=RestartPolicy(max_restarts=0),
        )
    assert isinstance(caught.value.__cause__, ValueError)


async def test_everything_in_events_bears_name_and_time(autojump_clock: MockClock) -> None:
    async with open_world(A, name="mine") as world:
        await world.barnacle.wait_for_nodes(1)
        await trio.sleep(2)
        await world.barnacle.pause()
    events: list[Event] = world.recorder.events
    assert {event.barnacle for event in events} == {"mine"}
    assert [event.at for event in events] == sorted(event.at for event in events)
    assert world.recorder.of(NodeUp)[0].at == 0.0
    assert not math.isnan(world.recorder.of(Paused)[0].at)
