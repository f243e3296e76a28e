"""Code of users that is cancelled and fails on its way out, in a nursery of its own."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from barnacle_trio import ChildSpec, NodeName, RestartPolicy, custom_transport, supervise
from barnacle_trio._barnacle import Barnacle
from barnacle_trio._errors import BarnacleCrashed
from barnacle_trio._running import open_barnacle
from barnacle_trio.testing import FakeTransport, ScriptedStrategy
from tests.barnacles import A


async def fail_when_cancelled() -> None:
    """A nursery, one of whose tasks fails in its clean-up. What comes out is a group of both."""

    async def clean_up_badly() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise OSError("the clean-up failed")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(clean_up_badly)
        await trio.sleep_forever()


class Served(ScriptedStrategy):
    async def serve(
        self,
        local: NodeName,
        *,
        changed: Callable[[], None],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        task_status.started()
        await fail_when_cancelled()


class Leaving(ScriptedStrategy):
    async def leave(self, local: NodeName) -> None:
        await fail_when_cancelled()


def strategy_fails() -> dict[str, Any]:
    async def strategy(local: NodeName) -> Iterable[str]:
        await fail_when_cancelled()
        return ()

    return {"strategy": strategy, "transport": FakeTransport(), "discovery_timeout": 1000}


def service_fails() -> dict[str, Any]:
    return {"strategy": Served([A]), "transport": FakeTransport(reachable=[A])}


def dial_fails() -> dict[str, Any]:
    async def connect(name: NodeName) -> None:
        await fail_when_cancelled()

    transport = custom_transport(FakeTransport(reachable=[A]), connect=connect)
    return {"strategy": ScriptedStrategy([A]), "transport": transport, "dial_timeout": 1000}


def listing_fails() -> dict[str, Any]:
    async def list_nodes() -> Iterable[str]:
        await fail_when_cancelled()
        return ()

    transport = custom_transport(FakeTransport(reachable=[A]), list_nodes=list_nodes)
    return {"strategy": ScriptedStrategy([A]), "transport": transport, "dial_timeout": 1000}


async def pause(barnacle: Barnacle) -> None:
    await barnacle.pause()
    await trio.sleep(10)
    assert barnacle.status().state == "paused"
    await barnacle.resume()
    await trio.sleep(10)
    assert barnacle.status().state == "running"


async def drain(barnacle: Barnacle) -> None:
    await barnacle.drain(grace=1)


async def shut_down(barnacle: Barnacle) -> None:
    await barnacle.shutdown()


async def go(barnacle: Barnacle) -> None:
    await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("leave", [pause, drain, shut_down, go])
@pytest.mark.parametrize("world", [strategy_fails, service_fails, dial_fails, listing_fails])
async def test_it_costs_nothing(
    world: Callable[[], dict[str, Any]],
    leave: Callable[[Barnacle], Awaitable[None]],
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    async with open_barnacle(**world()) as barnacle:
        await trio.sleep(1)
        await leave(barnacle)
    assert barnacle.status().restarts == 0
    assert "the clean-up failed" in caplog.text, "nothing is lost"


@pytest.mark.parametrize("world", [strategy_fails, service_fails, dial_fails, listing_fails])
async def test_what_the_body_raises_comes_out_plain_all_the_same(
    world: Callable[[], dict[str, Any]], autojump_clock: MockClock
) -> None:
    mine = KeyError("mine")

    async def fail() -> None:
        async with open_barnacle(**world()):
            await trio.sleep(1)
            raise mine

    with pytest.raises(KeyError) as caught:
        await fail()
    assert caught.value is mine


async def test_a_goodbye_that_is_given_up_in_time_is_no_reason_to_stay(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    transport = FakeTransport(reachable=[A])
    async with open_barnacle(Leaving([A]), transport) as barnacle:
        await barnacle.wait_for_nodes(1)
        await barnacle.drain(grace=1)
    assert "the clean-up failed" in caplog.text
    assert "did not say goodbye in time" in caplog.text


async def test_a_disconnect_that_is_given_up_in_time_is_tried_again(
    autojump_clock: MockClock,
) -> None:
    async def disconnect(name: NodeName) -> None:
        await fail_when_cancelled()

    base = FakeTransport(reachable=[A])
    strategy = ScriptedStrategy([A])
    async with open_barnacle(
        strategy, custom_transport(base, disconnect=disconnect), prune_after=0, max_prune=1.0
    ) as barnacle:
        await barnacle.wait_for_nodes(1)
        strategy.answer = ["b@10.0.0.9"]
        await trio.sleep(100)
        assert barnacle.nodes.value == {A}
        assert barnacle.status().restarts == 0


async def test_a_supervisor_that_gives_up_says_why(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def crash(task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await trio.sleep(1)
        raise ValueError("a bug")

    async def sibling(task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await fail_when_cancelled()

    children = ChildSpec("crash", crash), ChildSpec("sibling", sibling)
    with pytest.raises(BarnacleCrashed, match="crash ended more than"):
        await supervise(*children, restart_policy=RestartPolicy(max_restarts=0))
    assert "the clean-up failed" in caplog.text
