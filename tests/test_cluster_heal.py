"""Peers that die come back into the cluster by themselves, soon after they can be reached."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import pytest
import trio
from trio.testing import MockClock

from barnacle_trio import NodeDown, NodeUp, epmd, local_epmd, open_barnacle, open_node
from barnacle_trio.testing import EventRecorder, MemoryNetwork
from tests.beam import COOKIE, unique
from tests.cluster_lab import Kept, Killable, heal, start_beam, start_peer
from tests.erlang import Erlang

LOOSE = 2.0
"""Seconds. On a machine of one's own it takes less than 0.5, which `tests.benchmarks` measures."""
ROUNDS = 2


async def heals(name: str, start: Callable[[], AbstractAsyncContextManager[Killable]]) -> None:
    """A node that is killed and started again is soon back, by name or by the port mapper."""
    strategies = [epmd([name]), local_epmd(match=name.partition("@")[0])]
    async with AsyncExitStack() as stack:
        barnacles, recorders = [], []
        for strategy in strategies:
            node = await stack.enter_async_context(open_node(unique("py"), cookie=COOKIE))
            recorder = EventRecorder()
            barnacle = open_barnacle(strategy, node, poll_interval=5, listener=recorder.send)
            barnacles.append(await stack.enter_async_context(barnacle))
            recorders.append(recorder)
        times = await heal(start, name, [Kept(each) for each in barnacles], rounds=ROUNDS)
        assert len(times) == ROUNDS
        assert max(map(max, times)) < LOOSE, times
        for recorder in recorders:
            assert len(recorder.of(NodeUp)) == ROUNDS + 1
            for down in recorder.of(NodeDown):
                assert (down.node, down.reason) == (name, "lost")


@pytest.mark.usefixtures("epmd_port")
async def test_a_killed_beam_node_is_back_soon_after_it_can_be_reached(erlang: Erlang) -> None:
    name = unique("beam")
    await heals(name, start_beam(erlang, name))


@pytest.mark.usefixtures("epmd_port")
async def test_a_killed_python_node_is_back_soon_after_it_can_be_reached() -> None:
    name = unique("peer")
    await heals(name, start_peer(name))


@pytest.mark.parametrize("how", ["left", "refused", "unanswered"])
async def test_after_a_minute_of_absence_a_peer_is_back_within_one_poll_interval(
    how: str, autojump_clock: MockClock
) -> None:
    network, poll_interval, absence, rounds = MemoryNetwork(), 5.0, 60.0, 20
    here, there = "here@memory", "there@memory"
    recorder = EventRecorder()
    async with (
        network.open_node(here) as node,
        open_barnacle(
            epmd([there]), node, poll_interval=poll_interval, listener=recorder.send
        ) as barnacle,
    ):
        times = []
        for late in range(rounds):
            async with network.open_node(there):
                network.heal(here, there)
                back = trio.current_time()
                await barnacle.wait_for_nodes(1)
                times.append(trio.current_time() - back)
                await trio.sleep(40)  # a peer that lasts
                if how != "left":
                    network.cut(here, there)
                    await barnacle.nodes.wait_value(frozenset())
            await barnacle.nodes.wait_value(frozenset())
            if how == "refused":
                network.heal(here, there)
            await trio.sleep(absence + late / 7)
        assert max(times) <= poll_interval * 1.1, times  # rounds stray by a tenth
    assert len(recorder.of(NodeUp)) == len(recorder.of(NodeDown)) == rounds
    assert {down.reason for down in recorder.of(NodeDown)} == {
        "left" if how == "left" else "silent"
    }
