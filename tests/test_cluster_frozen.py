"""Peers that are stopped where they stand: down as silent, and back once they go on."""

from __future__ import annotations

import pytest
import trio

from barnacle_trio import NodeDown, NodeUp, epmd, open_barnacle, open_node
from barnacle_trio.testing import EventRecorder
from tests.beam import COOKIE, open_beam, unique
from tests.cluster_lab import downs, open_peer, sees, watch_nodes
from tests.erlang import Erlang

pytestmark = pytest.mark.usefixtures("epmd_port")

FAILURE_TIMEOUT = 2.0
BACK = 3.0
"""Seconds; less than 1 on a machine of one's own."""


async def test_a_frozen_python_node_is_silent_then_back_as_both_ends_see_it() -> None:
    name, other = unique("py"), unique("peer")
    recorder = EventRecorder()
    async with (
        open_node(name, cookie=COOKIE, failure_timeout=FAILURE_TIMEOUT) as node,
        open_barnacle(epmd([other]), node, listener=recorder.send) as barnacle,
        open_peer(other, discover=[name], failure_timeout=FAILURE_TIMEOUT) as peer,
    ):
        await barnacle.wait_for_nodes(1)
        await peer.wait_nodes(name)
        await trio.sleep(1)  # the first probe is answered
        for freezes in (1, 2):
            peer.freeze()
            with trio.fail_after(FAILURE_TIMEOUT + 2):
                await barnacle.nodes.wait_value(frozenset())
            await trio.sleep(0.2)
            peer.thaw()
            with trio.fail_after(BACK):
                await barnacle.wait_for_nodes(1)
            await peer.wait_told(lambda peer: len(peer.ups()) > freezes)  # noqa: B023
            assert barnacle.nodes.value == {other}
            # Both dial, and neither end may take the other's attempt for yet another connection.
            await barnacle.wait_for_nodes(1, held_for=0.5)
            assert [down.reason for down in recorder.of(NodeDown)] == ["silent"] * freezes
            assert len(recorder.of(NodeUp)) == freezes + 1
            assert [node for node, _reason in peer.downs()] == [name] * freezes
            assert peer.ups() == [name] * (freezes + 1)


async def test_a_frozen_beam_node_is_silent_then_back(erlang: Erlang) -> None:
    recorder = EventRecorder()
    async with (
        open_node(unique("py"), cookie=COOKIE, failure_timeout=FAILURE_TIMEOUT) as node,
        open_beam(erlang) as beam,
        open_barnacle(epmd([beam.name]), node, listener=recorder.send) as barnacle,
    ):
        await barnacle.wait_for_nodes(1)
        await watch_nodes(beam)
        await sees(beam, node.name)  # it has answered, and so the first probe before it
        beam.freeze()
        with trio.fail_after(FAILURE_TIMEOUT + 2):
            await barnacle.nodes.wait_value(frozenset())
        await trio.sleep(0.2)
        beam.thaw()
        with trio.fail_after(BACK):
            await barnacle.wait_for_nodes(1)
        await barnacle.wait_for_nodes(1, held_for=0.5)
        assert [down.reason for down in recorder.of(NodeDown)] == ["silent"]
        assert len(recorder.of(NodeUp)) == 2
        await sees(beam, node.name)
        assert await downs(beam) == [node.name]
