"""Losing nodes and getting them back: the rows on dials that fail and on connections lost."""

from __future__ import annotations

import logging
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from barnacle_trio._errors import CookieRejected, HandshakeRefused, NameTakenError
from barnacle_trio._events import NodeDown, NodeUp
from barnacle_trio._names import NodeName
from barnacle_trio.testing import HANG, FakeTransport
from tests.barnacles import A, B, C, open_world


async def test_a_lost_node_is_dialled_again_at_once(autojump_clock: MockClock) -> None:
    """F1: the first try within a second; B20: no waiting for the next poll."""
    async with open_world(A, B, poll_interval=60) as world:
        await world.barnacle.wait_for_nodes(2)
        await trio.sleep(40)
        world.transport.lose(A)
        await world.barnacle.wait_for_nodes(2)
        assert trio.current_time() <= 40.1
        [down] = world.recorder.of(NodeDown)
        assert (down.node, down.reason) == (A, "lost")
        assert [event.node for event in world.recorder.of(NodeUp)].count(NodeName(A)) == 2


async def test_after_a_loss_the_strategy_is_asked_at_a_growing_pace(
    autojump_clock: MockClock,
) -> None:
    async with open_world(A, B, poll_interval=60) as world:
        await world.barnacle.wait_for_nodes(2)
        await trio.sleep(40)
        world.transport.lose(A, gone=True)
        await trio.sleep(60)
        asked = [at for at in world.strategy.asked if at > 1]
        assert asked[0] == pytest.approx(40.1)
        gaps = [b - a for a, b in pairwise(asked)]
        assert gaps[:7] == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8], abs=0.01)


async def test_the_pace_falls_back_when_everybody_is_there(autojump_clock: MockClock) -> None:
    async with open_world(A, B, poll_interval=60) as world:
        await world.barnacle.wait_for_nodes(2)
        await trio.sleep(40)
        world.transport.lose(A)
        await trio.sleep(10)
        assert len([at for at in world.strategy.asked if at > 1]) == 1


async def test_an_address_that_discovery_found_meanwhile_is_dialled(
    autojump_clock: MockClock,
) -> None:
    """A restarted pod comes back under another address."""
    async with open_world(A, B, poll_interval=60) as world:
        world.transport.come_back(C)
        await world.barnacle.wait_for_nodes(2)
        await trio.sleep(40)
        world.transport.lose(A, gone=True)
        world.strategy.answer = [B, C]
        await world.barnacle.wait_for_nodes(2)
        assert trio.current_time() <= 40.2


async def test_each_node_backs_off_alone(autojump_clock: MockClock) -> None:
    async with open_world(A, B, C, poll_interval=5) as world:
        world.transport.peer(A).on_connect = OSError("down")
        world.transport.peer(B).reachable = False
        await trio.sleep(30)
        assert world.barnacle.nodes.value == {C}
        assert len(world.transport.dials_of(C)) == 1
        world.transport.come_back(B)
        await world.barnacle.wait_for_nodes(2)
        assert trio.current_time() <= 35


async def test_silent_names_hold_up_nobody_new(autojump_clock: MockClock) -> None:
    """F14: however many dead addresses there are, whoever lives is connected soon."""
    silent = [f"silent{n}@10.0.0.1" for n in range(300)]
    transport = FakeTransport(reachable=[A, B, C])
    for name in silent:
        transport.peer(name).on_connect = HANG
    async with open_world(*silent, A, B, C, transport=transport) as world:
        await world.barnacle.wait_for_nodes(3)
        assert trio.current_time() <= 300 / (56 - 16) + 1  # so many at once, a second for each lot
        assert transport.most_dialling <= 64
        await trio.sleep(60)
        # Now that all were tried, each has its whole time.
        errors = {str(world.barnacle.status().peers[NodeName(name)].last_error) for name in silent}
        assert errors == {"no answer within 7 s"}


@pytest.mark.parametrize("count", [150, 500])
async def test_a_crowd_that_is_slow_to_connect_is_connected(
    autojump_clock: MockClock, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    """More than there are slots, each of which needs more than a second: TLS on slow machines."""
    names = [f"slow{n}@10.0.0.1" for n in range(count)]
    transport = FakeTransport(reachable=names)
    for name in names:
        transport.peer(name).delay = 1.5
    async with open_world(*names, transport=transport) as world:
        result = await world.barnacle.refresh()
        assert result.nodes == set(names)
        assert not result.failed
        assert trio.current_time() <= 2 * 1.5 * count / 56 + 3
        ups = [event.at for event in world.recorder.of(NodeUp)]
        assert min(ups) - min(event.at for event in world.recorder.events) <= 1.6
    assert "cannot connect" not in caplog.text


async def test_a_slow_peer_that_is_lost_is_back_however_many_silent_ones_there_are(
    autojump_clock: MockClock,
) -> None:
    silent = [f"silent{n}@10.0.0.1" for n in range(2000)]
    transport = FakeTransport(reachable=[A])
    for name in silent:
        transport.peer(name).on_connect = HANG
    async with open_world(A, transport=transport) as world:
        await world.barnacle.wait_for_nodes(1)
        await trio.sleep(40)
        world.strategy.answer = [A, *silent]
        await trio.sleep(6)
        transport.peer(A).delay = 1.5
        lost = trio.current_time()
        transport.lose(A)
        await world.barnacle.wait_for_nodes(1)
        assert trio.current_time() - lost <= 2


async def test_a_newcomer_waits_for_none_of_those_that_were_lost(
    autojump_clock: MockClock,
) -> None:
    """A part of the cluster dies without a word, and comes again under other names."""
    old = [f"old{n}@10.0.0.1" for n in range(300)]
    transport = FakeTransport(reachable=old)
    async with open_world(*old, transport=transport) as world:
        await world.barnacle.wait_for_nodes(300)
        await trio.sleep(40)
        for name in old:
            transport.peer(name).on_connect = HANG
            transport.lose(name, "silent")
        await trio.sleep(10)
        transport.peer(A).reachable = True
        world.strategy.answer = [*old, A]
        begun = trio.current_time()
        await world.barnacle.nodes.wait_value(lambda nodes: NodeName(A) in nodes)
        assert trio.current_time() - begun <= 5 * 1.1 + 2


class StubbornTransport(FakeTransport):
    """As one whose dials run in threads: they end when they like."""

    async def connect(self, name: NodeName) -> None:
        with trio.CancelScope(shield=name.startswith("stubborn")):
            await super().connect(name)


async def test_a_dial_that_cannot_be_cancelled_holds_up_nobody_else(
    autojump_clock: MockClock,
) -> None:
    stubborn = [f"stubborn{n}@10.0.0.1" for n in range(20)]
    silent = [f"silent{n}@10.0.0.1" for n in range(200)]
    transport = StubbornTransport(reachable=[A, *stubborn])
    for name in stubborn:
        transport.peer(name).delay = 30.0
    for name in silent:
        transport.peer(name).on_connect = HANG
    async with open_world(*stubborn, *silent, A, transport=transport) as world:
        await world.barnacle.wait_for_nodes(1)
        assert trio.current_time() <= 15


async def test_a_newcomer_waits_for_no_slot(autojump_clock: MockClock) -> None:
    silent = [f"silent{n}@10.0.0.1" for n in range(64)]
    transport = FakeTransport(reachable=[A])
    for name in silent:
        transport.peer(name).on_connect = HANG
    async with open_world(*silent, transport=transport) as world:
        await trio.sleep(100)
        world.strategy.answer = [*silent, A]
        await world.barnacle.wait_for_nodes(1)
        # The next poll, and at the most until one of them was silent for a second.
        assert trio.current_time() <= 100 + 5 * 1.1 + 1


async def test_a_partition_heals_fast(autojump_clock: MockClock) -> None:
    """F5: all peers at once, not one after the other; brisk for the first minute."""
    names = [f"n{n}@10.0.0.{n}" for n in range(20)]
    async with open_world(*names, poll_interval=30) as world:
        await world.barnacle.wait_for_nodes(20)
        await trio.sleep(35)
        for name in names:
            world.transport.peer(name).on_connect = HANG
            world.transport.peer(name).reachable = False
            world.transport.lose(name, "silent")
        await trio.sleep(20)
        for name in names:
            world.transport.peer(name).on_connect = None
            world.transport.come_back(name)
        healed = trio.current_time()
        await world.barnacle.wait_for_nodes(20)
        # what is left of a dial that hangs, and a pause of at most a second
        assert trio.current_time() - healed <= 7 + 1


async def test_a_crash_loop_of_a_peer_brings_ever_fewer_events(autojump_clock: MockClock) -> None:
    """F24."""
    async with open_world(A, poll_interval=10) as world:

        async def crash_loop() -> None:
            while True:
                await world.barnacle.wait_for_nodes(1)
                await trio.sleep(0.1)
                world.transport.lose(A)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash_loop)
            await trio.sleep(600)
            nursery.cancel_scope.cancel()
        ups = [event.at for event in world.recorder.of(NodeUp)]
        assert len([at for at in ups if at < 60]) < 400
        assert len([at for at in ups if at > 540]) < 40
        flaps = world.barnacle.status().peers[NodeName(A)].flaps
        assert flaps in (len(ups), len(ups) - 1)
        assert len(world.strategy.asked) < 80, "and no haste in discovery"


async def test_a_rolling_restart(autojump_clock: MockClock) -> None:
    """F21: the others stay connected, each restart is one down and one up."""
    names = [f"n{n}@10.0.0.{n}" for n in range(6)]
    async with open_world(*names) as world:
        await world.barnacle.wait_for_nodes(6)
        for name in names:
            await trio.sleep(31)
            world.transport.lose(name, gone=True)
            assert world.barnacle.nodes.value == set(names) - {name}
            await trio.sleep(3)
            world.transport.come_back(name)
            with trio.fail_after(0.31):
                await world.barnacle.wait_for_nodes(6)
        assert len(world.recorder.of(NodeDown)) == 6
        assert len(world.recorder.of(NodeUp)) == 12


async def test_a_new_incarnation_is_one_down_and_one_up(autojump_clock: MockClock) -> None:
    async with open_world(A) as world:
        await world.barnacle.wait_for_nodes(1)
        world.recorder.clear()
        world.transport.dial_in(A)
        await trio.sleep(100)
        assert [event.reason for event in world.recorder.of(NodeDown)] == ["replaced"]
        assert len(world.recorder.of(NodeUp)) == 1
        assert len(world.transport.dials_of(A)) == 1


async def test_who_said_goodbye_is_left_alone_for_a_while(autojump_clock: MockClock) -> None:
    """F28."""
    async with open_world(A, poll_interval=1) as world:
        await world.barnacle.wait_for_nodes(1)
        await trio.sleep(31)
        world.transport.lose(A, "left")
        await trio.sleep(9.9)
        assert len(world.transport.dials) == 1
        assert world.recorder.of(NodeDown)[0].reason == "left"
        world.transport.dial_in(A)
        assert world.barnacle.nodes.value == {A}


async def test_who_left_is_dialled_as_soon_as_it_is_back(autojump_clock: MockClock) -> None:
    async with open_world(A, poll_interval=1) as world:
        await world.barnacle.wait_for_nodes(1)
        world.transport.lose(A, "left", gone=True)
        await trio.sleep(3)
        assert len(world.transport.dials) == 1
        world.transport.come_back(A)
        world.transport.peer(A).location = 4711  # it is registered anew
        await world.barnacle.wait_for_nodes(1)
        assert trio.current_time() <= 4.2


async def test_a_node_disconnected_by_hand_comes_back_with_the_polls(
    autojump_clock: MockClock,
) -> None:
    async with open_world(A, poll_interval=10) as world:
        await world.barnacle.wait_for_nodes(1)
        await world.transport.disconnect(NodeName(A))
        assert world.recorder.of(NodeDown)[0].reason == "closed_by_us"
        await trio.sleep(5)
        assert world.barnacle.nodes.value == frozenset()
        await world.barnacle.wait_for_nodes(1)
        assert trio.current_time() <= 11


# -- quarantine ------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [CookieRejected, NameTakenError, HandshakeRefused])
async def test_a_refusal_is_quarantined(
    error: type[HandshakeRefused], autojump_clock: MockClock
) -> None:
    """F22: no flapping."""
    async with open_world(A, B, poll_interval=1) as world:
        world.transport.peer(A).on_connect = error("no")
        await trio.sleep(5 + 10 + 20 + 40 - 1)
        assert len(world.transport.dials_of(A)) == 4
        status = world.barnacle.status().peers[NodeName(A)]
        assert status.state == "quarantined"
        assert isinstance(status.last_error, error)
        await trio.sleep(1.5)
        assert len(world.transport.dials_of(A)) == 5
        assert world.barnacle.nodes.value == {B}


async def test_a_group_of_refusals_is_a_refusal(autojump_clock: MockClock) -> None:
    async with open_world(A, poll_interval=1) as world:
        group = ExceptionGroup("nursery", [CookieRejected("no")])
        world.transport.peer(A).on_connect = group
        await trio.sleep(4)
        assert world.barnacle.status().peers[NodeName(A)].state == "quarantined"


async def test_one_line_in_the_log_over_twenty_polls(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "barnacle_trio")
    async with open_world(A, B, poll_interval=5) as world:
        world.transport.peer(A).on_connect = CookieRejected("no")
        world.transport.peer(B).reachable = False
        await trio.sleep(100)
        assert world.strategy.count >= 19
    about_a = [r.getMessage() for r in caplog.records if A in r.getMessage()]
    about_b = [r.getMessage() for r in caplog.records if B in r.getMessage()]
    assert len(about_a) == len(about_b) == 1
    assert "refused" in about_a[0]
    assert "cannot connect" in about_b[0]


async def test_a_quarantine_ends_when_the_peer_is_set_up_anew(autojump_clock: MockClock) -> None:
    async with open_world(A, poll_interval=5) as world:
        peer = world.transport.peer(A)
        peer.location = 4711
        peer.on_connect = CookieRejected("no", location=4711)
        await trio.sleep(200)
        dials = len(world.transport.dials_of(A))
        peer.location = None
        await trio.sleep(20)
        peer.location = 4712
        peer.on_connect = None
        await world.barnacle.wait_for_nodes(1)
        assert trio.current_time() <= 226
        assert len(world.transport.dials_of(A)) == dials + 1


async def test_a_look_for_a_moved_peer_holds_nothing_up(autojump_clock: MockClock) -> None:
    class Hanging(FakeTransport):
        lookups = most = 0

        async def _locate(self, name: NodeName) -> object:
            self.lookups += 1
            self.most = max(self.most, self.lookups)
            try:
                if name == A:
                    raise OSError("no port mapper")
                await trio.sleep_forever()
            finally:
                self.lookups -= 1

    names = [f"n{n}@10.0.0.{n}" for n in range(50)]
    transport = Hanging(reachable=[B])
    for name in [A, *names]:
        transport.peer(name).on_connect = CookieRejected("no", location=1)
    async with open_world(A, B, *names, transport=transport, poll_interval=5) as world:
        await trio.sleep(100)
        assert world.strategy.count >= 18
        assert transport.most in range(1, 17)
        assert world.barnacle.nodes.value == {B}
        assert world.barnacle.status().restarts == 0


async def test_a_quarantine_ends_when_the_peer_dials(autojump_clock: MockClock) -> None:
    async with open_world(A, poll_interval=5) as world:
        world.transport.peer(A).on_connect = CookieRejected("no")
        await trio.sleep(100)
        world.transport.dial_in(A)
        assert world.barnacle.nodes.value == {A}
        assert world.barnacle.status().peers[NodeName(A)].state == "connected"


async def test_refresh_ignores_a_quarantine(autojump_clock: MockClock) -> None:
    async with open_world(A, poll_interval=5) as world:
        world.transport.peer(A).on_connect = CookieRejected("no")
        await trio.sleep(100)
        assert isinstance((await world.barnacle.refresh()).failed[A], CookieRejected)
        world.transport.peer(A).on_connect = None
        assert (await world.barnacle.refresh()).nodes == {A}
