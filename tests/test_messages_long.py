"""Very many messages, losses and terms. The long form: see `tests.scale`."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from barnacle_trio._errors import PeerUnreachable
from barnacle_trio._names import NodeName
from barnacle_trio.distribution import Node, _connection, open_node
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution._frames import TICK
from barnacle_trio.distribution._inbox import Down, Exit
from barnacle_trio.distribution._mailbox import Mailbox
from barnacle_trio.etf import Atom, Pid
from barnacle_trio.testing import MemoryNetwork
from tests.beam import COOKIE, open_beam, unique
from tests.erlang import Erlang
from tests.intruder import open_intruder, reachable_node
from tests.puppets import Puppet, Stage, open_on, open_stage, received
from tests.scale import resident, scaled
from tests.terms import normal, random_terms, same

pytestmark = pytest.mark.usefixtures("epmd_port")

NOCONNECTION = Atom("noconnection")
MESSAGES = scaled(20_000, 1_000_000)
FLAT = 24 * 1024 * 1024
"""Bytes by which memory may grow, whatever the number of messages."""


# -- messages ------------------------------------------------------------------------------------


async def take_in_order(box: Mailbox, count: int) -> None:
    """None lost, none twice, in order."""
    for number in range(count):
        assert await box.receive() == number
    assert box.rejected == 0


async def give_in_order(node: Node, dest: Any, count: int) -> None:
    for number in range(count):
        await node.send(dest, number)


async def test_numbered_messages_between_our_nodes() -> None:
    async with (
        open_node(unique("a"), cookie=COOKIE) as a,
        open_node(unique("b"), cookie=COOKIE) as b,
        a.open_mailbox() as to_a,
        b.open_mailbox("box") as to_b,
    ):
        before = 0
        for count in (1000, MESSAGES):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(take_in_order, to_a, count)
                nursery.start_soon(take_in_order, to_b, count)
                nursery.start_soon(give_in_order, a, ("box", b.name), count)
                nursery.start_soon(give_in_order, b, to_a.pid, count)
            before = before or resident()
        assert len(to_a) == len(to_b) == 0
        assert resident() - before < FLAT


WINDOW = 1000
"""Messages after which the counter on the BEAM node says so: what is not compiled there gets the
slower, the more waits for it."""


async def give_in_windows(stage: Stage, said: Mailbox, dest: Any, count: int) -> None:
    for start in range(0, count, WINDOW):
        if start >= 4 * WINDOW:
            assert await received(said) == start - 3 * WINDOW
        for number in range(start, start + WINDOW):
            await stage.node.send(dest, number)
    for end in range(max(WINDOW, count - 3 * WINDOW), count + 1, WINDOW):
        assert await received(said) == end


async def test_numbered_messages_with_a_beam_process(erlang: Erlang) -> None:
    """Both ways at once; it takes them in order or not at all."""
    count = """
        spawn(fun() ->
          (fun Count(N) ->
            if N > 0, N rem Window =:= 0 -> B ! N; true -> ok end,
            receive N -> Count(N + 1); Other -> B ! {expected, N, Other} end
          end)(0)
        end)
    """
    give = "spawn(fun() -> [B ! N || N <- lists:seq(0, Last - 1)] end)"
    async with (
        open_stage(erlang) as stage,
        stage.node.open_mailbox() as box,
        stage.node.open_mailbox() as said,
    ):
        puppet = await stage.puppet()
        counter = await puppet.run(count, B=said.pid, Window=WINDOW)
        before = resident()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_in_order, box, MESSAGES)
            await puppet.run(give, B=box.pid, Last=MESSAGES)
            await give_in_windows(stage, said, counter, MESSAGES)
        assert len(box) == len(said) == 0
        assert resident() - before < FLAT


async def test_a_receiver_keeps_up_with_whoever_floods_it() -> None:
    """Its mailbox is no longer than what comes at a time, however much comes."""
    async with (
        reachable_node() as (node, port),
        open_intruder(node, port) as one,
        open_intruder(node, port) as two,
        node.open_mailbox(max_length=6000) as box,
        trio.open_nursery() as nursery,
    ):
        for peer in (one, two):
            flood = [control.send(peer.pid(1), box.pid, number) for number in range(25_000)]
            nursery.start_soon(peer.send, *flood)
        for _ in range(50_000):
            await received(box)
        assert box.rejected == 0


# -- peers that do not read ----------------------------------------------------------------------


async def test_who_does_not_read_holds_up_who_sends_to_it_alone() -> None:
    """Until the failure detector gives it up, which as long as it shows life is never."""
    async with (
        reachable_node(net_ticktime=2) as (node, port),
        open_node(unique("good"), cookie=COOKIE) as good,
        good.open_mailbox("box") as box,
    ):
        downs: list[Any] = []
        node.subscribe(downs.append)
        async with open_intruder(node, port) as bad, trio.open_nursery() as nursery:
            before = resident()
            connection = node._peers.get(NodeName(bad.name))
            assert connection is not None
            failed: Counter[type] = Counter()

            async def send(size: int) -> None:
                try:
                    while True:
                        await node.send(("anybody", bad.name), bytes(size))
                except PeerUnreachable as error:
                    failed[type(error)] += 1

            async def call() -> None:
                with pytest.raises(Exception, match=r"down|lost") as caught:
                    await node.call(("anybody", bad.name), bytes(100_000))
                failed[caught.type] += 1

            for size in (10, 1000, 200_000):
                nursery.start_soon(send, size)
            for _ in range(100):
                nursery.start_soon(call)
            bound = _connection.HIGH_WATER + 200_000 + 50_000
            for _ in range(12):  # longer than its tick time
                await bad.stream.send_all(TICK)
                await trio.sleep(0.25)
                assert connection._outbox_size <= bound
                with pytest.raises(trio.WouldBlock):
                    node.send_nowait(("anybody", bad.name), 1)
                with trio.fail_after(1):
                    await node.send(("box", good.name), 1)
                    assert await box.receive() == 1
            assert connection.reason is None
            assert resident() - before < FLAT + 100 * 200_000
            with trio.fail_after(4):
                await node.hidden_nodes.wait_value(frozenset())
            assert downs[-1].reason == "silent"
        assert sum(failed.values()) == 103, "each of them was told"


# -- losses --------------------------------------------------------------------------------------

HELD = 10


def hold(boxes: list[Mailbox], pids: list[Pid], name: Any) -> set[Any]:
    """Link and monitor pairwise; what is to come when the connection is lost."""
    expected: set[Any] = set()
    for box, pid in zip(boxes, pids, strict=True):
        box.link(pid)
        expected |= {
            (box, Exit(pid, NOCONNECTION)),
            (box, Down(box.monitor(pid), pid, NOCONNECTION)),
            (box, Down(box.monitor(name), name, NOCONNECTION)),
        }
        # Those that were undone fire never.
        box.demonitor(box.monitor(pid))
    return expected


async def fired(boxes: list[Mailbox]) -> set[Any]:
    """What came: three to each box, and no more."""
    came = {(box, await received(box)) for box in boxes for _ in range(3)}
    assert all(len(box) == 0 for box in boxes)
    return came


@asynccontextmanager
async def open_boxes(node: Node) -> AsyncIterator[list[Mailbox]]:
    async with (
        node.open_mailbox("box", trap_exits=True) as first,
        trio.open_nursery() as nursery,
    ):
        boxes = [first]

        async def one(task_status: trio.TaskStatus[Mailbox]) -> None:
            async with node.open_mailbox(trap_exits=True) as box:
                task_status.started(box)
                await trio.sleep_forever()

        for _ in range(HELD - 1):
            boxes.append(await nursery.start(one))
        yield boxes
        nursery.cancel_scope.cancel()


async def test_a_thousand_losses_between_our_nodes(autojump_clock: MockClock) -> None:
    """Each link and monitor fires once on each side, whichever way the connection ends."""
    network, chance = MemoryNetwork(), random.Random(1)
    a_name, b_name = "a@memory", "b@memory"
    async with (
        network.open_node(a_name) as a,
        network.open_node(b_name) as b,
        open_boxes(a) as ours,
        open_boxes(b) as theirs,
    ):
        for _ in range(scaled(500, 1000)):
            await a.connect(b_name)
            await b.nodes.wait_value(frozenset({NodeName(a_name)}))
            expected = hold(ours, [box.pid for box in theirs], ("box", b_name))
            expected_there = hold(theirs, [box.pid for box in ours], ("box", a_name))
            # Linked from both sides, and told of it once.
            how = chance.choice(["by us", "by them", "cut", "at once"])
            if how != "at once":
                await trio.testing.wait_all_tasks_blocked()
            if how == "by us" or how == "at once":
                await a.disconnect(b_name)
            elif how == "by them":
                await b.disconnect(a_name)
            else:
                network.cut(a_name, b_name)
                await a.nodes.wait_value(frozenset())
                network.heal(a_name, b_name)
            assert await fired(ours) == expected
            assert await fired(theirs) == expected_there


async def test_losses_of_a_beam_node_while_links_and_monitors_are_held(erlang: Erlang) -> None:
    async with open_stage(erlang) as stage, open_boxes(stage.node) as ours:
        node, beam = stage.node, stage.beam
        puppets = [await stage.puppet(trap_exit=True) for _ in range(HELD)]
        await puppets[0].run("register(box, self())")
        mine = (Atom("box"), Atom(node.name))
        for number in range(scaled(40, 1000)):
            expected = hold(ours, [each.pid for each in puppets], ("box", beam.name))
            there: list[set[Any]] = []
            for puppet, box in zip(puppets, ours, strict=True):
                refs = await puppet.run(
                    "link(B), [monitor(process, X) || X <- [B, N]]", B=box.pid, N=mine
                )
                down = (Atom("DOWN"), Atom("process"), NOCONNECTION)
                there.append(
                    {
                        (down[0], ref, down[1], item, down[2])
                        for ref, item in zip(refs, (box.pid, mine), strict=True)
                    }
                    | {(Atom("EXIT"), box.pid, NOCONNECTION)}
                )
            if number % 2:
                await node.disconnect(beam.name)
            else:
                await beam.eval(f"erlang:disconnect_node('{node.name}')")
            assert await fired(ours) == expected
            for puppet, events in zip(puppets, there, strict=True):
                got = await puppet.got(3)
                assert len(got) == 3
                assert set(got) == events


async def test_killed_beam_nodes_while_links_and_monitors_are_held(erlang: Erlang) -> None:
    name = unique("beam")
    async with open_node(unique("py"), cookie=COOKIE) as node, open_boxes(node) as ours:
        for _ in range(scaled(3, 500)):
            async with open_beam(erlang, name) as beam, open_on(node, beam) as stage:
                puppets = [await stage.puppet() for _ in range(HELD)]
                await puppets[0].run("register(box, self())")
                expected = hold(ours, [each.pid for each in puppets], ("box", name))
                await beam.kill()
                assert await fired(ours) == expected


CHILD = """
import trio, sys
from contextlib import AsyncExitStack
from barnacle_trio.distribution import open_node
async def main():
    async with open_node(sys.argv[1], cookie=sys.argv[2]) as node, AsyncExitStack() as stack:
        boxes = [
            await stack.enter_async_context(node.open_mailbox(None if n else "box"))
            for n in range(int(sys.argv[4]))
        ]
        await node.send(("boss", sys.argv[3]), [box.pid for box in boxes])
        await trio.sleep_forever()
trio.run(main)
"""


async def test_killed_nodes_of_ours_while_links_and_monitors_are_held() -> None:
    async with (
        open_node(unique("py"), cookie=COOKIE) as node,
        node.open_mailbox("boss") as boss,
        open_boxes(node) as ours,
    ):
        name = unique("child")
        for _ in range(scaled(3, 100)):
            process = await trio.lowlevel.open_process(
                [sys.executable, "-c", CHILD, name, COOKIE, node.name, str(HELD)]
            )
            try:
                pids = await received(boss)
                expected = hold(ours, pids, ("box", name))
            finally:
                process.kill()
            await process.wait()
            assert await fired(ours) == expected


# -- terms ---------------------------------------------------------------------------------------


async def test_random_terms_come_back_from_a_beam_process_unchanged(erlang: Erlang) -> None:
    chosen = random_terms(scaled(1500, 100_000))  # takes long, and no node answers meanwhile
    async with open_stage(erlang) as stage, stage.node.open_mailbox() as box:
        puppet: Puppet = await stage.puppet()
        echo = await puppet.run(
            "spawn(fun() -> (fun F() -> receive T -> B ! T, F() end end)() end)", B=box.pid
        )
        for term in chosen:
            await stage.node.send(echo, term)
            assert same(await received(box), normal(term)), term
