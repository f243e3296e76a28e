"""Leaving the cluster by `Barnacle.drain`: in which order, within which time, and who is told."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from barnacle_trio import (
    ConfigurationError,
    Draining,
    NodeDown,
    NodeUp,
    PeerDown,
    ShutDown,
    custom_transport,
    open_barnacle,
)
from barnacle_trio._leaving import DRAIN_MARGIN, LEAVE_TIMEOUT
from barnacle_trio._names import NodeName
from barnacle_trio.testing import (
    HANG,
    EventRecorder,
    FakeTransport,
    MemoryNetwork,
    ScriptedStrategy,
)
from tests.barnacles import A, B, open_world
from tests.checkpoints import cancel_at_every_checkpoint


class Leaving(ScriptedStrategy):
    """A strategy that says goodbye."""

    def __init__(self, *answers: Any) -> None:
        super().__init__(*answers)
        self.left: list[float] = []
        self.leaving: Exception | None = None

    async def leave(self, _local: NodeName) -> None:
        self.left.append(trio.current_time())
        await trio.sleep(1)
        if self.leaving is not None:
            raise self.leaving


async def test_drain_says_goodbye_and_ends_closed(autojump_clock: MockClock) -> None:
    strategy = Leaving([A, B])
    async with open_world(A, strategy=strategy, transport=FakeTransport(reachable=[A])) as world:
        await world.barnacle.wait_for_nodes(1)
        world.transport.peer(B).on_connect = HANG
        await trio.sleep(9)
        await world.barnacle.drain(3.0)
        assert strategy.left == [9.0]
        assert world.transport.drains == [3.0]
        assert trio.current_time() == 10.0
        assert world.transport._dialling == 0
        assert world.barnacle.status().state == "closed"
        told = [type(event) for event in world.recorder.events][-3:]
        assert told == [Draining, NodeDown, ShutDown]


async def test_while_draining_nothing_is_dialled_and_calls_raise(
    autojump_clock: MockClock,
) -> None:
    strategy = Leaving([A])
    async with open_world(A, strategy=strategy, transport=FakeTransport(reachable=[A])) as world:
        await world.barnacle.wait_for_nodes(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.barnacle.drain)
            await trio.sleep(0.5)
            assert world.barnacle.status().state == "draining"
            world.transport.lose(A)
            for call in (world.barnacle.refresh, world.barnacle.pause, world.barnacle.resume):
                with pytest.raises(trio.ClosedResourceError):
                    await call()
        assert len(world.transport.dials) == 1


async def test_drain_copes_with_what_cannot_say_goodbye(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    strategy = Leaving([A])
    strategy.leaving = OSError("no route")
    transport = FakeTransport(reachable=[A], abilities={"subscribe"})
    async with open_world(strategy=strategy, transport=transport) as world:
        await world.barnacle.drain()
    assert "could not say goodbye" in caplog.text


async def test_a_wrong_grace_changes_nothing(autojump_clock: MockClock) -> None:
    async with open_world(A) as world:
        with pytest.raises(ConfigurationError, match="grace"):
            await world.barnacle.drain(-1)
        assert (await world.barnacle.refresh()).nodes == {A}


async def test_a_cancelled_drain_ends_closed_all_the_same(autojump_clock: MockClock) -> None:
    strategy = Leaving([A])
    async with open_world(A, strategy=strategy) as world:
        with trio.move_on_after(0.5):
            await world.barnacle.drain()
        assert world.barnacle.status().state == "closed"
        await world.barnacle.shutdown()


async def test_whoever_drains_meanwhile_or_later_waits_for_the_same_end(
    autojump_clock: MockClock,
) -> None:
    strategy = Leaving([A])
    async with open_world(A, strategy=strategy) as world:
        ends = list[float]()

        async def drain() -> None:
            await world.barnacle.drain()
            assert world.barnacle.status().state == "closed"
            ends.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain)
            nursery.start_soon(drain)
            await trio.sleep(0.5)
            nursery.start_soon(drain)
        await drain()
        assert ends == [1.0] * 4
        assert len(strategy.left) == len(world.transport.drains) == 1
        assert len(world.recorder.of(Draining)) == len(world.recorder.of(ShutDown)) == 1


async def test_one_that_was_shut_down_cannot_drain(autojump_clock: MockClock) -> None:
    async with open_world(A) as world:
        await world.barnacle.shutdown()
        with pytest.raises(trio.ClosedResourceError):
            await world.barnacle.drain()


async def test_a_paused_one_drains_as_well(autojump_clock: MockClock) -> None:
    strategy = Leaving([A])
    async with open_world(A, strategy=strategy) as world:
        await world.barnacle.wait_for_nodes(1)
        await world.barnacle.pause()
        await world.barnacle.drain(1)
        assert len(strategy.left) == len(world.transport.drains) == 1
        assert world.transport.connected == frozenset()


async def test_parts_that_never_end_do_not_hold_it_up(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Stuck(FakeTransport):
        async def _drain(self, _grace: float) -> None:
            await trio.sleep_forever()

    class Silent(ScriptedStrategy):
        async def leave(self, _local: NodeName) -> None:
            await trio.sleep_forever()

    world = open_world(strategy=Silent([A]), transport=Stuck(reachable=[A]))
    async with world as stuck:
        started = trio.current_time()
        await stuck.barnacle.drain(3)
        assert trio.current_time() - started == LEAVE_TIMEOUT + 3 + DRAIN_MARGIN
        assert stuck.barnacle.status().state == "closed"
    assert "the strategy did not say goodbye in time" in caplog.text
    assert "the transport did not drain in time" in caplog.text


async def test_cancelled_at_each_checkpoint_it_ends_closed(autojump_clock: MockClock) -> None:
    states = list[str]()

    async def come_and_go() -> None:
        async with open_world(A, strategy=Leaving([A])) as world:
            await trio.lowlevel.checkpoint()
            try:
                await world.barnacle.drain(1)
            finally:
                states.append(world.barnacle.status().state)

    assert await cancel_at_every_checkpoint(come_and_go) > 5
    assert set(states) <= {"running", "closed"}, "running: it had not begun"
    assert states.count("running") <= 1


# -- on real nodes ---------------------------------------------------------------------------------

N, P, Q = NodeName("n@memory"), NodeName("p@memory"), NodeName("q@memory")


async def test_peers_see_one_down_and_dial_nobody_who_left(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    everybody = ScriptedStrategy([N, P])
    recorder = EventRecorder()
    dials = list[float]()
    async with network.open_node(P) as peer:

        async def connect(name: NodeName) -> None:
            dials.append(trio.current_time())
            await peer.connect(name)

        transport = custom_transport(peer, connect=connect)
        async with open_barnacle(
            everybody, transport, poll_interval=1, listener=recorder.send
        ) as watcher:
            async with network.open_node(N) as node, open_barnacle(everybody, node) as barnacle:
                await barnacle.wait_for_nodes(1)
                await watcher.wait_for_nodes(1)
                await trio.sleep(31)
                dials.clear()
                await barnacle.drain(5)
                await wait_all_tasks_blocked()
                left_at = trio.current_time()
                assert watcher.nodes.value == frozenset()
            await trio.sleep(9)
            assert dials == []
            assert [event.reason for event in recorder.of(NodeDown)] == ["left"]
            async with (
                network.open_node(N) as node,
                open_barnacle(everybody, node),
            ):  # which dials us
                await watcher.wait_for_nodes(1)
                assert trio.current_time() - left_at < 9.2
            await wait_all_tasks_blocked()
            assert len(recorder.of(NodeUp)) == 2


async def test_a_restarted_node_that_waits_to_be_dialled_is_found(
    autojump_clock: MockClock,
) -> None:
    network = MemoryNetwork()
    async with (
        network.open_node(P) as peer,
        open_barnacle(ScriptedStrategy([N]), peer, poll_interval=1) as watcher,
    ):
        async with network.open_node(N) as node:
            await watcher.wait_for_nodes(1)
            await node.drain(0)
        await trio.sleep(3)
        async with network.open_node(N):
            back_at = trio.current_time()
            await watcher.wait_for_nodes(1)
            assert trio.current_time() - back_at < 1.2


async def test_another_barnacle_on_the_node_dials_nobody_either(autojump_clock: MockClock) -> None:
    """Not while one drains, nor afterwards; it goes on to say what it sees."""
    network = MemoryNetwork()
    recorder = EventRecorder()

    async def slow(_request: Any) -> None:
        await trio.sleep(3)

    async with (
        network.open_node(P) as peer,
        network.open_node(N) as node,
        open_barnacle(ScriptedStrategy([P]), node, name="one") as one,
        open_barnacle(
            ScriptedStrategy([P, Q]), node, name="two", listener=recorder.send, poll_interval=0.5
        ) as two,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(node.serve_process, "slow", slow)
        await one.wait_for_nodes(1)
        await two.wait_for_nodes(1)
        nursery.start_soon(partial(peer.call, ("slow", N), 1))
        await wait_all_tasks_blocked()
        async with network.open_node(Q) as other:
            seen = list[Any]()
            other.subscribe(seen.append)
            async with trio.open_nursery() as draining:
                draining.start_soon(one.drain, 10)
                await trio.sleep(2)
                assert two.nodes.value == {P}, "a call is served yet"
            await trio.sleep(20)
            assert seen == []
        assert [event.reason for event in recorder.of(NodeDown)] == ["closed_by_us"]
        assert two.status().state == "running"
        await two.drain(1)
        nursery.cancel_scope.cancel()


async def test_two_barnacles_of_one_node_may_drain_at_once(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    async with (
        network.open_node(P) as peer,
        network.open_node(N) as node,
        open_barnacle(ScriptedStrategy([P]), node, name="one") as one,
        open_barnacle(ScriptedStrategy([P]), node, name="two") as two,
    ):
        seen = list[Any]()
        await one.wait_for_nodes(1)
        await two.wait_for_nodes(1)
        peer.subscribe(seen.append)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.drain, 5)
            nursery.start_soon(two.drain, 5)
        await wait_all_tasks_blocked()
        assert [each.reason for each in seen if isinstance(each, PeerDown)] == ["left"]
        assert len(seen) == 1


async def test_a_node_that_was_left_already_is_no_fault(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    async with open_barnacle(ScriptedStrategy([P]), await _left_node(network)) as barnacle:
        await barnacle.drain(1)
        assert barnacle.status().state == "closed"


async def _left_node(network: MemoryNetwork) -> Any:
    async with network.open_node(N) as node:
        return node
