"""Strategies with a background task, and the barnacle as a process of its node."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from barnacle_trio._errors import BarnacleCrashed, ConfigurationError, NameTakenError
from barnacle_trio._names import NodeName
from barnacle_trio._running import open_barnacle, run_once
from barnacle_trio._supervisor import RestartPolicy
from barnacle_trio.etf import Atom
from barnacle_trio.testing import HANG, FakeTransport, ScriptedStrategy
from tests.barnacles import A, B, open_world


class Served(ScriptedStrategy):
    """A strategy whose background task does what a test says."""

    def __init__(self, *answers: Any) -> None:
        super().__init__(*answers)
        self.changed: Callable[[], None] = lambda: None
        self.starts: list[float] = []
        self.running = 0
        self.start_after = 0.0
        self.fail = trio.Event()
        self.error: Exception | None = None

    async def serve(
        self,
        local: NodeName,
        *,
        changed: Callable[[], None],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        self.starts.append(trio.current_time())
        await trio.sleep(self.start_after)
        self.changed = changed
        task_status.started()
        self.running += 1
        try:
            await self.fail.wait()
            self.fail = trio.Event()
            if self.error is not None:
                raise self.error
        finally:
            self.running -= 1


def world_of(strategy: Served, **options: Any) -> Any:
    return open_world(strategy=strategy, transport=FakeTransport(reachable=[A, B]), **options)


async def test_it_is_started_before_the_first_round(autojump_clock: MockClock) -> None:
    strategy = Served([A])
    strategy.start_after = 3
    async with world_of(strategy) as world:
        assert trio.current_time() == 0, "entering does not wait for it"
        await world.barnacle.wait_for_nodes(1)
        assert strategy.asked == [3.0]
        assert strategy.running == 1
    assert strategy.running == 0


async def test_rounds_begin_without_it_when_it_does_not_start(autojump_clock: MockClock) -> None:
    strategy = Served([A])
    strategy.start_after = 1000
    async with world_of(strategy, discovery_timeout=4) as world:
        await world.barnacle.wait_for_nodes(1)
        assert strategy.asked == [4.0]
        strategy.start_after = 0
        await trio.sleep(10)
        assert strategy.running == 1


async def test_a_change_is_asked_for_at_once(autojump_clock: MockClock) -> None:
    strategy = Served([A])
    async with world_of(strategy, poll_interval=60) as world:
        await world.barnacle.wait_for_nodes(1)
        await trio.sleep(30)
        strategy.answer = [A, B]
        strategy.changed()
        await world.barnacle.wait_for_nodes(2)
        assert trio.current_time() == 30


async def test_changes_without_end_are_not_rounds_without_end(autojump_clock: MockClock) -> None:
    strategy = Served([A])
    async with world_of(strategy, poll_interval=60):
        for _ in range(1000):
            await trio.sleep(0.01)
            strategy.changed()
        assert strategy.count <= 105


async def test_a_change_during_a_round_is_not_lost(autojump_clock: MockClock) -> None:
    strategy = Served([A])

    async def slow(_local: NodeName) -> list[str]:
        await trio.sleep(2)
        return [A]

    strategy.answer = slow
    async with world_of(strategy, poll_interval=60) as world:
        await trio.sleep(1)
        strategy.changed()
        strategy.answer = [A, B]
        await world.barnacle.wait_for_nodes(2)
        assert trio.current_time() == 2


async def test_it_survives_a_pause(autojump_clock: MockClock) -> None:
    strategy = Served([A])
    async with world_of(strategy) as world:
        await world.barnacle.wait_for_nodes(1)
        await world.barnacle.pause()
        await trio.sleep(100)
        assert strategy.running == 1
        count = strategy.count
        strategy.changed()
        await trio.sleep(100)
        assert strategy.count == count
        await world.barnacle.resume()
        await trio.sleep(1)
        assert strategy.starts == [0.0]


async def test_it_is_started_again_alone_when_it_crashes(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    strategy = Served([A])
    async with world_of(strategy, poll_interval=60) as world:
        await world.barnacle.wait_for_nodes(1)
        strategy.error = OSError("the socket broke")
        for _ in range(3):
            strategy.fail.set()
            await trio.sleep(10)
        assert strategy.running == 1
        assert len(strategy.starts) == 4
        assert world.barnacle.status().restarts == 0
        assert strategy.count == 4, "a round after each start"
    assert len(caplog.records) == 1


async def test_one_that_ends_is_let_be(autojump_clock: MockClock) -> None:
    strategy = Served([A])
    async with world_of(strategy) as world:
        await world.barnacle.wait_for_nodes(1)
        strategy.fail.set()
        await trio.sleep(100)
        assert len(strategy.starts) == 1
        assert world.barnacle.status().state == "running"


async def test_one_that_crashes_too_often_escalates(autojump_clock: MockClock) -> None:
    strategy = Served([A])
    strategy.error = ValueError("bug")
    strategy.fail.set()
    with pytest.raises(BarnacleCrashed, match="service") as caught:
        async with world_of(strategy, restart_policy=RestartPolicy(max_restarts=0)):
            await trio.sleep_forever()
    assert caught.value.__cause__ is strategy.error


async def test_run_once_serves_meanwhile(autojump_clock: MockClock) -> None:
    strategy = Served([A])
    strategy.start_after = 1
    result = await run_once(strategy, FakeTransport(reachable=[A]))
    assert result.nodes == {A}
    assert strategy.asked == [1.0]
    assert strategy.running == 0


# -- registered_name -------------------------------------------------------------------------------


class Serving(FakeTransport):
    """A transport on which a process can be registered."""

    def __init__(self, *reachable: str, taken: bool = False) -> None:
        super().__init__(reachable=reachable)
        self.taken = taken
        self.handlers: dict[str, Any] = {}

    async def serve_process(
        self,
        name: str,
        handler: Any,
        *,
        max_concurrent: int,
        task_status: trio.TaskStatus[None],
    ) -> None:
        await trio.lowlevel.checkpoint()
        if self.taken:
            raise NameTakenError(f"{name} is registered already")
        assert max_concurrent > 1
        self.handlers[name] = handler
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            del self.handlers[name]


async def test_a_registered_barnacle_answers_calls(autojump_clock: MockClock) -> None:
    transport = Serving(A)
    strategy = ScriptedStrategy([A, B])
    ok, error = Atom("ok"), Atom("error")
    async with open_barnacle(strategy, transport, registered_name="mine") as barnacle:
        process = transport.handlers["mine"]

        async def call(request: str) -> Any:
            return await process.call(Atom(request), None)

        answer, result = await call("refresh")
        assert answer == ok
        assert result[Atom("nodes")] == result[Atom("connected")] == [Atom(A)]
        assert list(result[Atom("failed")]) == [B]
        assert result[Atom("discovery_error")] is None
        assert await call("nodes") == (ok, [Atom(A)])
        assert await call("pause") == ok
        answer, status = await call("status")
        assert status[Atom("state")] == Atom("paused")
        assert status[Atom("peers")][Atom(A)] == Atom("connected")
        assert await call("resume") == ok
        assert await call("dance") == (error, Atom("unknown_request"))
        assert await process.call(("refresh", 7), None) == (error, Atom("unknown_request"))
        await process.cast(Atom("refresh"))
        await process.info("whatever")
        strategy.answer = OSError("no route")
        assert await call("refresh") == (error, "no route")
        strategy.answer = HANG
        began = trio.current_time()
        assert await call("refresh") == (error, Atom("pending"))
        assert trio.current_time() - began == 4.0
        await barnacle.shutdown()
        assert await call("refresh") == (error, Atom("closed"))
    assert transport.handlers == {}


async def test_a_taken_name_is_a_configuration_error(autojump_clock: MockClock) -> None:
    """B18."""
    with pytest.raises(ConfigurationError, match="cannot be registered as 'mine'"):
        async with open_barnacle(ScriptedStrategy(), Serving(taken=True), registered_name="mine"):
            raise AssertionError("it is not entered")
