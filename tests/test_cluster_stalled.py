"""Peers that stall or refuse hold nobody else up."""

from __future__ import annotations

import pytest
import trio

from barnacle_trio import NodeDown, NodeName, Refreshed, epmd, local_epmd, open_barnacle, open_node
from barnacle_trio.testing import EventRecorder, ScriptedStrategy
from tests.beam import COOKIE, open_beam, unique
from tests.cluster_lab import Stall, open_nodes, open_peer, open_stalled
from tests.erlang import Erlang

pytestmark = pytest.mark.usefixtures("epmd_port")

LOOSE = 3.0
"""Seconds. On a machine of one's own it takes less than 1, which `tests.benchmarks` measures; one
dead peer after the other would take 7 each."""


@pytest.mark.parametrize("how", ["mute", "black_hole"])
@pytest.mark.parametrize("by", ["name", "port_mapper"])
async def test_twenty_stalled_peers_hold_up_none_of_ten_good_ones(how: Stall, by: str) -> None:
    async with (
        open_nodes(10) as good,
        open_stalled(20, how) as stalled,
        open_peer() as frozen,
        open_node(unique("py"), cookie=COOKIE) as node,
    ):
        frozen.freeze()  # a real node, whom nobody has met before
        stalled.append(frozen.name)
        strategy = local_epmd()
        if by == "name":
            strategy = epmd([*stalled, *(peer.name for peer in good)])
        began = trio.current_time()
        async with open_barnacle(strategy, node) as barnacle:
            with trio.fail_after(30):
                nodes = await barnacle.wait_for_nodes(10)
            assert trio.current_time() - began < LOOSE
            assert nodes == {peer.name for peer in good}
            states = {name: peer.state for name, peer in barnacle.status().peers.items()}
            assert {states.pop(name) for name in nodes} == {"connected"}
            assert states == dict.fromkeys(stalled, "connecting")


async def test_one_with_another_cookie_costs_the_others_nothing_and_the_log_one_line(
    erlang: Erlang, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = EventRecorder()
    async with (
        open_nodes(9) as good,
        open_beam(erlang, cookie="another_cookie_than_ours") as bad,
        open_node(unique("py"), cookie=COOKIE) as node,
    ):
        *staying, leaving = (peer.name for peer in good)
        strategy = ScriptedStrategy([*staying, leaving, bad.name])
        async with open_barnacle(
            strategy, node, poll_interval=0.1, prune_after=1.0, listener=recorder.send
        ) as barnacle:
            with trio.fail_after(10):
                assert await barnacle.wait_for_nodes(9) == {*staying, leaving}
            strategy.answer = [*staying, bad.name]
            missing_since = trio.current_time()
            with trio.fail_after(10):
                await barnacle.nodes.wait_value(frozenset(staying))
            assert trio.current_time() - missing_since >= 1.0
            for _ in range(5):  # these ignore the quarantine, so that it is refused each time
                assert bad.name in (await barnacle.refresh()).failed
            with trio.fail_after(10):
                await recorder.wait_for(Refreshed, lambda _: len(recorder.of(Refreshed)) >= 20)
            assert barnacle.status().peers[NodeName(bad.name)].state == "quarantined"
            assert barnacle.nodes.value == set(staying)
    downs = [(down.node, down.reason) for down in recorder.of(NodeDown)]
    assert downs == [(leaving, "pruned")]
    told = [line for line in caplog.messages if bad.name in line]
    assert len(told) == 1, told
    assert "cookie" in told[0]
    assert COOKIE not in caplog.text
