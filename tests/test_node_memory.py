"""Nodes joined in memory, on a virtual clock: what is told of whom, and when."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from barnacle_trio._errors import (
    CookieRejected,
    HandshakeRefused,
    NameTakenError,
    NodeCrashed,
    PeerUnreachable,
)
from barnacle_trio._names import NodeName
from barnacle_trio._transport import PeerChange, PeerDown, PeerUp
from barnacle_trio.distribution._node import Node
from barnacle_trio.testing._memory import MemoryNetwork, open_memory_nodes

A, B, C = NodeName("a@memory"), NodeName("b@memory"), NodeName("c@memory")


def record(node: Node) -> list[PeerChange]:
    changes: list[PeerChange] = []
    node.subscribe(changes.append)
    return changes


def told(changes: list[PeerChange]) -> list[str]:
    return [change.reason if isinstance(change, PeerDown) else "up" for change in changes]


async def test_two_nodes_see_each_other_once_connected(autojump_clock: MockClock) -> None:
    async with open_memory_nodes(A, B) as (a, b):
        await a.connect(B)
        await b.nodes.wait_value(frozenset({A}))
        assert a.nodes.value == {B}
        assert a.hidden_nodes.value == frozenset()
        assert set(await a.list_nodes()) == {B}


async def test_connecting_again_or_to_oneself_changes_nothing(autojump_clock: MockClock) -> None:
    async with open_memory_nodes(A, B) as (a, b):
        changes = record(a)
        for _ in range(3):
            await a.connect(B)
            await a.connect(A)
        await b.connect(A)
        assert told(changes) == ["up"]


async def test_a_hidden_node_is_hidden_on_both_sides(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    async with network.open_node(A, hidden=True) as a, network.open_node(B) as b:
        await a.connect(B)
        await b.hidden_nodes.wait_value(frozenset({A}))
        assert a.hidden_nodes.value == {B}
        assert a.nodes.value == b.nodes.value == frozenset()
        assert set(await b.list_nodes()) == {A}
        assert set(await b.list_visible()) == set()


async def test_both_ping_each_other(autojump_clock: MockClock) -> None:
    async with open_memory_nodes(A, B) as (a, b):
        assert await a.ping(B)
        assert await b.ping(A)
        assert await a.ping(A)
        assert not await a.ping("nobody@memory")


async def test_ping_of_a_peer_that_does_not_answer_is_false(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    async with network.open_node(A, failure_timeout=100) as a, network.open_node(B):
        await a.connect(B)
        network.cut(A, B)
        started = trio.current_time()
        assert not await a.ping(B)
        assert trio.current_time() - started == pytest.approx(7.0)


async def test_leaving_is_told_as_left(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    async with network.open_node(A) as a:
        changes = record(a)
        async with network.open_node(B) as b:
            await b.connect(A)
            left = record(b)
        await a.nodes.wait_value(frozenset())
        assert told(changes) == ["up", "left"]
        assert told(left) == ["closed_by_us"]


async def test_disconnecting_is_told_on_both_sides(autojump_clock: MockClock) -> None:
    async with open_memory_nodes(A, B) as (a, b):
        ours, theirs = record(a), record(b)
        await a.connect(B)
        await b.nodes.wait_value(frozenset({A}))
        await a.disconnect(B)
        assert told(ours) == ["up", "closed_by_us"]
        await b.nodes.wait_value(frozenset())
        assert told(theirs) == ["up", "lost"]
        await a.disconnect(B)
        assert told(ours) == ["up", "closed_by_us"]


async def test_a_silent_peer_is_down_after_the_failure_timeout(autojump_clock: MockClock) -> None:
    async with open_memory_pair(failure_timeout=10) as (network, a, _b):
        changes = record(a)
        await trio.sleep(100)
        assert changes == []
        network.cut(A, B)
        cut_at = trio.current_time()
        await a.nodes.wait_value(frozenset())
        assert told(changes) == ["silent"]
        assert 7.5 <= trio.current_time() - cut_at <= 13


async def test_a_healed_partition_connects_again(autojump_clock: MockClock) -> None:
    async with open_memory_pair() as (network, a, b):
        network.cut(A, B)
        await a.nodes.wait_value(frozenset())
        await b.nodes.wait_value(frozenset())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.connect, B)
            await trio.sleep(3)
            network.heal(A, B)
            healed_at = trio.current_time()
            await b.nodes.wait_value(frozenset({A}))
            assert trio.current_time() - healed_at < 1


async def test_a_dial_that_is_not_answered_ends_in_time(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    async with network.open_node(A, connect_timeout=3) as a, network.open_node(B):
        network.cut(A, B)
        started = trio.current_time()
        with pytest.raises(PeerUnreachable, match="no answer within 3 s"):
            await a.connect(B)
        assert trio.current_time() - started == pytest.approx(3.0)


async def test_a_new_incarnation_replaces_the_old_connection_at_once(
    autojump_clock: MockClock,
) -> None:
    network = MemoryNetwork()
    async with network.open_node(A) as a:
        changes = record(a)
        async with network.open_node(B) as old:
            await old.connect(A)
            network.cut(A, B)  # the goodbye never arrives
        network._cut.clear()
        async with network.open_node(B) as new:
            await new.connect(A)
            assert told(changes) == ["up", "replaced", "up"]
            ups = [change for change in changes if isinstance(change, PeerUp)]
            assert ups[0].creation != ups[1].creation == new.creation


async def test_a_wrong_cookie_is_told_to_the_one_who_dials(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    async with network.open_node(A, cookie="one") as a, network.open_node(B, cookie="two") as b:
        with pytest.raises(CookieRejected) as caught:
            await a.connect(B)
        assert caught.value.location == b.creation
        assert "one" not in str(caught.value)
        assert "two" not in str(caught.value)
        assert a.nodes.value == b.nodes.value == frozenset()


async def test_who_is_not_allowed_can_neither_connect_nor_be_dialled(
    autojump_clock: MockClock,
) -> None:
    network = MemoryNetwork()
    async with network.open_node(A, allow="b@*") as a, network.open_node(C) as c:
        with pytest.raises(HandshakeRefused, match="allow"):
            await c.connect(A)
        with pytest.raises(HandshakeRefused, match="allow"):
            await a.connect(C)
        async with network.open_node(B) as b:
            await b.connect(A)
            await a.nodes.wait_value(frozenset({B}))


async def test_a_name_is_given_once(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    async with network.open_node(A):
        with pytest.raises(NameTakenError):
            async with network.open_node(A):
                raise AssertionError("two nodes of one name")


async def test_racing_connects_end_with_one_connection(autojump_clock: MockClock) -> None:
    async with open_memory_nodes(A, B) as (a, b):
        for _ in range(200):
            ours, theirs = record(a), record(b)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(a.connect, B)
                nursery.start_soon(b.connect, A)
            await wait_all_tasks_blocked()
            assert told(ours) == told(theirs) == ["up"]
            await a.disconnect(B)
            await b.nodes.wait_value(frozenset())


async def test_callers_share_a_dial_and_each_gets_its_own_error(autojump_clock: MockClock) -> None:
    errors: list[Exception] = []

    async def dial(node: Node) -> None:
        try:
            await node.connect("nobody@memory")
        except PeerUnreachable as error:
            errors.append(error)

    async with open_memory_nodes(A) as (a,), trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(dial, a)
    assert len({id(error) for error in errors}) == 3
    assert len({str(error) for error in errors}) == 1


async def test_cancelling_one_of_two_callers_leaves_the_other(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    async with network.open_node(A) as a, network.open_node(B):
        network.cut(A, B)
        async with trio.open_nursery() as nursery:
            first = trio.CancelScope()

            async def impatient() -> None:
                with first:
                    await a.connect(B)

            nursery.start_soon(impatient)
            await wait_all_tasks_blocked()
            nursery.start_soon(a.connect, B)
            await wait_all_tasks_blocked()
            first.cancel()
            await trio.sleep(1)
            network.heal(A, B)
        assert a.nodes.value == {B}


async def test_a_node_that_was_left_says_so(autojump_clock: MockClock) -> None:
    async with open_memory_nodes(A, B) as (a, _b):
        pass
    use: Callable[[str], Awaitable[object]]
    for use in (a.connect, a.disconnect, a.ping):
        with pytest.raises(trio.ClosedResourceError, match="left"):
            await use(B)


async def test_the_bodys_exception_comes_out_plain(autojump_clock: MockClock) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with open_memory_nodes(A):
            raise KeyError("mine")


async def test_a_failed_background_task_is_a_node_crash(autojump_clock: MockClock) -> None:
    async with open_memory_nodes(A, B) as (a, _b):
        with pytest.raises(NodeCrashed) as caught:
            await _run_with_a_broken_task()
        assert caught.value.__cause__ is not None
        await a.connect(B)


async def _run_with_a_broken_task() -> None:
    async with MemoryNetwork().open_node(C) as c:
        c._nursery.start_soon(_fail)
        await trio.sleep_forever()


async def _fail() -> None:
    await trio.lowlevel.checkpoint()
    raise RuntimeError("broken")


@asynccontextmanager
async def open_memory_pair(
    failure_timeout: float = 10.0,
) -> AsyncIterator[tuple[MemoryNetwork, Node, Node]]:
    """A network with a and b, connected."""
    network = MemoryNetwork()
    async with (
        network.open_node(A, failure_timeout=failure_timeout) as a,
        network.open_node(B, failure_timeout=failure_timeout) as b,
    ):
        await a.connect(B)
        await b.nodes.wait_value(frozenset({A}))
        yield network, a, b
