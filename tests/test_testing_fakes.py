"""The helpers for users' tests, and the checks that others may hold their own against."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import trio
from trio.testing import MockClock

from barnacle_trio._custom_transport import custom_transport
from barnacle_trio._errors import CookieRejected, DiscoveryError, PeerUnreachable
from barnacle_trio._events import Event, NodeDown, NodeUp, ShutDown
from barnacle_trio._names import NodeName
from barnacle_trio._transport import (
    LocatingTransport,
    PeerChange,
    PeerDown,
    PeerUp,
    SubscribableTransport,
    VisibilityTransport,
)
from barnacle_trio.testing import (
    HANG,
    EventRecorder,
    FakeTransport,
    ScriptedStrategy,
    check_strategy,
    check_transport,
    open_memory_nodes,
)
from tests.barnacles import A, B, C, open_world, settle
from tests.checkpoints import cancel_at_every_checkpoint

LOCAL = NodeName("local@h")


def up(node: str, at: float = 0.0) -> NodeUp:
    return NodeUp(barnacle="b", at=at, node=NodeName(node))


async def test_scripted_answers_come_one_after_the_other(autojump_clock: MockClock) -> None:
    async def slow(_local: NodeName) -> list[str]:
        await trio.sleep(2)
        return [C]

    strategy = ScriptedStrategy([A], OSError("away"), lambda local: [local, B], slow)
    assert await strategy(LOCAL) == [A]
    with pytest.raises(OSError, match="away"):
        await strategy(LOCAL)
    assert await strategy(LOCAL) == [LOCAL, B]
    assert await strategy(LOCAL) == [C]
    assert await strategy(LOCAL) == [C], "the last one stays"
    strategy.answer = HANG
    with trio.move_on_after(10) as scope:
        await strategy(LOCAL)
    assert scope.cancelled_caught
    assert strategy.count == 6
    assert strategy.asked == [0, 0, 0, 0, 2, 4]
    assert repr(HANG) == "HANG"


async def test_a_fake_transport_does_what_the_test_says(autojump_clock: MockClock) -> None:
    transport = FakeTransport("me@h", [A, B])
    changes: list[PeerChange] = []
    unsubscribe = transport.subscribe(changes.append)  # type: ignore[attr-defined]
    transport.peer(A).delay = 3
    await transport.connect(NodeName(A))
    assert trio.current_time() == 3
    transport.peer(B).on_connect = CookieRejected("no")
    with pytest.raises(CookieRejected):
        await transport.connect(NodeName(B))
    with pytest.raises(PeerUnreachable):
        await transport.connect(NodeName(C))
    transport.dial_in(B, hidden=True)
    transport.lose(A, "silent", gone=True)
    transport.lose(A)
    unsubscribe()
    transport.dial_in(C)
    assert transport.connected == {B, C}
    assert [(type(change), change.node) for change in changes] == [
        (PeerUp, A),
        (PeerUp, B),
        (PeerDown, A),
    ]
    assert transport.dials_of(C) == [3.0]
    with pytest.raises(PeerUnreachable):
        await transport.connect(NodeName(A))
    transport.come_back(A)
    await transport.connect(NodeName(A))


def test_a_fake_transport_has_the_abilities_that_it_is_given() -> None:
    everything, nothing = FakeTransport(), FakeTransport(abilities=())
    for ability in (SubscribableTransport, VisibilityTransport, LocatingTransport):
        assert isinstance(everything, ability)
        assert not isinstance(nothing, ability)


async def test_a_recorder_waits_for_what_came_and_what_comes(autojump_clock: MockClock) -> None:
    recorder = EventRecorder()
    send: trio.MemorySendChannel[Event] = recorder.send
    send.send_nowait(up(A))
    assert (await recorder.wait_for(NodeUp)).node == A

    async def later() -> None:
        await trio.sleep(5)
        send.send_nowait(up(B, at=5.0))
        send.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(later)
        with trio.move_on_after(1):
            await recorder.wait_for(ShutDown)
        assert (await recorder.wait_for(NodeUp, lambda event: event.node == B)).at == 5.0
        with pytest.raises(trio.EndOfChannel):
            await recorder.wait_for(ShutDown)
    assert recorder.of(NodeUp) == recorder.events == [up(A), up(B, at=5.0)]
    recorder.clear()
    assert recorder.events == []
    recorder.close()
    assert recorder.events == []


async def test_a_recorder_keeps_the_order_while_a_task_waits(autojump_clock: MockClock) -> None:
    async with open_world(A, B) as world:
        await world.barnacle.wait_for_nodes(2)
        await settle()
        world.recorder.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.recorder.wait_for, NodeDown)
            await settle()
            world.transport.dial_in(A)  # it is down and up in one call
            assert [type(event) for event in world.recorder.events] == [NodeDown, NodeUp]
        assert [type(event) for event in world.recorder.events] == [NodeDown, NodeUp]


@pytest.mark.parametrize("cleared", ["before", "after", "both"])
async def test_a_recorder_is_cleared_while_tasks_wait(
    cleared: str, autojump_clock: MockClock
) -> None:
    async with open_world(A, B) as world:
        await world.barnacle.wait_for_nodes(2)
        await settle()
        with trio.fail_after(1):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(world.recorder.wait_for, NodeDown)
                nursery.start_soon(world.recorder.wait_for, NodeDown)
                await settle()
                if cleared != "after":
                    world.recorder.clear()
                world.transport.lose(A)
                if cleared != "before":
                    world.recorder.clear()
        assert len(world.recorder.of(NodeDown)) == (cleared == "before")


async def test_a_recorder_that_is_closed_ends_its_waits() -> None:
    recorder = EventRecorder()

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await recorder.wait_for(ShutDown)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await settle()
        recorder.close()


async def test_a_recorder_that_is_closed_has_heard_what_came_before() -> None:
    recorder = EventRecorder()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.wait_for, NodeUp)
        await settle()
        recorder.send.send_nowait(up(A))
        recorder.close()
    assert recorder.events == [up(A)]


async def test_a_cancelled_wait_of_a_recorder_leaves_nothing_behind(
    autojump_clock: MockClock,
) -> None:
    recorder = EventRecorder()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.wait_for, NodeUp)
        await settle()
        recorder.send.send_nowait(up(A))
        nursery.cancel_scope.cancel()  # when its event is there already
    with pytest.raises(RuntimeError, match="bug"):
        await recorder.wait_for(NodeUp, _faulty)
    assert recorder.events == [up(A)]
    assert (await recorder.wait_for(NodeUp)).node == A
    await cancel_at_every_checkpoint(lambda: recorder.wait_for(NodeUp))


def _faulty(_event: Event) -> bool:
    raise RuntimeError("bug")


# -- conformance -----------------------------------------------------------------------------------


async def test_a_good_strategy_passes(autojump_clock: MockClock) -> None:
    assert (await check_strategy(ScriptedStrategy([A]), LOCAL)).nodes == {A}
    failing = ScriptedStrategy(DiscoveryError("away"))
    assert (await check_strategy(failing, LOCAL)).kind == "failed"


class Served(ScriptedStrategy):
    def __init__(self, *, starts: bool = True, stubborn: float = 0.0) -> None:
        super().__init__([A])
        self.starts = starts
        self.stubborn = stubborn
        self.left = 0

    async def serve(
        self,
        _local: NodeName,
        *,
        changed: Callable[[], None],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        if self.starts:
            task_status.started()
        changed()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(self.stubborn)

    async def leave(self, _local: NodeName) -> None:
        self.left += 1
        await trio.lowlevel.checkpoint()


async def test_a_served_strategy_is_served_and_left(autojump_clock: MockClock) -> None:
    served = Served()
    await check_strategy(served, LOCAL)
    assert served.left == 1


async def _never_yields(_local: NodeName) -> Iterable[str]:  # noqa: ASYNC124
    return [A]


async def _hides_cancellation(_local: NodeName) -> Iterable[str]:
    with trio.move_on_after(1, shield=True):
        await trio.sleep(0.5)
    return [A]


async def _stubborn(_local: NodeName) -> Iterable[str]:
    try:
        await trio.sleep(1)
    finally:
        with trio.move_on_after(5, shield=True):
            await trio.sleep(5)
    return [A]


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (_never_yields, "without a checkpoint"),
        (_hides_cancellation, "hid a cancellation"),
        (_stubborn, "to honour a cancellation"),
        (ScriptedStrategy(["no name"]), "no node name"),
        (ScriptedStrategy(HANG), "no answer within"),
        (Served(starts=False), "did not start"),
        (Served(stubborn=3.0), "to honour a cancellation"),
    ],
    ids=["never_yields", "hides", "stubborn", "bad_names", "hangs", "no_start", "no_end"],
)
async def test_a_bad_strategy_fails(
    bad: ScriptedStrategy, complaint: str, autojump_clock: MockClock
) -> None:
    with pytest.RaisesGroup(
        pytest.RaisesExc(AssertionError, match=complaint),
        allow_unwrapped=True,
        flatten_subgroups=True,
    ):
        await check_strategy(bad, LOCAL)


async def test_a_bug_is_not_a_failure(autojump_clock: MockClock) -> None:
    with pytest.RaisesGroup(TypeError, allow_unwrapped=True, flatten_subgroups=True):
        await check_strategy(ScriptedStrategy(lambda _local: None), LOCAL)


@pytest.mark.parametrize("abilities", [(), ("subscribe", "list_visible", "locate", "drain")])
async def test_the_fake_transport_passes(abilities: tuple[str, ...]) -> None:
    transport = FakeTransport(reachable=[A], abilities=abilities)
    await check_transport(transport, reachable=A, unreachable=B)
    over = custom_transport(transport, connect=transport.connect)
    await check_transport(over, reachable=A, unreachable=B)


async def test_a_real_node_passes() -> None:
    async with open_memory_nodes("one@h", "other@h") as (one, _other):
        await check_transport(one, reachable="other@h", unreachable="absent@h")


async def test_bad_transports_fail(autojump_clock: MockClock) -> None:
    async def nothing(_name: NodeName) -> None:
        await trio.lowlevel.checkpoint()

    good = FakeTransport(reachable=[A])
    with pytest.raises(AssertionError, match="has who was connected"):
        await check_transport(custom_transport(good, connect=nothing), reachable=A, unreachable=B)
    with pytest.raises(AssertionError, match="disconnect"):
        await check_transport(
            custom_transport(good, disconnect=nothing), reachable=A, unreachable=B
        )
    good.lose(A)
    good.come_back(B)
    with pytest.raises(AssertionError, match="could not connect"):
        await check_transport(good, reachable=A, unreachable=B)
