"""Status, a single round, and transports that do not tell of their connections."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from barnacle_trio._custom_transport import custom_transport
from barnacle_trio._errors import DiscoveryError
from barnacle_trio._events import NodeUp
from barnacle_trio._names import NodeName
from barnacle_trio._running import open_barnacle, run_once
from barnacle_trio.testing import EventRecorder, FakeTransport, ScriptedStrategy
from tests.barnacles import A, B, C, open_world, settle
from tests.checkpoints import cancel_at_every_checkpoint

# -- status, nodes, waiting ------------------------------------------------------------------------


async def test_status_is_a_snapshot(autojump_clock: MockClock) -> None:
    async with open_world(A, B, prune_after=1000) as world:
        world.transport.peer(B).on_connect = error = OSError("down")
        await world.barnacle.refresh()
        status = world.barnacle.status()
        assert status.state == "running"
        assert status.nodes == {A}
        assert status.refreshes >= 1
        assert status.restarts == status.missed == 0
        assert status.last_refresh == 0.0
        assert status.last_error is None
        assert status.peers[NodeName(A)].state == "connected"
        peer = status.peers[NodeName(B)]
        assert peer.state == "backing_off"
        assert peer.last_error is error
        assert peer.failures >= 1
        assert peer.next_attempt is not None
        world.strategy.answer = [B]
        await trio.sleep(10)
        assert world.barnacle.status().peers[NodeName(A)].state == "missing"
        assert status.peers[NodeName(A)].state == "connected"


async def test_wait_for_nodes_held_for(autojump_clock: MockClock) -> None:
    async with open_world(A, B) as world, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def flicker() -> None:
            await trio.sleep(3)
            world.transport.lose(B)

        assert await world.barnacle.wait_for_nodes(2, held_for=5) == {A, B}
        assert 8.0 <= trio.current_time() <= 8.5
        assert await world.barnacle.wait_for_nodes(0) == {A, B}


async def test_wait_for_nodes_returns_those_of_now(autojump_clock: MockClock) -> None:
    strategy, transport = ScriptedStrategy([A, B, C]), FakeTransport(reachable=[A, B])
    async with open_world(strategy=strategy, transport=transport) as world:
        await world.barnacle.wait_for_nodes(2)

        async def change() -> None:
            await trio.sleep(3)
            transport.dial_in(C)
            await trio.sleep(1)
            transport.lose(A, gone=True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(change)
            assert await world.barnacle.wait_for_nodes(2, held_for=10) == {B, C}
            assert trio.current_time() == pytest.approx(10)


async def test_wait_for_nodes_does_not_return_one_that_is_down_again(
    autojump_clock: MockClock,
) -> None:
    strategy, transport = ScriptedStrategy([A, B]), FakeTransport(reachable=[A])
    async with open_world(strategy=strategy, transport=transport) as world:
        await world.barnacle.wait_for_nodes(1)

        async def wait() -> None:
            assert await world.barnacle.wait_for_nodes(2) == world.barnacle.nodes.value == {A, B}

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await settle()
            transport.dial_in(B)
            transport.lose(B)
            await trio.sleep(2)
            transport.dial_in(B)


async def test_nodes_up_before_they_are_named_are_told_when_they_are(
    autojump_clock: MockClock,
) -> None:
    async with open_world(strategy=ScriptedStrategy([])) as world:
        world.transport.dial_in(A)
        world.transport.dial_in(B, hidden=True)
        await trio.sleep(10)
        assert world.barnacle.nodes.value == frozenset()
        world.strategy.answer = [A, B]
        await world.barnacle.refresh()
        assert {event.node for event in world.recorder.of(NodeUp)} == {A, B}
        assert world.barnacle.nodes.value == {A, B}, "hidden ones too"
        assert world.transport.dials == []


# -- run_once --------------------------------------------------------------------------------------


async def test_run_once_connects_and_returns(autojump_clock: MockClock) -> None:
    transport = FakeTransport(reachable=[A])
    transport.dial_in(C)
    result = await run_once(ScriptedStrategy([A, B]), transport)
    assert result.nodes == result.connected == {A}
    assert set(result.failed) == {B}
    assert transport.connected == {A, C}


async def test_run_once_gives_each_its_whole_time(autojump_clock: MockClock) -> None:
    """It dials nobody twice, so nobody gives way."""
    names = [f"slow{n}@10.0.0.1" for n in range(100)]
    transport = FakeTransport(reachable=names)
    for name in names:
        transport.peer(name).delay = 3.0
    result = await run_once(ScriptedStrategy(names), transport)
    assert result.nodes == set(names)
    assert not result.failed


async def test_run_once_prunes_at_once_what_all_covers(autojump_clock: MockClock) -> None:
    transport = FakeTransport(reachable=[A])
    transport.dial_in(A)
    transport.dial_in(B)
    transport.dial_in(C, hidden=True)
    result = await run_once(ScriptedStrategy([A]), transport, prune="all")
    assert result.disconnected == {B}
    assert transport.connected == {A, C}
    result = await run_once(ScriptedStrategy([]), transport, prune="all")
    assert result.disconnected == frozenset(), "an empty answer prunes nobody"


async def test_run_once_raises_plainly(autojump_clock: MockClock) -> None:
    with pytest.raises(DiscoveryError):
        await run_once(ScriptedStrategy(OSError("no route")), FakeTransport())
    with pytest.raises(ZeroDivisionError):
        await run_once(ScriptedStrategy(ZeroDivisionError()), FakeTransport())


async def test_run_once_leaves_nothing_behind_wherever_it_is_cancelled(
    autojump_clock: MockClock,
) -> None:
    transport = FakeTransport(reachable=[A])

    async def nothing_is_left() -> None:
        await settle()
        assert transport._callbacks == []
        assert transport._dialling == 0
        for name in transport.connected:
            transport.lose(name)

    await cancel_at_every_checkpoint(
        lambda: run_once(ScriptedStrategy([A, B]), transport), nothing_is_left
    )


# -- transports that do not tell -------------------------------------------------------------------


async def test_a_transport_without_subscribe_is_looked_at(autojump_clock: MockClock) -> None:
    transport = FakeTransport(reachable=[A], abilities=())
    async with open_world(A, transport=transport, poll_interval=30) as world:
        await world.barnacle.wait_for_nodes(1)
        assert trio.current_time() == 0.0
        await trio.sleep(5)
        transport.lose(A)
        await world.barnacle.nodes.wait_value(frozenset())
        assert trio.current_time() <= 6.0
        await world.barnacle.wait_for_nodes(1)
        assert trio.current_time() <= 7.0


async def test_functions_that_never_yield_do_not_stop_the_loop(autojump_clock: MockClock) -> None:
    """F23."""
    connected: set[str] = set()

    async def strategy(_local: NodeName) -> list[str]:  # noqa: ASYNC124
        return [A, B]

    async def connect(name: NodeName) -> None:  # noqa: ASYNC124
        connected.add(name)

    async def disconnect(name: NodeName) -> None:  # noqa: ASYNC124
        connected.discard(name)

    async def list_nodes() -> list[str]:  # noqa: ASYNC124
        return sorted(connected)

    transport = custom_transport(
        name="local@h", connect=connect, disconnect=disconnect, list_nodes=list_nodes
    )
    async with open_barnacle(strategy, transport, poll_interval=0.001) as barnacle:
        assert await barnacle.wait_for_nodes(2) == {A, B}
        await trio.sleep(1)
        assert barnacle.status().refreshes > 100


async def test_what_events_say_is_not_undone_by_an_older_listing(
    autojump_clock: MockClock,
) -> None:
    """A peer that comes up while the nodes are being listed is up."""

    class SlowToList(FakeTransport):
        async def list_nodes(self) -> list[str]:
            listed: list[str] = list(self.connected)
            await trio.sleep(1)
            return listed

    transport = SlowToList()
    recorder = EventRecorder()
    async with open_barnacle(
        ScriptedStrategy([A]), transport, listener=recorder.send, poll_interval=3
    ) as barnacle:
        await trio.sleep(1.5)
        for _ in range(20):
            await trio.sleep(1.05)
            transport.dial_in(A) if A not in transport.connected else transport.lose(A)
            await settle()
            assert (A in barnacle.nodes.value) == (A in transport.connected)
