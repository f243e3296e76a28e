"""Process groups among our own nodes, in memory and on a virtual clock, and what protects them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from barnacle_trio import ConfigurationError, NodeName
from barnacle_trio.distribution import _pg as pg
from barnacle_trio.distribution._node import Node
from barnacle_trio.etf import Atom, EncodeError, ImproperList, Map, Pid, decode, encode
from barnacle_trio.testing import MemoryNetwork

A, B, C = NodeName("a@memory"), NodeName("b@memory"), NodeName("c@memory")
HIDDEN = [
    pytest.param((False, False), id="visible"),
    pytest.param((True, False), id="we_hidden"),
    pytest.param((False, True), id="they_hidden"),
]


@asynccontextmanager
async def two_nodes(hidden: tuple[bool, bool] = (False, False)) -> AsyncIterator[tuple[Node, Node]]:
    network = MemoryNetwork()
    async with (
        network.open_node(A, hidden=hidden[0]) as a,
        network.open_node(B, hidden=hidden[1]) as b,
    ):
        await a.connect(B)
        yield a, b


async def settled(node: Node, group: Any, scope: str = "pg") -> list[Pid]:
    await wait_all_tasks_blocked()
    return await node.group_members(scope, group)


def junk(node: Node, scope: str = "pg") -> int:
    return node._processes.groups.scope(scope).junk


@pytest.mark.parametrize("hidden", HIDDEN)
async def test_members_are_seen_by_each_other(
    hidden: tuple[bool, bool], autojump_clock: MockClock
) -> None:
    async with two_nodes(hidden) as (a, b), a.open_mailbox() as here, b.open_mailbox() as there:
        here.join_group("pg", "workers")
        there.join_group("pg", "workers")
        for node, own in ((a, here), (b, there)):
            assert set(await settled(node, "workers")) == {here.pid, there.pid}
            assert await node.local_group_members("pg", "workers") == [own.pid]
        assert here.leave_group("pg", "workers")
        assert await settled(b, "workers") == [there.pid]
        assert not here.leave_group("pg", "workers")


async def test_members_from_before_the_connection_are_seen(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    async with network.open_node(A) as a, a.open_mailbox() as here:
        here.join_group("pg", "workers")
        async with network.open_node(B) as b:
            assert await settled(b, "workers") == []
            await b.connect(A)
            assert await settled(b, "workers") == [here.pid]
        assert await settled(a, "workers") == [here.pid]


async def test_a_scope_that_starts_late_sees_all(autojump_clock: MockClock) -> None:
    async with two_nodes() as (a, b), a.open_mailbox() as here:
        here.join_group("late", 1)
        await wait_all_tasks_blocked()
        assert await b.group_members("late", 1) == []
        assert await settled(b, 1, "late") == [here.pid]


async def test_joining_twice_counts_twice(autojump_clock: MockClock) -> None:
    async with two_nodes() as (a, b), a.open_mailbox() as here:
        await b.group_members("pg", "workers")
        here.join_group("pg", "workers")
        here.join_group("pg", "workers")
        assert await settled(b, "workers") == [here.pid] * 2
        assert await settled(a, "workers") == [here.pid] * 2
        assert here.leave_group("pg", "workers")
        assert await settled(b, "workers") == [here.pid]
        assert here.leave_group("pg", "workers")
        assert await settled(b, "workers") == []


async def test_a_closed_mailbox_leaves_everything(autojump_clock: MockClock) -> None:
    async with two_nodes() as (a, b):
        await b.group_members("pg", 1)
        async with a.open_mailbox() as here, a.open_mailbox() as stays:
            for group in (1, 1, 2):
                here.join_group("pg", group)
                stays.join_group("pg", group)
            here.join_group("other", 1)
            assert len(await settled(b, 1)) == 4
            assert await settled(b, 1, "other") == []
            assert await settled(b, 1, "other") == [here.pid]
            await b.send(here.pid, "bye")
            a._processes.close(here._inbox)
            assert await settled(b, 1) == [stays.pid] * 2
            assert await settled(b, 2) == [stays.pid]
            assert await settled(b, 1, "other") == []
            assert await settled(a, 1) == [stays.pid] * 2
            with pytest.raises(trio.ClosedResourceError):
                here.join_group("pg", 1)
            assert not here.leave_group("pg", 1)
        assert await settled(b, 1) == []
        scope = a._processes.groups.scope("pg")
        assert (scope._members, scope._names) == ({}, {}), "nothing is kept of the dead"


async def test_a_lost_connection_takes_members_and_the_next_brings_them(
    autojump_clock: MockClock,
) -> None:
    async with two_nodes() as (a, b), a.open_mailbox() as here, b.open_mailbox() as there:
        here.join_group("pg", "workers")
        there.join_group("pg", "workers")
        for _ in range(3):
            assert len(await settled(a, "workers")) == 2
            await a.disconnect(B)
            assert await settled(a, "workers") == [here.pid]
            assert await settled(b, "workers") == [there.pid]
            here.join_group("pg", "more")
            await a.connect(B)
            assert len(await settled(b, "workers")) == 2
            assert await b.group_members("pg", "more") == [here.pid]
            here.leave_group("pg", "more")
            assert await settled(b, "more") == []


async def test_three_nodes_agree(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(network.open_node(name)) for name in (A, B, C)]
        boxes = [await stack.enter_async_context(node.open_mailbox()) for node in nodes]
        for box in boxes:
            box.join_group("pg", "workers")
        await nodes[0].connect(B)
        await nodes[1].connect(C)
        await nodes[2].connect(A)
        for node in nodes:
            assert set(await settled(node, "workers")) == {box.pid for box in boxes}


async def test_groups_are_told_apart_as_erlang_does(autojump_clock: MockClock) -> None:
    names: list[Any] = [
        1,
        1.0,
        True,
        "1",
        Atom("1"),
        [1],
        (1,),
        {1: "a"},
        Map([(1, "a"), (1.0, "b")]),
        ImproperList([1], 2),
        [],
        None,
    ]
    async with two_nodes() as (a, b), AsyncExitStack() as stack:
        boxes = [await stack.enter_async_context(a.open_mailbox()) for _ in names]
        for box, name in zip(boxes, names, strict=True):
            box.join_group("pg", name)
        await b.group_members("pg", "x")
        for box, name in zip(boxes, names, strict=True):
            assert await settled(b, name) == [box.pid]
        assert await settled(b, b"1") == [boxes[3].pid], "a str and its bytes are one binary"


async def test_a_groups_name_is_what_it_was_when_it_was_joined(autojump_clock: MockClock) -> None:
    async with two_nodes() as (a, b), a.open_mailbox() as here:
        name = [1]
        here.join_group("pg", name)
        name.append(2)
        assert not here.leave_group("pg", name)
        await b.group_members("pg", [1])
        assert await settled(b, [1]) == [here.pid]


async def test_what_is_no_group_or_scope_is_refused(autojump_clock: MockClock) -> None:
    async with two_nodes() as (a, b), a.open_mailbox("taken") as here:
        deep: list[Any] = []
        for _ in range(509):  # can be encoded alone, but not in the messages about it
            deep = [deep]
        for bad in (object(), float("inf"), deep):
            with pytest.raises(EncodeError):
                here.join_group("pg", bad)
        for name in ("taken", "net_kernel"):
            with pytest.raises(ConfigurationError, match="already"):
                here.join_group(name, 1)
        with pytest.raises(ConfigurationError, match="already"):
            async with a.open_mailbox("pg"):
                raise AssertionError("the scope's own name")
        with pytest.raises(EncodeError):
            await a.group_members("x" * 256, 1)
        here.join_group("pg", 1)
        await b.group_members("pg", 1)
        assert await settled(b, 1) == [here.pid]


async def test_a_left_node_has_no_groups(autojump_clock: MockClock) -> None:
    async with two_nodes() as (a, _):
        pass
    with pytest.raises(trio.ClosedResourceError):
        await a.group_members("pg", 1)
    with pytest.raises(trio.ClosedResourceError):
        await a.local_group_members("pg", 1)


def _some_junk(theirs: Pid, scope: Pid, stranger: Pid) -> list[Any]:
    join, leave, sync = Atom("join"), Atom("leave"), Atom("sync")
    cast, discover = Atom("$gen_cast"), Atom("discover")
    return [
        "hello",
        None,
        (),
        (discover,),
        (discover, Atom("pid")),
        (discover, stranger),
        (discover, scope, 1, 2),
        (cast, (sync, theirs)),
        (cast, (sync, theirs, [1])),
        (cast, (sync, theirs, [(1, [stranger])])),
        (cast, (sync, theirs, [(1, [theirs], 3)])),
        (cast, (sync, theirs, ImproperList([(1, [theirs])], 2))),
        (cast, (sync, scope, [])),
        (join, theirs, 1, Atom("nobody")),
        (join, theirs, 1, [theirs, 5]),
        (join, theirs, 1, scope),
        (join, stranger, 1, stranger),
        (leave, theirs, theirs, 1),
        (leave, theirs, [5], [1]),
        (leave, theirs, ImproperList([theirs], theirs), [1]),
    ]


async def test_junk_is_ignored_and_counted(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with two_nodes() as (a, b), b.open_mailbox() as there:
        there.join_group("pg", 1)
        await a.group_members("pg", 1)
        assert await settled(a, 1) == [there.pid]
        scope = a._processes.groups.scope("pg")
        theirs = b._processes.groups.scope("pg").pid
        stranger = Pid(node=Atom("x@elsewhere"), id=1, serial=0, creation=1)
        sent = _some_junk(theirs, scope.pid, stranger)
        for message in sent:
            await b.send(("pg", A), message)
            await b.send(scope.pid, message)
            await a.send(scope.pid, message)
        assert await settled(a, 1) == [there.pid]
        assert scope.junk == 3 * len(sent)
        assert "junk" in caplog.text
        assert a.nodes.value == {B}


async def test_news_of_scopes_and_groups_that_nobody_knows_is_dropped(
    autojump_clock: MockClock,
) -> None:
    async with two_nodes() as (a, b), b.open_mailbox() as there:
        await a.group_members("pg", 1)
        await b.send(("pg", A), pg.join(there.pid, 1, there.pid))
        await b.send(("pg", A), pg.leave(there.pid, there.pid, [1]))
        assert await settled(a, 1) == []
        there.join_group("pg", 2)
        await wait_all_tasks_blocked()
        scope = b._processes.groups.scope("pg").pid
        await b.send(("pg", A), pg.leave(scope, there.pid, [1, 1]))
        await b.send(("pg", A), (Atom("join"), scope, 3, []))
        assert await settled(a, 2) == [there.pid]
        assert await settled(a, 3) == []
        assert junk(a) == 0


async def test_a_scope_that_started_again_replaces_its_former_self(
    autojump_clock: MockClock,
) -> None:
    async with two_nodes() as (a, b), b.open_mailbox() as old, b.open_mailbox() as new:
        await a.group_members("pg", 1)
        for scope in (old, new):
            await b.send(("pg", A), pg.sync(scope.pid, [(1, [scope.pid])]))
            with trio.fail_after(5):
                told = await scope.receive()
            assert told[0] == Atom("$gen_cast"), "it is told of our members"
        assert await settled(a, 1) == [new.pid]
        await b.send(("pg", A), pg.join(old.pid, 1, old.pid))
        assert await settled(a, 1) == [new.pid]
        await b.send(("pg", A), (Atom("discover"), new.pid, 2))  # as of future versions
        assert (await new.receive())[0] == Atom("$gen_cast")
        b._processes.close(new._inbox)
        assert await settled(a, 1) == []


async def test_a_new_scope_is_told_of_members_before_anything_else(
    autojump_clock: MockClock,
) -> None:
    # OTP's scope crashes when a leave names a group that it was not told of.
    async with two_nodes() as (a, b), a.open_mailbox() as here, b.open_mailbox() as fake:
        here.join_group("pg", 1)
        await b.send(("pg", A), pg.sync(fake.pid, []))
        await wait_all_tasks_blocked()
        here.join_group("pg", 2)
        here.leave_group("pg", 1)
        scope = a._processes.groups.scope("pg").pid
        with trio.fail_after(5):
            told = [await fake.receive() for _ in range(3)]
        assert told == [
            pg.sync(scope, [(1, [here.pid])]),
            pg.join(scope, 2, here.pid),
            pg.leave(scope, here.pid, [1]),
        ]


async def test_a_peer_has_no_more_members_than_there_is_room_for(
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(pg, "MAX_MEMBERSHIPS", 10)
    async with two_nodes() as (a, b), b.open_mailbox() as there, a.open_mailbox() as here:
        await a.group_members("pg", 1)
        for number in range(10):
            there.join_group("pg", number)
        with pytest.raises(ConfigurationError, match="no more"):
            there.join_group("pg", 10)
        await wait_all_tasks_blocked()
        scope = b._processes.groups.scope("pg").pid
        await b.send(("pg", A), (Atom("join"), scope, 1, [there.pid] * 5))
        assert await settled(a, 1) == [there.pid]
        assert "too many" in caplog.text
        here.join_group("pg", 1)
        assert len(await settled(a, 1)) == 2, "each node has its own room"
        await b.send(("pg", A), pg.sync(scope, [(1, [there.pid] * 20), (2, [there.pid])]))
        assert len(await settled(a, 1)) == 11
        assert len(await settled(a, 2)) == 0
    monkeypatch.setattr(pg, "MAX_NAMES", 100)
    table = pg.Table()
    assert table.join(b"x" * 99, there.pid)
    assert table.join(b"x" * 99, there.pid)
    assert not table.join(b"yy", there.pid)
    assert table.leave(b"x" * 99, there.pid)
    assert table.leave(b"x" * 99, there.pid)
    assert table.join(b"yy", there.pid)


async def test_names_of_any_size_are_left_at_the_end(autojump_clock: MockClock) -> None:
    async with two_nodes() as (a, b):
        large = "x" * 20_000
        await b.group_members("pg", 1)
        async with a.open_mailbox() as here:
            for number in range(5):
                for _ in range(2):
                    here.join_group("pg", (number, large))
            assert len(await settled(b, (4, large))) == 2
        for number in range(5):
            assert await settled(b, (number, large)) == []
    keys = [bytes([number]) * (pg.MAX_PORTION // 2) for number in range(5)]
    assert list(pg.portions(keys)) == [keys[:2], keys[2:4], keys[4:]]
    assert list(pg.portions([])) == []


async def test_members_that_are_too_many_to_be_told_cost_no_connection(
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def too_large(_scope: Pid, _groups: object) -> None:
        raise EncodeError("too large")

    async with two_nodes() as (a, b), a.open_mailbox() as here, b.open_mailbox() as there:
        here.join_group("pg", 1)
        with monkeypatch.context() as patched:
            patched.setattr(pg, "sync", too_large)
            await b.send(("pg", A), pg.discover(there.pid))
            await wait_all_tasks_blocked()
        assert "cannot be told" in caplog.text
        assert here.leave_group("pg", 1)
        await wait_all_tasks_blocked()
        assert a.nodes.value == {B}
        assert len(there) == 1, "nothing is said but what it can make sense of"
        assert await there.receive() == pg.discover(a._processes.groups.scope("pg").pid)


async def test_a_thousand_members(autojump_clock: MockClock) -> None:
    async with two_nodes() as (a, b), AsyncExitStack() as stack:
        boxes = [await stack.enter_async_context(a.open_mailbox()) for _ in range(1000)]
        for box in boxes:
            box.join_group("pg", "workers")
        await b.group_members("pg", "workers")
        assert set(await settled(b, "workers")) == {box.pid for box in boxes}
        await stack.aclose()
        assert await settled(b, "workers") == []


def test_what_is_said_is_understood() -> None:
    scope = Pid(node=Atom(A), id=1, serial=0, creation=1)
    pid = Pid(node=Atom(A), id=2, serial=0, creation=1)
    key, name = pg.named({"a": [1]})
    for said, understood in (
        (pg.discover(scope), pg.Discover(scope)),
        (pg.sync(scope, [(name, [pid])]), pg.Sync(scope, [(key, [pid])])),
        (pg.join(scope, name, pid), pg.Join(scope, key, [pid])),
        (pg.leave(scope, pid, [name, name]), pg.Leave(scope, [pid], [key, key])),
    ):
        assert pg.parse(decode(encode(said))) == understood
