"""Telling listeners: nobody is waited for, nothing grows without bound, losses are told."""

from __future__ import annotations

import gc
import math
import sys

import pytest
import trio
from trio.testing import MockClock

from barnacle_trio._errors import ConfigurationError
from barnacle_trio._events import Event, Missed, NodeDown, NodeUp, ShutDown
from barnacle_trio._listeners import Listeners, check_listener
from barnacle_trio._names import NodeName
from barnacle_trio._running import open_barnacle
from barnacle_trio.testing import FakeTransport, ScriptedStrategy
from tests.barnacles import A, B, C, open_world

NODES = frozenset({NodeName(A)})


def make() -> Listeners:
    return Listeners("b", lambda: 7.0, lambda: NODES)


def event(number: int) -> NodeUp:
    return NodeUp(barnacle="b", at=float(number), node=NodeName(A))


def last() -> ShutDown:
    return ShutDown(barnacle="b", at=0.0)


def read(receive: trio.MemoryReceiveChannel[Event], number: int) -> list[Event]:
    return [receive.receive_nowait() for _ in range(number)]


async def test_the_clone_is_used_and_closed_and_never_the_channel_itself() -> None:
    send, receive = trio.open_memory_channel[Event](4)
    listeners = make()
    listeners.add(send)
    listeners.publish(event(1))
    listeners.close()
    send.send_nowait(event(2))
    send.close()
    assert [each async for each in receive] == [event(1), event(2)]


async def test_the_caller_may_close_its_end_at_once() -> None:
    send, receive = trio.open_memory_channel[Event](4)
    listeners = make()
    with send:
        listeners.add(send)
    listeners.publish(event(1))
    listeners.close()
    assert [each async for each in receive] == [event(1)]


def test_what_does_not_fit_is_counted_and_told_before_the_next_that_does() -> None:
    send, receive = trio.open_memory_channel[Event](2)
    listeners = make()
    listeners.add(send)
    for number in range(5):
        listeners.publish(event(number))
    assert listeners.missed == 3
    assert read(receive, 2) == [event(0), event(1)]
    listeners.publish(event(5))
    missed = Missed(barnacle="b", at=7.0, count=3, nodes=NODES)
    assert read(receive, 2) == [missed, event(5)]
    listeners.publish(event(6))
    assert read(receive, 1) == [event(6)], "told once"


def test_a_buffer_of_one_is_borne() -> None:
    send, receive = trio.open_memory_channel[Event](1)
    listeners = make()
    listeners.add(send)
    for number in range(3):
        listeners.publish(event(number))
    assert read(receive, 1) == [event(0)]
    listeners.publish(event(3))
    assert read(receive, 1) == [Missed(barnacle="b", at=7.0, count=2, nodes=NODES)]
    assert listeners.missed == 3, "the one that did not fit behind it is counted again"


def test_a_closed_receiver_is_forgotten() -> None:
    send, receive = trio.open_memory_channel[Event](1)
    other, heard = trio.open_memory_channel[Event](9)
    listeners = make()
    listeners.add(send)
    listeners.add(other)
    listeners.publish(event(0))
    receive.close()
    listeners.publish(event(1))
    assert len(listeners._listening) == 1
    assert listeners.missed == 0
    assert read(heard, 2) == [event(0), event(1)]


def test_each_listener_misses_alone() -> None:
    send, receive = trio.open_memory_channel[Event](1)
    listeners = make()
    listeners.add(send)
    roomy = listeners.open(64, [])
    for number in range(3):
        listeners.publish(event(number))
    assert read(roomy, 3) == [event(0), event(1), event(2)]
    assert read(receive, 1) == [event(0)]


async def test_an_opened_one_begins_with_what_is_and_always_hears_the_end() -> None:
    listeners = make()
    receive = listeners.open(2, [event(-1), event(-2)])
    for number in range(9):
        listeners.publish(event(number))
    listeners.publish(last())
    listeners.close()
    heard = [each async for each in receive]
    assert heard[:4] == [event(-1), event(-2), event(0), event(1)]
    assert heard[4:] == [Missed(barnacle="b", at=7.0, count=7, nodes=NODES), last()]


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (trio.open_memory_channel[Event](0)[0], "needs a buffer"),
        (trio.open_memory_channel[Event](4)[1], "the receiving end"),
        ("stdout", "is the send end"),
        (print, "is the send end"),
    ],
    ids=["zero", "receiver", "str", "function"],
)
def test_what_is_no_listener_is_said_at_the_call(bad: object, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        check_listener(bad)
    with pytest.raises(ConfigurationError, match=complaint):
        open_barnacle(ScriptedStrategy(), FakeTransport(), listener=bad)  # type: ignore[arg-type]


async def test_a_closed_listener_is_a_configuration_error() -> None:
    send, _receive = trio.open_memory_channel[Event](4)
    send.close()
    with pytest.raises(ConfigurationError, match="closed already"):
        async with open_barnacle(ScriptedStrategy(), FakeTransport(), listener=send):
            pass


def test_an_endless_buffer_is_the_callers_choice() -> None:
    send, receive = trio.open_memory_channel[Event](math.inf)
    listeners = make()
    listeners.add(send)
    for number in range(1000):
        listeners.publish(event(number))
    assert receive.statistics().current_buffer_used == 1000


# -- with a barnacle -------------------------------------------------------------------------------


async def test_several_listeners(autojump_clock: MockClock) -> None:
    ends = [trio.open_memory_channel[Event](64) for _ in range(3)]
    async with open_barnacle(
        ScriptedStrategy([A]), FakeTransport(reachable=[A]), listener=[send for send, _ in ends]
    ) as barnacle:
        await barnacle.wait_for_nodes(1)
    for send, receive in ends:
        send.close()
        heard = [each async for each in receive]
        assert any(isinstance(each, NodeUp) for each in heard)
        assert isinstance(heard[-1], ShutDown)


async def test_an_opened_listener_begins_with_the_nodes_that_are_up(
    autojump_clock: MockClock,
) -> None:
    async with open_world(A, B, C) as world:
        await world.barnacle.wait_for_nodes(3)
        with world.barnacle.open_listener(max_buffer_size=1) as events:
            world.transport.lose(B)
            await world.barnacle.shutdown()
            heard = [each async for each in events]
        assert [each.node for each in heard if isinstance(each, NodeUp)] == [A, B, C]
        [down] = [each for each in heard if isinstance(each, NodeDown)]
        assert down.node == B
        assert isinstance(heard[-1], ShutDown)


async def test_leaving_the_block_of_a_listener_ends_it(autojump_clock: MockClock) -> None:
    async with open_world(A) as world:
        await world.barnacle.wait_for_nodes(1)
        with world.barnacle.open_listener() as events:
            assert isinstance(await events.receive(), NodeUp)
        world.transport.lose(A)
        with pytest.raises(trio.ClosedResourceError):
            events.receive_nowait()
        assert world.barnacle.status().missed == 0


@pytest.mark.parametrize("size", [0, -1, True, "64", 2.5])
async def test_a_listener_without_a_buffer_is_refused(
    size: object, autojump_clock: MockClock
) -> None:
    async with open_world(A) as world:
        with (
            pytest.raises(ConfigurationError, match="max_buffer_size"),
            world.barnacle.open_listener(size),  # type: ignore[arg-type]
        ):
            pass


async def test_one_that_never_reads_costs_nothing(autojump_clock: MockClock) -> None:
    """100,000 events: memory stays flat, and the loop is not held up by a moment."""
    send, receive = trio.open_memory_channel[Event](64)
    transport = FakeTransport(reachable=[A])
    strategy = ScriptedStrategy([A])
    async with open_barnacle(strategy, transport, listener=send, poll_interval=5) as barnacle:
        await barnacle.wait_for_nodes(1)

        def flap(times: int) -> None:
            for _ in range(times):
                transport.lose(A, "replaced")
                transport.dial_in(A)

        flap(1_000)
        gc.collect()
        before = sys.getallocatedblocks()
        for _ in range(10):
            flap(5_000)
            await trio.sleep(10)
        gc.collect()
        assert sys.getallocatedblocks() - before < 1_000
        assert barnacle.status().missed > 100_000
        assert 18 <= strategy.count <= 23, "every round was on time"
        assert receive.statistics().current_buffer_used == 64
    send.close()
    receive.close()
