"""`Node.drain`: connections and dials meanwhile, and being cancelled."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from barnacle_trio import Node, ProcessDown, open_node
from barnacle_trio._errors import PeerUnreachable
from barnacle_trio._names import NodeName
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution import _departure
from barnacle_trio.distribution._frames import frame
from barnacle_trio.distribution._kernel import GOODBYE_NAME, LEAVING
from barnacle_trio.epmd import lookup
from barnacle_trio.etf import Atom
from barnacle_trio.testing._memory import MemoryNetwork, open_memory_nodes
from tests.beam import COOKIE, open_beam, unique
from tests.checkpoints import cancel_at_every_checkpoint
from tests.drain_players import A, B, C, Desk, ask_process, asks, serve
from tests.erlang import Erlang
from tests.intruder import drained, name_message, open_intruder, reachable_node
from tests.test_node_memory import record, told


async def test_while_it_waits_nobody_is_dialled_and_nobody_let_in(
    autojump_clock: MockClock,
) -> None:
    desk = Desk()
    network = MemoryNetwork()
    async with (
        network.open_node(A) as a,
        network.open_node(B) as b,
        network.open_node(C) as c,
        trio.open_nursery() as nursery,
    ):
        await serve(nursery, b, desk, ask_process)
        nursery.start_soon(asks, ask_process, a, 1, [])
        await wait_all_tasks_blocked()
        nursery.start_soon(b.drain, 10)
        await trio.sleep(1)
        with pytest.raises(PeerUnreachable, match="leaves"):
            await b.connect(C)
        assert not await b.ping(C)
        with pytest.raises(PeerUnreachable):
            await c.connect(B)
        with pytest.raises(PeerUnreachable, match="leaves"):
            await b.send(("somebody", C), 1)
        await b.send(("somebody", A), 1)  # who is there can be talked to
        assert await a.ping(B)
        async with network.open_node(B) as heir:  # the name is free
            await heir.connect(C)
        nursery.cancel_scope.cancel()


async def test_attempts_under_way_are_given_up(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    async with network.open_node(A) as a, network.open_node(B):
        network.cut(A, B)

        async def connect() -> None:
            with pytest.raises(PeerUnreachable, match="leaves"):
                await a.connect(B)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect)
            await trio.sleep(1)
            nursery.start_soon(a.drain, 5)
        assert trio.current_time() < 1.5


async def test_whoever_drains_meanwhile_waits_for_the_same_end(autojump_clock: MockClock) -> None:
    desk = Desk()
    ends = list[float]()

    async def drain(node: Node, grace: float) -> None:
        await node.drain(grace)
        ends.append(trio.current_time())

    async with open_memory_nodes(A, B) as (a, b), trio.open_nursery() as nursery:
        await serve(nursery, b, desk, ask_process)
        nursery.start_soon(asks, ask_process, a, 1, [])
        await wait_all_tasks_blocked()
        changes = record(a)
        async with trio.open_nursery() as drains:
            drains.start_soon(drain, b, 20)
            drains.start_soon(drain, b, 30)
            await trio.sleep(1)
            drains.start_soon(drain, b, 3)  # a second signal, say
        assert ends == pytest.approx([4, 4, 4], abs=0.1)
        assert told(changes) == ["left"]
        nursery.cancel_scope.cancel()


async def test_one_of_two_callers_may_give_up(autojump_clock: MockClock) -> None:
    desk = Desk()
    async with open_memory_nodes(A, B) as (a, b), trio.open_nursery() as nursery:
        await serve(nursery, b, desk, ask_process)
        nursery.start_soon(asks, ask_process, a, 1, [])
        await wait_all_tasks_blocked()
        with trio.move_on_after(1):
            async with trio.open_nursery() as both:
                both.start_soon(b.drain, 8)
                nursery.start_soon(b.drain, 9)
        await trio.sleep(1)
        assert b.nodes.value == {A}
        await b.nodes.wait_value(frozenset())
        assert trio.current_time() == pytest.approx(8, abs=0.1)
        nursery.cancel_scope.cancel()


async def test_cancelled_it_tells_its_peers_all_the_same(autojump_clock: MockClock) -> None:
    desk = Desk()
    async with open_memory_nodes(A, B) as (a, b), trio.open_nursery() as nursery:
        await serve(nursery, b, desk, ask_process)
        nursery.start_soon(asks, ask_process, a, 1, [])
        await wait_all_tasks_blocked()
        changes = record(a)
        with trio.move_on_after(1):
            await b.drain(100)
        await a.nodes.wait_value(frozenset())
        assert trio.current_time() < 1.6
        assert told(changes) == ["left"]
        nursery.cancel_scope.cancel()


async def test_cancelled_at_each_checkpoint_it_leaves_nothing_behind(
    autojump_clock: MockClock,
) -> None:
    changes: list[Any] = []

    async def come_and_go() -> None:
        changes.clear()
        network = MemoryNetwork()
        async with network.open_node(A) as a:
            a.subscribe(changes.append)
            async with network.open_node(B) as b:
                with trio.CancelScope(shield=True):
                    await b.connect(A)
                await b.drain(1)
            with trio.CancelScope(shield=True):
                await wait_all_tasks_blocked()

    async def told_in_pairs() -> None:
        await trio.lowlevel.checkpoint()
        assert told(changes) in ([], ["up", "left"], ["up", "closed_by_us"])  # by us: a was left

    assert await cancel_at_every_checkpoint(come_and_go, told_in_pairs) > 5


async def test_leaving_the_block_meanwhile_says_goodbye_once(autojump_clock: MockClock) -> None:
    desk = Desk()
    network = MemoryNetwork()
    async with network.open_node(A) as a, trio.open_nursery() as nursery:
        changes = record(a)
        async with network.open_node(B) as b:
            await serve(nursery, b, desk, ask_process)
            nursery.start_soon(asks, ask_process, a, 1, [])
            await wait_all_tasks_blocked()
            nursery.start_soon(b.drain, 100)  # noqa: ASYNC111 - what happens then is the question
            await trio.sleep(1)
        assert trio.current_time() < 2
        await wait_all_tasks_blocked()
        assert told(changes) == ["up", "left"]
        nursery.cancel_scope.cancel()


async def test_a_peer_that_reads_nothing_does_not_hold_it_up(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    async with network.open_node(A), network.open_node(B) as b, network.open_node(C) as c:
        changes = record(c)
        await b.connect(A)
        await b.connect(C)
        network.cut(A, B)
        b.send_nowait(("somebody", A), bytes(1_000_000))
        started = trio.current_time()
        await b.drain(0)
        assert trio.current_time() - started <= _departure.GOODBYE_TIMEOUT + 0.1
        await wait_all_tasks_blocked()
        assert told(changes) == ["up", "left"]


async def test_two_nodes_may_leave_at_once(autojump_clock: MockClock) -> None:
    async with open_memory_nodes(A, B, C) as (a, b, c):
        await a.connect(B)
        await a.connect(C)
        await b.connect(C)
        seen = record(c)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.drain, 5)
            nursery.start_soon(b.drain, 5)
        await wait_all_tasks_blocked()
        assert told(seen) == ["left", "left"]


@pytest.mark.usefixtures("epmd_port")
async def test_the_port_is_closed_and_the_name_free_at_once() -> None:
    desk = Desk()
    async with (
        reachable_node() as (node, port),
        open_node(unique("peer"), cookie=COOKIE) as peer,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(node.serve_process, "desk", desk)
        stranger = await trio.open_tcp_stream("127.0.0.1", port)
        await stranger.send_all(name_message(b"stranger@127.0.0.1"))
        await stranger.receive_some(1)  # it is in mid-handshake

        async def ask() -> None:
            with pytest.raises(ProcessDown):
                await peer.call(("desk", node.name), 1)

        nursery.start_soon(ask)
        await node.nodes.wait_value(lambda nodes: peer.name in nodes)
        await wait_all_tasks_blocked(0.01)
        nursery.start_soon(node.drain, 30)
        with trio.fail_after(5):
            await drained(stranger)
            while await lookup(node.name.basename, "127.0.0.1") is not None:  # noqa: ASYNC110
                await trio.sleep(0.01)
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream("127.0.0.1", port)
        assert node.nodes.value == {peer.name}
        async with open_node(node.name, cookie=COOKIE):
            pass
        await stranger.aclose()
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("epmd_port")
async def test_a_peer_in_the_midst_of_talking_sees_that_the_node_left() -> None:
    """What it still sends must not make its kernel forget what came before."""
    reasons = list[str]()
    for _ in range(20):
        async with open_node(unique("peer"), cookie=COOKIE) as peer, trio.open_nursery() as nursery:
            changes = record(peer)

            async def talk(peer: Node, to: NodeName) -> None:
                while True:
                    with suppress(trio.WouldBlock):
                        peer.send_nowait(("somebody", to), bytes(10_000))
                    await trio.lowlevel.checkpoint()

            async with open_node(unique("py"), cookie=COOKIE) as node:
                await node.connect(peer.name)
                name = node.name
                nursery.start_soon(talk, peer, name)
                await trio.sleep(0.02)
                await node.drain(1)
            await peer.nodes.wait_value(frozenset())
            reasons += told(changes)[1:]
            nursery.cancel_scope.cancel()
    assert reasons == ["left"] * 20


@pytest.mark.usefixtures("epmd_port")
@pytest.mark.parametrize("last_words", [True, False])
async def test_what_a_peer_said_before_it_went_is_heard_by_who_speaks_to_it(
    last_words: bool,
) -> None:
    """The second write finds a dead connection; what was read from it by the kernel is not."""
    async with reachable_node() as (node, port), open_intruder(node, port) as peer:
        changes = record(node)
        async with node.open_mailbox("box") as box:
            said = [control.reg_send(peer.pid(1), Atom("box"), Atom("done"))]
            if last_words:
                said.append(control.reg_send(peer.pid(1), GOODBYE_NAME, (LEAVING, Atom(peer.name))))
            assert isinstance(peer.stream, trio.SocketStream)
            os.write(peer.stream.socket.fileno(), b"".join(map(frame, said)))
            peer.stream.socket.close()
            for _ in range(10):  # in all this, no task runs
                node.send_nowait(("somebody", NodeName(peer.name)), "hello")
            with trio.fail_after(5):
                assert await box.receive() is Atom("done")
                await node.hidden_nodes.wait_value(frozenset())
        assert told(changes)[-1] == ("left" if last_words else "lost")


@pytest.mark.usefixtures("epmd_port")
async def test_a_beam_node_sees_one_nodedown_and_gets_its_answer(erlang: Erlang) -> None:
    begun = trio.Event()

    async def think(request: Any) -> Any:
        begun.set()
        await trio.sleep(0.5)
        return [request]

    async with (
        open_node(unique("py"), cookie=COOKIE) as node,  # first: it runs the port mapper
        open_beam(erlang, unique("beam")) as beam,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(node.serve_process, "desk", think)
        await beam.eval("net_kernel:monitor_nodes(true).")
        await node.connect(beam.name)
        answer = partial(beam.eval, f"gen_server:call({{desk, '{node.name}'}}, 1).")
        answers = list[str]()

        async def ask() -> None:
            answers.append(await answer())

        nursery.start_soon(ask)
        await begun.wait()
        await node.drain(5)
        while not answers:  # noqa: ASYNC110 - the answer of the shell
            await trio.sleep(0.01)
        assert answers == ["[1]"]
        heard = await beam.eval(
            f"""
            receive {{nodedown, '{node.name}'}} -> ok after 5000 -> none end,
            (fun Rest() -> receive {{Kind, '{node.name}'}} -> [Kind | Rest()]
             after 200 -> [] end end)().
            """
        )
        assert heard == "[nodeup]"
        nursery.cancel_scope.cancel()
