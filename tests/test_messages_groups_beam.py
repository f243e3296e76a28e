"""Process groups among our nodes and real BEAM nodes, whose scope processes survive all we do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio

from barnacle_trio._names import NodeName
from barnacle_trio.distribution import Node, open_node
from barnacle_trio.distribution._mailbox import Mailbox
from barnacle_trio.etf import Atom, Pid
from tests.beam import COOKIE, Beam, open_beam, unique
from tests.erlang import Erlang

pytestmark = pytest.mark.usefixtures("epmd_port")

WORKERS = Atom("workers")
HIDDEN = [
    pytest.param((False, ()), id="visible"),
    pytest.param((True, ()), id="we_hidden"),
    pytest.param((False, ("-hidden",)), id="they_hidden"),
]


@asynccontextmanager
async def pair(
    erlang: Erlang,
    hidden: tuple[bool, tuple[str, ...]] = (False, ()),
    *,
    scope: str = "pg",
    connect: bool = True,
) -> AsyncIterator[tuple[Node, Beam]]:
    """A node of ours and a BEAM node; at the end the latter's scope is the one that it was."""
    async with (
        open_node(unique("py"), cookie=COOKIE, hidden=hidden[0]) as node,
        open_beam(erlang, flags=hidden[1]) as beam,
    ):
        await start_scope(beam, scope)
        if connect:
            await node.connect(beam.name)
        yield node, beam
        assert await beam.eval("[S || {S, P} <- get(scopes), whereis(S) =/= P]") == "[]"
        assert await beam.eval("[S || {S, P} <- get(scopes), not is_process_alive(P)]") == "[]"


async def start_scope(beam: Beam, scope: str) -> None:
    code = (
        f"begin {{ok, P}} = pg:start({scope}), "
        f"put(scopes, [{{{scope}, P}} | case get(scopes) of undefined -> []; L -> L end]), ok end"
    )
    assert await beam.eval(code) == "ok"


async def members(node: Node, group: Any, count: int, scope: str = "pg") -> list[Pid]:
    """Wait until a group has that many members as this node sees it."""
    with trio.fail_after(10):
        while len(found := await node.group_members(scope, group)) != count:  # noqa: ASYNC110
            await trio.sleep(0.01)
    return found


async def sees(beam: Beam, code: str, expected: str) -> None:
    """Wait until an expression has that value there."""
    answer = ""
    with trio.move_on_after(10):
        while (answer := await beam.eval(code)) != expected:  # noqa: ASYNC110
            await trio.sleep(0.01)
    assert answer == expected


def at(node: Node | Beam, group: str = "workers", scope: str = "pg") -> str:
    """How many members a group has from a node, as Erlang code."""
    return f"length([P || P <- pg:get_members({scope}, {group}), node(P) =:= '{node.name}'])"


async def join(beam: Beam, group: str = "workers", scope: str = "pg", times: int = 1) -> None:
    code = f"put(p, spawn(fun() -> receive stop -> ok end end)), [pg:join({scope}, {group}, get(p))"
    assert "ok" in await beam.eval(f"begin {code} || _ <- lists:seq(1, {times})] end")


@pytest.mark.parametrize("hidden", HIDDEN)
async def test_members_are_seen_both_ways(
    erlang: Erlang, hidden: tuple[bool, tuple[str, ...]]
) -> None:
    async with pair(erlang, hidden) as (node, beam), node.open_mailbox() as box:
        await join(beam)
        (theirs,) = await members(node, WORKERS, 1)
        assert theirs.node == Atom(beam.name)
        box.join_group("pg", WORKERS)
        assert await members(node, WORKERS, 2) == [box.pid, theirs]
        assert await node.local_group_members("pg", WORKERS) == [box.pid]
        await sees(beam, at(node), "1")
        assert await beam.eval("length(pg:get_members(workers))") == "2"
        assert await beam.eval("length(pg:get_local_members(workers))") == "1"
        await beam.eval("[P ! hello || P <- pg:get_members(workers)]")
        assert await box.receive() == Atom("hello")
        assert box.leave_group("pg", WORKERS)
        await sees(beam, at(node), "0")
        assert await beam.eval("pg:leave(workers, get(p))") == "ok"
        await members(node, WORKERS, 0)


@pytest.mark.parametrize("hidden", HIDDEN)
async def test_members_from_before_the_connection_and_after_a_loss(
    erlang: Erlang, hidden: tuple[bool, tuple[str, ...]]
) -> None:
    async with pair(erlang, hidden, connect=False) as (node, beam), node.open_mailbox() as box:
        box.join_group("pg", WORKERS)
        await join(beam)
        for _ in range(3):
            await node.connect(beam.name)
            await members(node, WORKERS, 2)
            await sees(beam, at(node), "1")
            await node.disconnect(beam.name)
            assert await members(node, WORKERS, 1) == [box.pid]
            await sees(beam, at(node), "0")
        if not hidden[0]:
            await sees(beam, f"net_kernel:connect_node('{node.name}')", "true")
            await members(node, WORKERS, 2)
            await sees(beam, at(node), "1")


async def test_joining_twice_counts_twice(erlang: Erlang) -> None:
    async with pair(erlang) as (node, beam), node.open_mailbox() as box:
        box.join_group("pg", WORKERS)
        box.join_group("pg", WORKERS)
        await sees(beam, at(node), "2")
        assert box.leave_group("pg", WORKERS)
        await sees(beam, at(node), "1")
        assert box.leave_group("pg", WORKERS)
        assert not box.leave_group("pg", WORKERS)
        await sees(beam, at(node), "0")
        await join(beam, times=2)
        await members(node, WORKERS, 2)
        assert await beam.eval("pg:leave(workers, get(p))") == "ok"
        await members(node, WORKERS, 1)
        assert await beam.eval("pg:leave(workers, [get(p), get(p)])") == "ok"
        await members(node, WORKERS, 0)


async def test_the_end_of_a_process_takes_all_its_memberships(erlang: Erlang) -> None:
    async with pair(erlang) as (node, beam):
        async with node.open_mailbox() as box:
            for group in (WORKERS, WORKERS, Atom("others")):
                box.join_group("pg", group)
            await sees(beam, at(node), "2")
            await sees(beam, at(node, "others"), "1")
        await sees(beam, at(node), "0")
        await sees(beam, at(node, "others"), "0")
        async with node.open_mailbox() as box:
            box.join_group("pg", WORKERS)
            await sees(beam, at(node), "1")
            await beam.eval("[exit(P, kill) || P <- pg:get_members(workers)]")
            await sees(beam, at(node), "0")
            await members(node, WORKERS, 0)
        await join(beam, times=2)
        await members(node, WORKERS, 2)
        await beam.eval("get(p) ! stop")
        await members(node, WORKERS, 0)


async def test_a_killed_beam_node_and_a_left_one_of_ours(erlang: Erlang) -> None:
    async with pair(erlang) as (node, beam):
        async with open_node(unique("py"), cookie=COOKIE) as other, other.open_mailbox() as box:
            box.join_group("pg", WORKERS)
            await other.connect(beam.name)
            await other.connect(node.name)
            await sees(beam, at(other), "1")
            await members(node, WORKERS, 1)
        await sees(beam, at(other), "0")
        await members(node, WORKERS, 0)
        async with open_beam(erlang) as mortal:
            await start_scope(mortal, "pg")
            await join(mortal)
            await node.connect(mortal.name)
            await members(node, WORKERS, 1)
            await mortal.kill()
            await members(node, WORKERS, 0)
            assert NodeName(beam.name) in node.nodes.value


async def test_a_scope_that_starts_later_or_again(erlang: Erlang) -> None:
    async with pair(erlang, scope="first") as (node, beam), node.open_mailbox() as box:
        box.join_group("second", WORKERS)
        await start_scope(beam, "second")
        await join(beam, scope="second")
        await sees(beam, at(node, scope="second"), "1")
        assert len(await members(node, WORKERS, 2, "second")) == 2
        assert await node.group_members("first", WORKERS) == []
        await beam.eval("put(scopes, lists:keydelete(second, 1, get(scopes)))")
        await beam.eval("exit(whereis(second), kill)")
        await members(node, WORKERS, 1, "second")
        await sees(beam, "whereis(second)", "undefined")
        await start_scope(beam, "second")
        await join(beam, scope="second")
        await members(node, WORKERS, 2, "second")
        await sees(beam, at(node, scope="second"), "1")


async def test_the_scope_that_the_kernel_starts(erlang: Erlang) -> None:
    flags = ("-kernel", "start_pg", "true")
    async with (
        open_node(unique("py"), cookie=COOKIE) as node,
        open_beam(erlang, flags=flags) as beam,
        node.open_mailbox() as box,
    ):
        before = await beam.eval("whereis(pg)")
        assert before.startswith("<")
        box.join_group("pg", "binary")
        await node.connect(beam.name)
        await sees(beam, at(node, '<<"binary">>'), "1")
        assert await beam.eval("whereis(pg)") == before


async def test_those_who_monitor_groups_are_told_of_ours(erlang: Erlang) -> None:
    async with pair(erlang) as (node, beam), node.open_mailbox() as box:
        await node.group_members("pg", WORKERS)
        await sees(beam, f"lists:member('{node.name}', nodes())", "true")
        assert await beam.eval("element(2, pg:monitor(workers))") == "[]"
        for times in (1, 2):
            box.join_group("pg", WORKERS)
            told = await beam.eval(
                "receive {_, join, workers, [P]} -> node(P) after 5000 -> no end"
            )
            assert told.strip("'") == node.name, times
        told = "receive {_, leave, workers, [P]} -> node(P) after 5000 -> no end"
        box.leave_group("pg", WORKERS)
        assert (await beam.eval(told)).strip("'") == node.name
        await node.disconnect(beam.name)
        assert (await beam.eval(told)).strip("'") == node.name
        assert await beam.eval("receive Any -> Any after 0 -> none end") == "none"


async def test_a_thousand_members_both_ways(erlang: Erlang) -> None:
    async with pair(erlang) as (node, beam), AsyncExitStack() as stack:
        boxes: list[Mailbox] = []
        for _ in range(1000):
            box = await stack.enter_async_context(node.open_mailbox())
            box.join_group("pg", WORKERS)
            boxes.append(box)
        await sees(beam, at(node), "1000")
        await beam.eval(
            "[pg:join(workers, spawn(fun() -> timer:sleep(60000) end)) || _ <- lists:seq(1, 500)]"
        )
        await beam.eval(
            "pg:join(workers, [spawn(fun() -> timer:sleep(60000) end) || _ <- lists:seq(1, 500)])"
        )
        await members(node, WORKERS, 2000)
        await node.disconnect(beam.name)
        await members(node, WORKERS, 1000)
        await node.connect(beam.name)
        await members(node, WORKERS, 2000)
        await sees(beam, at(node), "1000")
        await stack.aclose()
        await sees(beam, at(node), "0")
        await members(node, WORKERS, 1000)


async def test_names_of_groups_are_any_terms(erlang: Erlang) -> None:
    pairs = [
        ("1", 1),
        ("1.0", 1.0),
        ('{room, <<"a">>}', (Atom("room"), "a")),
        ("#{k => [1, 2]}", {Atom("k"): [1, 2]}),
        ("[]", []),
        ("true", True),
        ("'Elixir.Math'", Atom("Elixir.Math")),
    ]
    async with pair(erlang) as (node, beam), node.open_mailbox() as box:
        for code, term in pairs:
            box.join_group("pg", term)
            await join(beam, code)
        for code, term in pairs:
            assert len(await members(node, term, 2)) == 2, code
            await sees(beam, at(node, code), "1")
        assert await beam.eval("length(pg:which_groups())") == str(len(pairs))


async def test_junk_from_a_beam_node_is_ignored(erlang: Erlang) -> None:
    async with pair(erlang) as (node, beam), node.open_mailbox() as box:
        box.join_group("pg", WORKERS)
        await join(beam)
        await members(node, WORKERS, 2)
        await beam.eval(f"put(to, {{pg, '{node.name}'}})")
        scope = node._processes.groups.scope("pg")
        before = scope.junk
        for junk in (
            "hello",
            "{discover, me}",
            "{join, whereis(pg), workers, notapid}",
            "{leave, whereis(pg), [1|2], workers}",
            "{'$gen_cast', {sync, whereis(pg), [{a, b, c}]}}",
            "{'$gen_cast', {sync, self(), [[]|[]]}}",
            "{'$gen_call', {self(), make_ref()}, which_groups}",
            "{nodeup, node()}",
            "{'EXIT', self(), kill}",
            "list_to_tuple(lists:seq(1, 1000))",
        ):
            await beam.eval(f"get(to) ! {junk}")
        with trio.fail_after(5):
            while scope.junk < before + 10:  # noqa: ASYNC110 - another process cannot wake us
                await trio.sleep(0.01)
        await members(node, WORKERS, 2)
        await sees(beam, at(node), "1")
        # Nor does it end by a signal: it is there as long as the node is.
        known = "element(2, process_info(whereis(pg), monitors))"
        scopes = f"[P || {{process, P}} <- {known}, node(P) =/= node()]"
        assert await beam.eval(f"[exit(P, kill) || P <- {scopes}]") == "[true]"
        box.join_group("pg", Atom("again"))
        await sees(beam, at(node, "again"), "1")
        await sees(beam, at(node), "1")


@pytest.mark.parametrize("hidden", HIDDEN)
async def test_coming_and_going_at_any_moment_hurts_nobody(
    erlang: Erlang, hidden: tuple[bool, tuple[str, ...]]
) -> None:
    groups = [Atom(f"g{number}") for number in range(5)]
    async with pair(erlang, hidden) as (node, beam), node.open_mailbox() as stays:
        stays.join_group("pg", WORKERS)
        for turn in range(30):
            async with node.open_mailbox() as goes:
                for group in groups:
                    goes.join_group("pg", group)
                    stays.join_group("pg", group)
                await node.connect(beam.name)
                for group in groups[: turn % 5]:
                    stays.leave_group("pg", group)
                    await trio.lowlevel.checkpoint()
                    goes.leave_group("pg", group)
                if turn % 3 == 0:
                    await sees(beam, at(node), "1")
            for group in groups[turn % 5 :]:
                stays.leave_group("pg", group)
            if turn % 2:
                await node.disconnect(beam.name)
        await node.connect(beam.name)
        await sees(beam, at(node), "1")
        await sees(beam, "pg:which_groups()", "[workers]")
