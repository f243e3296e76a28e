"""Test your own program: no network, no Erlang, and an hour passes in no time.

    pytest examples/testing_a_program.py

It needs pytest-trio, and ``trio_mode = true`` in pytest's configuration.
"""

# ruff: noqa: S101 - a test asserts

import pytest
import trio
from trio.testing import MockClock

from barnacle_trio import Barnacle, NodeDown, NodeUp, epmd, open_barnacle
from barnacle_trio.testing import EventRecorder, FakeTransport, MemoryNetwork, ScriptedStrategy


async def has_quorum(barnacle: Barnacle, size: int) -> bool:
    """The program: whether more than half of a cluster of ``size`` is here within ten seconds."""
    with trio.move_on_after(10):
        await barnacle.wait_for_nodes(size // 2, held_for=1)
        return True
    return False


async def test_two_of_three_are_a_quorum(autojump_clock: MockClock) -> None:
    transport = FakeTransport("me@127.0.0.1", reachable=["you@127.0.0.1"])
    strategy = ScriptedStrategy(["you@127.0.0.1", "absent@127.0.0.1"])
    async with open_barnacle(strategy, transport) as barnacle:
        assert await has_quorum(barnacle, 3)


async def test_a_discovery_that_fails_is_no_empty_one(autojump_clock: MockClock) -> None:
    transport = FakeTransport("me@127.0.0.1", reachable=["you@127.0.0.1"])
    strategy = ScriptedStrategy(["you@127.0.0.1"], OSError("no route to the name server"))
    async with open_barnacle(strategy, transport) as barnacle:
        await barnacle.wait_for_nodes(1)
        await trio.sleep(3600)
        assert strategy.count > 100
        assert barnacle.nodes.value == {"you@127.0.0.1"}


async def test_a_cable_is_pulled_and_put_back(autojump_clock: MockClock) -> None:
    # Real nodes and their real protocol, joined by memory.
    network = MemoryNetwork()
    recorder = EventRecorder()
    async with (
        network.open_node("me@127.0.0.1", failure_timeout=10) as me,
        network.open_node("you@127.0.0.1") as you,
        open_barnacle(epmd([you.name]), me, listener=recorder.send) as barnacle,
    ):
        await barnacle.wait_for_nodes(1, held_for=1)
        pulled = trio.current_time()
        network.cut(me.name, you.name)
        down = await recorder.wait_for(NodeDown)
        assert down.reason == "silent"
        assert down.at - pulled == pytest.approx(10, abs=3)

        recorder.clear()
        network.heal(me.name, you.name)
        await recorder.wait_for(NodeUp)
        await barnacle.wait_for_nodes(1, held_for=60)
