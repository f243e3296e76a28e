"""When rounds happen, what they do and what they say."""

from __future__ import annotations

import logging
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from barnacle_trio import ConfigurationError, open_barnacle
from barnacle_trio._errors import DiscoveryError, PeerUnreachable
from barnacle_trio._events import Refreshed, RefreshFailed, RefreshResult
from barnacle_trio._names import NodeName
from barnacle_trio.strategies import local_epmd
from barnacle_trio.testing import HANG, FakeTransport, ScriptedStrategy
from tests.barnacles import A, B, C, open_world
from tests.checkpoints import cancel_at_every_checkpoint

# -- start -----------------------------------------------------------------------------------------


async def test_the_first_round_is_at_once(autojump_clock: MockClock) -> None:
    """B6."""
    async with open_world(A, B) as world:
        assert world.strategy.count == 0, "entering does not wait for it"
        await world.barnacle.wait_for_nodes(2)
        assert trio.current_time() == 0.0
        assert world.barnacle.nodes.value == {A, B}


async def test_entering_does_not_wait_for_a_strategy_that_hangs(autojump_clock: MockClock) -> None:
    async with open_world(strategy=ScriptedStrategy(HANG)):
        assert trio.current_time() == 0.0


async def test_rounds_are_counted_from_start_to_start_with_a_little_jitter(
    autojump_clock: MockClock,
) -> None:
    """B10."""

    async def slow(_local: NodeName) -> list[str]:
        await trio.sleep(3)
        return [A]

    strategy = ScriptedStrategy(slow)
    async with open_world(strategy=strategy, poll_interval=10):
        await trio.sleep(1000)
    gaps = [b - a for a, b in pairwise(strategy.asked)]
    assert len(gaps) in range(95, 106)
    assert all(9.0 <= gap <= 11.0 for gap in gaps)
    assert len(set(gaps)) > 50, "no two nodes that were started together poll together for long"


async def test_timed_rounds_never_overlap_and_never_catch_up(autojump_clock: MockClock) -> None:
    under_way = most = 0

    async def slow(_local: NodeName) -> list[str]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await trio.sleep(12)
        under_way -= 1
        return [A]

    strategy = ScriptedStrategy(slow)
    async with open_world(strategy=strategy, poll_interval=5, discovery_timeout=20):
        await trio.sleep(100)
    assert most == 1
    assert all(b - a >= 12 for a, b in pairwise(strategy.asked))


async def test_timed_rounds_do_not_wait_for_dials(autojump_clock: MockClock) -> None:
    """B7, B8."""
    async with open_world(A, B, poll_interval=1) as world:
        world.transport.peer(A).on_connect = HANG
        await world.barnacle.wait_for_nodes(1)
        assert trio.current_time() == 0.0
        await trio.sleep(6.5)
        assert world.strategy.count in (6, 7, 8)
        assert len(world.transport.dials_of(A)) == 1


# -- refresh ---------------------------------------------------------------------------------------


async def test_refresh_returns_what_the_round_did(autojump_clock: MockClock) -> None:
    async with open_world(A, B, C) as world:
        world.transport.peer(C).reachable = False
        world.transport.peer(B).delay = 2
        result = await world.barnacle.refresh()
    assert result.nodes == {A, B}
    assert result.connected == {A, B}
    assert result.disconnected == frozenset()
    assert set(result.failed) == {C}
    assert isinstance(result.failed[C], PeerUnreachable)
    assert result.discovery_error is None
    assert world.recorder.of(Refreshed)[-1].result == result


async def test_refresh_begins_after_the_call(autojump_clock: MockClock) -> None:
    """A round under way may have asked before what the caller did took effect."""

    async def slow(_local: NodeName) -> list[str]:
        now = set(found)
        await trio.sleep(2)
        return sorted(now)

    found: set[str] = set()
    async with open_world(A, strategy=slow, transport=FakeTransport(reachable=[A])) as world:
        await trio.sleep(1)
        found.add(A)
        result = await world.barnacle.refresh()
        assert result.nodes == {A}
        assert trio.current_time() == 4.0


async def test_callers_that_come_together_share_one_round(autojump_clock: MockClock) -> None:
    async with open_world(A) as world:
        await trio.sleep(1)
        before = world.strategy.count
        results: list[RefreshResult] = []

        async def refresh() -> None:
            results.append(await world.barnacle.refresh())

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(refresh)
        assert world.strategy.count == before + 1
        assert len({id(result) for result in results}) == 1


async def test_cancelling_one_caller_leaves_the_round_to_the_others(
    autojump_clock: MockClock,
) -> None:
    async with open_world(A) as world:
        await trio.sleep(1)
        world.transport.lose(A)
        world.transport.peer(A).delay = 3
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def impatient() -> None:
                with trio.move_on_after(1):
                    await world.barnacle.refresh()

            result = await world.barnacle.refresh()
        assert result.nodes == {A}


async def test_refresh_is_cancelled_cleanly_at_every_checkpoint(autojump_clock: MockClock) -> None:
    async with open_world(A, B) as world:
        await world.barnacle.wait_for_nodes(2)

        async def lose_and_refresh() -> None:
            world.transport.lose(B)
            assert (await world.barnacle.refresh()).nodes == {A, B}

        async def still_well() -> None:
            assert (await world.barnacle.refresh()).nodes == {A, B}
            assert world.barnacle.status().state == "running"

        assert await cancel_at_every_checkpoint(lose_and_refresh, still_well) > 0


async def test_each_caller_gets_an_exception_of_its_own(autojump_clock: MockClock) -> None:
    cause = OSError("no route")
    async with open_world(strategy=ScriptedStrategy(cause)) as world:
        await trio.sleep(1)
        errors: list[DiscoveryError] = []

        async def refresh() -> None:
            try:
                await world.barnacle.refresh()
            except DiscoveryError as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(refresh)
            nursery.start_soon(refresh)
        assert len({id(error) for error in errors}) == 2
        assert all(error.__cause__ is cause for error in errors)


async def test_a_newcomer_that_dials_in_counts_as_soon_as_the_strategy_names_it(
    autojump_clock: MockClock,
) -> None:
    async with open_world(A, poll_interval=60) as world:
        await world.barnacle.wait_for_nodes(1)
        await trio.sleep(1)
        world.transport.dial_in(B)  # its own barnacle found us before ours knew of it
        dialled_at = trio.current_time()
        await trio.sleep(0.5)
        world.strategy.answer = [A, B]
        await world.barnacle.wait_for_nodes(2)
        assert trio.current_time() - dialled_at < 2


async def test_strangers_that_come_and_go_bring_no_storm_of_rounds(
    autojump_clock: MockClock,
) -> None:
    async with open_world(A, poll_interval=5) as world:
        await world.barnacle.wait_for_nodes(1)
        for number in range(1000):
            world.transport.dial_in(f"stranger{number % 7}@10.0.0.9")
            await trio.sleep(0.1)
            world.transport.lose(f"stranger{number % 7}@10.0.0.9", gone=True)
        assert world.strategy.count < 20 + 100 / 5 * 8


async def test_refresh_restarts_the_timer(autojump_clock: MockClock) -> None:
    async with open_world(A, poll_interval=10) as world:
        for _ in range(5):
            await trio.sleep(8)
            await world.barnacle.refresh()
        assert world.strategy.count == 6
        await trio.sleep(11.5)
        assert world.strategy.count == 7


async def test_refresh_ignores_backoff_and_joins_dials_under_way(autojump_clock: MockClock) -> None:
    async with open_world(A, B, poll_interval=1000) as world:
        world.transport.peer(A).on_connect = OSError("down")
        world.transport.peer(B).delay = 60
        await trio.sleep(500)
        world.transport.peer(A).on_connect = None
        result = await world.barnacle.refresh()
        assert result.nodes == {A}, "B takes longer than a dial may"
        assert B in result.failed
        world.transport.peer(B).delay = 5
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.barnacle.refresh)
            await trio.sleep(4)
            before = len(world.transport.dials_of(B))
            assert (await world.barnacle.refresh()).nodes == {A, B}
            assert len(world.transport.dials_of(B)) == before


async def test_one_node_that_fails_does_not_stop_the_rest(autojump_clock: MockClock) -> None:
    """B3: the others are connected, and stale ones still go."""
    async with open_world(A, B, prune_after=10) as world:
        world.transport.come_back(C)
        await world.barnacle.wait_for_nodes(2)
        world.strategy.answer = [A, C]
        world.transport.peer(C).on_connect = OSError("never")
        await trio.sleep(30)
        assert world.barnacle.nodes.value == {A}
        assert world.transport.connected == {A}
        assert C in (await world.barnacle.refresh()).failed


# -- dials do not hold each other up ---------------------------------------------------------------


async def test_dead_addresses_do_not_hold_up_live_ones(autojump_clock: MockClock) -> None:
    """F14, B7: three black holes first in the list cost others 21 s."""
    dead = [f"dead{n}@10.9.9.{n}" for n in range(100)]
    transport = FakeTransport(reachable=[A])
    for name in dead:
        transport.peer(name).on_connect = HANG
    async with open_world(*dead, A, transport=transport, max_dials=200) as world:
        await world.barnacle.wait_for_nodes(1)
        assert trio.current_time() == 0.0


async def test_at_most_max_dials_at_once_each_within_dial_timeout(
    autojump_clock: MockClock,
) -> None:
    names = [f"n{n}@10.0.0.1" for n in range(12)]
    transport = FakeTransport()
    for name in names:
        transport.peer(name).on_connect = HANG
    async with open_world(*names, transport=transport, max_dials=4, dial_timeout=3) as world:
        result = await world.barnacle.refresh()
        assert transport.most_dialling == 4
        assert set(result.failed) == set(names)
        assert {str(error) for error in result.failed.values()} == {"no answer within 3 s"}
        assert 9 <= trio.current_time() <= 16  # some gave way, and were dialled again


async def test_a_dial_that_lies_is_a_failed_one(autojump_clock: MockClock) -> None:
    for abilities in ({"subscribe"}, set[str]()):
        transport = FakeTransport(reachable=[A], abilities=abilities)
        transport.peer(A).lies = True
        async with open_world(A, transport=transport) as world:
            result = await world.barnacle.refresh()
            assert result.nodes == frozenset()
            assert isinstance(result.failed[A], PeerUnreachable)


# -- discovery: complete, partial, failed ----------------------------------------------------------


@pytest.mark.parametrize(
    "failure",
    [
        DiscoveryError("SERVFAIL"),
        OSError("no route"),
        trio.TooSlowError("slow"),
        ExceptionGroup("both", [OSError("one"), trio.TooSlowError("two")]),
    ],
    ids=lambda failure: type(failure).__name__,
)
async def test_a_failed_discovery_prunes_nobody(
    failure: Exception, autojump_clock: MockClock
) -> None:
    """F12, L6."""
    async with open_world(A, B, prune_after=1) as world:
        await world.barnacle.wait_for_nodes(2)
        world.strategy.answer = failure
        await trio.sleep(100)
        assert world.barnacle.nodes.value == {A, B}
        assert world.barnacle.status().restarts == 0
        assert isinstance(world.barnacle.status().last_error, DiscoveryError)
        assert len(world.recorder.of(RefreshFailed)) > 10
        with pytest.raises(DiscoveryError):
            await world.barnacle.refresh()
        world.transport.lose(A)
        await world.barnacle.wait_for_nodes(2)  # the last good answer stays in use for dialling
        assert trio.current_time() < 102


async def test_a_failure_is_logged_once_until_it_changes(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "barnacle_trio")
    async with open_world(strategy=ScriptedStrategy(OSError("no route"))) as world:
        await trio.sleep(100)
        world.strategy.answer = OSError("refused")
        await trio.sleep(100)
        world.strategy.answer = [A]
        await trio.sleep(100)
    lines = [r.getMessage() for r in caplog.records if "discovery" in r.getMessage()]
    assert lines == [
        "[barnacle] discovery failed: 'no route'",
        "[barnacle] discovery failed: 'refused'",
        "[barnacle] discovery works again",
    ]


async def test_a_partial_answer_is_dialled_and_prunes_nobody(autojump_clock: MockClock) -> None:
    async with open_world(A, prune_after=1) as world:
        world.transport.come_back(B)
        await world.barnacle.wait_for_nodes(1)
        error = DiscoveryError("half", partial=[B])
        world.strategy.answer = error
        result = await world.barnacle.refresh()
        assert result.nodes == {A, B}
        assert result.discovery_error is error
        await trio.sleep(100)
        assert world.barnacle.nodes.value == {A, B}
        assert world.recorder.of(RefreshFailed) == []
        assert world.recorder.of(Refreshed)[-1].result.discovery_error is error


async def test_a_strategy_that_hangs_is_a_failed_discovery(autojump_clock: MockClock) -> None:
    async with open_world(strategy=ScriptedStrategy(HANG, [A])) as world:
        world.transport.come_back(A)
        failed = await world.recorder.wait_for(RefreshFailed)
        assert failed.at == 10.0
        assert "no answer within 10 s" in str(failed.error)
        await world.barnacle.wait_for_nodes(1)


async def test_what_a_hanging_strategy_raises_when_cancelled_is_no_crash(
    autojump_clock: MockClock,
) -> None:
    async def spiteful(_local: NodeName) -> list[str]:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("cleaning up failed")

    async with open_world(strategy=spiteful, discovery_timeout=1) as world:
        await world.recorder.wait_for(RefreshFailed)
        assert world.barnacle.status().restarts == 0


async def test_bad_names_are_reported_and_good_ones_kept(autojump_clock: MockClock) -> None:
    """B13, F15, F23."""
    answer = [A, "no-at-sign", "", "a@b@c", 7, "bad name@h", "x" * 300 + "@h"]
    strategy = ScriptedStrategy(lambda _local: answer)
    async with open_world(A, strategy=strategy) as world:
        result = await world.barnacle.refresh()
        assert result.nodes == {A}
        assert len(result.failed) == 6
        assert all(len(name) < 120 for name in result.failed)


async def test_the_local_node_in_the_answer_is_left_out(autojump_clock: MockClock) -> None:
    transport = FakeTransport("local@h", reachable=[A])
    async with open_world("local@h", A, transport=transport) as world:
        result = await world.barnacle.refresh()
        assert result.nodes == {A}
        assert transport.dials_of("local@h") == []
        assert world.strategy.locals[0] == "local@h"


async def test_a_transport_that_cannot_list_its_nodes_fails_the_round(
    autojump_clock: MockClock,
) -> None:
    async with open_world(A, prune_after=1) as world:
        await world.barnacle.wait_for_nodes(1)
        for broken in (OSError("broken"), HANG):
            world.transport.on_list = broken
            with pytest.raises(DiscoveryError, match="list_nodes failed"):
                await world.barnacle.refresh()
        assert world.barnacle.nodes.value == {A}
        assert world.barnacle.status().restarts == 0


async def test_a_hundred_thousand_names_are_borne(autojump_clock: MockClock) -> None:
    """F23."""
    names = [f"n{n}@10.0.0.1" for n in range(100_000)]
    async with open_world(strategy=ScriptedStrategy(names), max_dials=1) as world:
        world.transport.peer(names[0]).on_connect = HANG
        await world.recorder.wait_for(Refreshed)
        assert len(world.barnacle.status().peers) == 100_000


async def test_bad_names_are_logged_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_world(A, strategy=ScriptedStrategy([A, "zz", "no host@"])) as world:
        await world.barnacle.wait_for_nodes(1)
        result = await world.barnacle.refresh()
        await trio.sleep(60)
    assert set(result.failed) == {"zz", "no host@"}
    lines = [record.message for record in caplog.records if "no node names" in record.message]
    assert lines == [
        "[barnacle] 2 of the strategy's names are no node names and are left out: no host@, zz"
    ]


async def test_a_strategy_that_was_not_made_yet_is_refused_at_the_call() -> None:
    for forgotten in (local_epmd, lambda: None):
        with pytest.raises(ConfigurationError, match="call it first"):
            open_barnacle(forgotten, FakeTransport())  # type: ignore[arg-type]
