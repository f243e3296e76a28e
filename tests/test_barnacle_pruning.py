"""Whom a barnacle disconnects, and whom it does not."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from barnacle_trio import _claims
from barnacle_trio._custom_transport import custom_transport
from barnacle_trio._errors import DisconnectError
from barnacle_trio._events import NodeDown, Refreshed
from barnacle_trio._names import NodeName
from barnacle_trio._running import open_barnacle
from barnacle_trio.testing import HANG, FakeTransport, ScriptedStrategy
from tests.barnacles import A, B, C, open_world


async def test_a_missing_node_is_pruned_after_prune_after(autojump_clock: MockClock) -> None:
    async with open_world(A, B, prune_after=60, poll_interval=5) as world:
        await world.barnacle.wait_for_nodes(2)
        world.strategy.answer = [A]
        down = await world.recorder.wait_for(NodeDown)
        assert (down.node, down.reason) == (B, "pruned")
        assert 64 <= down.at <= 72
        assert world.transport.connected == {A}
        refreshed = await world.recorder.wait_for(Refreshed, lambda e: e.at >= down.at)
        assert refreshed.result.disconnected == {B}
        await trio.sleep(200)
        assert world.transport.dials_of(B) == [0.0]


async def test_an_empty_answer_prunes_nobody(autojump_clock: MockClock) -> None:
    """B5, F13."""
    async with open_world(A, B, prune_after=1, max_prune=1.0) as world:
        await world.barnacle.wait_for_nodes(2)
        world.strategy.answer = []
        await trio.sleep(500)
        assert world.barnacle.nodes.value == {A, B}


async def test_one_bad_answer_prunes_nobody(autojump_clock: MockClock) -> None:
    """L8: a source that forgets somebody now and then."""
    async with open_world(A, B, prune_after=0, poll_interval=5) as world:
        await world.barnacle.wait_for_nodes(2)
        for _ in range(20):
            world.strategy.answer = [A]
            await world.barnacle.refresh()
            world.strategy.answer = [A, B]
            await world.barnacle.refresh()
        assert world.barnacle.nodes.value == {A, B}


async def test_links_of_others_are_left_alone(autojump_clock: MockClock) -> None:
    """B4: made by hand, by another barnacle, by the mesh of `global`."""
    async with open_world(A, prune_after=0) as world:
        world.transport.dial_in(B)
        world.transport.dial_in(C, hidden=True)
        await trio.sleep(500)
        assert world.transport.connected == {A, B, C}
        assert world.transport.disconnects == []


async def test_all_prunes_every_visible_node_that_is_not_named(autojump_clock: MockClock) -> None:
    async with open_world(A, prune="all", prune_after=20, poll_interval=5) as world:
        world.transport.dial_in(B)
        world.transport.dial_in(C, hidden=True)
        await trio.sleep(100)
        assert world.transport.connected == {A, C}


async def test_never_prunes_nobody(autojump_clock: MockClock) -> None:
    async with open_world(A, B, prune="never", prune_after=0) as world:
        await world.barnacle.wait_for_nodes(2)
        world.strategy.answer = [A]
        await trio.sleep(500)
        assert world.barnacle.nodes.value == {A, B}


async def test_several_barnacles_on_one_transport_do_not_undo_each_other(
    autojump_clock: MockClock,
) -> None:
    """B4: two strategies in one program, over a custom transport too."""
    node = FakeTransport(reachable=[A, B, C])
    over = custom_transport(node, connect=node.connect)
    first, second = ScriptedStrategy([A, B]), ScriptedStrategy([B, C])
    options = {"prune_after": 10.0, "poll_interval": 5.0, "prune": "all"}
    async with (
        open_barnacle(first, node, **options) as one,  # type: ignore[arg-type]
        open_barnacle(second, over, **options) as two,  # type: ignore[arg-type]
    ):
        await trio.sleep(100)
        assert node.connected == {A, B, C}
        assert node.disconnects == []
        assert one.nodes.value == {A, B}
        assert two.nodes.value == {B, C}
        first.answer = [A]
        await trio.sleep(100)
        assert node.connected == {A, B, C}, "the other one still names it"
        second.answer = [C]
        await trio.sleep(100)
        assert node.connected == {A, C}
        assert one.nodes.value == {A}
        assert two.nodes.value == {C}
    assert _claims._claims == {}


async def test_barnacles_of_different_patience_agree_in_the_end(autojump_clock: MockClock) -> None:
    node = FakeTransport(reachable=[A, B])
    first, second = ScriptedStrategy([A, B]), ScriptedStrategy([A, B])
    async with (
        open_barnacle(first, node, prune_after=10),
        open_barnacle(second, node, prune_after=100),
    ):
        await trio.sleep(10)
        first.answer = second.answer = [A]
        await trio.sleep(80)
        assert node.connected == {A, B}
        await trio.sleep(60)
        assert node.connected == {A}
        await trio.sleep(200)
        assert len(node.dials_of(B)) <= 2, "nobody dials it again"


async def test_a_pruned_node_that_dials_back_is_let_be(autojump_clock: MockClock) -> None:
    async with open_world(A, B, prune="all", prune_after=10, poll_interval=5) as world:
        await world.barnacle.wait_for_nodes(2)
        world.strategy.answer = [A]
        await world.recorder.wait_for(NodeDown)
        world.transport.dial_in(B)
        await trio.sleep(300)
        assert world.transport.connected == {A, B}
        assert world.barnacle.nodes.value == {A}


async def test_at_most_a_share_is_pruned_within_prune_after(autojump_clock: MockClock) -> None:
    names = [f"n{n}@10.0.0.{n}" for n in range(20)]
    async with open_world(A, *names, prune_after=60, max_prune=0.25) as world:
        await world.barnacle.wait_for_nodes(21)
        world.strategy.answer = [A]
        await world.recorder.wait_for(NodeDown)
        await trio.sleep(30)
        assert len(world.barnacle.nodes.value) == 21 - 5
        await trio.sleep(60)
        assert len(world.barnacle.nodes.value) == 16 - 4


async def test_a_disconnect_that_fails_is_reported_and_tried_again(
    autojump_clock: MockClock,
) -> None:
    """B11; the bound on each, too."""
    async with open_world(A, B, C, prune_after=0, max_prune=1.0, poll_interval=60) as world:
        await world.barnacle.wait_for_nodes(3)
        world.transport.peer(B).on_disconnect = error = OSError("stuck")
        world.transport.peer(C).on_disconnect = HANG
        world.strategy.answer = [A]
        await world.barnacle.refresh()
        result = await world.barnacle.refresh()
        assert result.failed[B] is error
        assert isinstance(result.failed[C], DisconnectError)
        assert world.barnacle.nodes.value == {A, B, C}
        world.transport.peer(B).on_disconnect = None
        world.transport.peer(C).on_disconnect = None
        result = await world.barnacle.refresh()
        assert result.disconnected == {B, C}
        assert {event.reason for event in world.recorder.of(NodeDown)} == {"pruned"}


async def test_a_node_that_is_gone_already_counts_as_disconnected(
    autojump_clock: MockClock,
) -> None:
    """B11."""

    class GoneAlready(FakeTransport):
        async def disconnect(self, name: NodeName) -> None:
            self.lose(name)
            await super().disconnect(name)
            raise DisconnectError("no such connection")

    transport = GoneAlready(reachable=[A, B])
    async with open_world(A, B, transport=transport, prune_after=0) as world:
        await world.barnacle.wait_for_nodes(2)
        world.strategy.answer = [A]
        await world.barnacle.refresh()
        result = await world.barnacle.refresh()
        assert result.disconnected == {B}
        assert B not in result.failed


@pytest.mark.parametrize("abilities", [(), ("subscribe",)])
async def test_a_disconnect_that_lies_is_reported(
    abilities: tuple[str, ...], autojump_clock: MockClock
) -> None:
    class Lying(FakeTransport):
        async def disconnect(self, name: NodeName) -> None:
            self.disconnects.append((trio.current_time(), name))
            await trio.lowlevel.checkpoint()

    transport = Lying(reachable=[A, B], abilities=abilities)
    async with open_world(A, B, transport=transport, prune_after=0) as world:
        await world.barnacle.wait_for_nodes(2)
        world.strategy.answer = [A]
        await world.barnacle.refresh()
        result = await world.barnacle.refresh()
        assert isinstance(result.failed[B], DisconnectError)
        assert world.barnacle.nodes.value == {A, B}


async def test_pruning_on_a_transport_that_does_not_tell(autojump_clock: MockClock) -> None:
    transport = FakeTransport(reachable=[A, B], abilities=())
    async with open_world(A, B, transport=transport, prune_after=0) as world:
        await world.barnacle.wait_for_nodes(2)
        world.strategy.answer = [A]
        await world.barnacle.refresh()
        assert (await world.barnacle.refresh()).disconnected == {B}
        assert [event.reason for event in world.recorder.of(NodeDown)] == ["pruned"]


async def test_a_prune_that_a_pause_cuts_short_leaves_no_trace(autojump_clock: MockClock) -> None:
    async with open_world(A, B, prune_after=0) as world:
        await world.barnacle.wait_for_nodes(2)
        world.transport.peer(B).on_disconnect = HANG
        world.strategy.answer = [A]
        await world.barnacle.refresh()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def pause() -> None:
                await trio.sleep(1)
                await world.barnacle.pause()
                world.transport.lose(B)

            with pytest.raises(Exception, match="paused"):
                await world.barnacle.refresh()
        assert [event.reason for event in world.recorder.of(NodeDown)] == ["lost"]
