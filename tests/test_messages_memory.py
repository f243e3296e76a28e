"""Messages, links and monitors between our own nodes, in memory and on a virtual clock."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from barnacle_trio import ConfigurationError
from barnacle_trio._errors import PeerUnreachable, ProcessDown, ProcessExit
from barnacle_trio.distribution._inbox import Down, Exit
from barnacle_trio.distribution._mailbox import Mailbox
from barnacle_trio.distribution._node import Node
from barnacle_trio.etf import Atom, EncodeError, Map
from barnacle_trio.testing import MemoryNetwork
from tests.memory_pairs import WHERE, A, B, Where, one_node, two_nodes


@pytest.mark.parametrize("where", WHERE)
async def test_sending_by_pid_and_by_name(where: Where, autojump_clock: MockClock) -> None:
    async with where() as (a, b), b.open_mailbox("box") as box:
        await a.send(box.pid, {"text": "hi", Atom("n"): 1})
        await a.send(("box", b.name), [1, 2.5, None, True])
        a.send_nowait(box.pid, b"now")
        assert await box.receive() == {b"text": b"hi", Atom("n"): 1}
        assert await box.receive() == [1, 2.5, None, True]
        assert await box.receive() == b"now"


@pytest.mark.parametrize("where", WHERE)
async def test_a_selective_receive_leaves_the_others(
    where: Where, autojump_clock: MockClock
) -> None:
    async with where() as (a, b), b.open_mailbox() as box:
        for number in range(5):
            await a.send(box.pid, number)
        assert await box.receive(lambda message: message == 3) == 3
        assert [await box.receive() for _ in range(4)] == [0, 1, 2, 4]


async def test_a_waiting_match_looks_at_each_message_once() -> None:
    looked: list[int] = []

    def match(message: Any) -> bool:
        looked.append(message)
        return bool(message == 3)

    async with one_node() as (a, _), a.open_mailbox() as box, trio.open_nursery() as nursery:
        a.send_nowait(box.pid, 0)
        nursery.start_soon(box.receive, match)
        await wait_all_tasks_blocked()
        for number in (1, 2, 3, 4):
            a.send_nowait(box.pid, number)
    assert looked == [0, 1, 2, 3]


async def test_a_faulty_match_fails_its_receiver_and_loses_nothing() -> None:
    async with one_node() as (a, _), a.open_mailbox() as box:
        a.send_nowait(box.pid, "odd")
        with pytest.raises(ZeroDivisionError):
            await box.receive(lambda _message: 1 // 0 > 0)
        assert await box.receive() == b"odd"


async def test_a_cancelled_receive_loses_nothing(autojump_clock: MockClock) -> None:
    async with one_node() as (a, _), a.open_mailbox() as box:
        with trio.move_on_after(1):
            await box.receive()
        a.send_nowait(box.pid, 1)
        assert await box.receive() == 1


async def test_a_full_mailbox_rejects_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with one_node() as (a, _), a.open_mailbox(max_length=2) as box:
        for number in range(5):
            a.send_nowait(box.pid, number)
        assert box.rejected == 3
        assert [await box.receive() for _ in range(2)] == [0, 1]
    assert "is full" in caplog.text


async def test_names_are_taken_once_and_freed(autojump_clock: MockClock) -> None:
    async with one_node() as (a, _):
        async with a.open_mailbox("box"):
            with pytest.raises(ConfigurationError, match="already"):
                async with a.open_mailbox("box"):
                    raise AssertionError("two of one name")
        with pytest.raises(ConfigurationError, match="already"):
            async with a.open_mailbox("net_kernel"):
                raise AssertionError("the node's own")
        with pytest.raises(ConfigurationError, match="already"):
            async with a.open_mailbox("barnacle_trio"):
                raise AssertionError("where goodbyes go")
        async with a.open_mailbox("box"):
            pass


async def test_a_term_that_cannot_be_sent_fails_its_sender_alone() -> None:
    async with two_nodes() as (a, b), b.open_mailbox() as box:
        await a.connect(B)
        for bad in (float("inf"), object(), Atom):
            with pytest.raises((EncodeError, TypeError)):
                await a.send(box.pid, bad)
        await a.send(box.pid, "good")
        assert await box.receive() == b"good"
        assert a.nodes.value == {B}


async def test_sending_to_a_node_that_is_not_there(autojump_clock: MockClock) -> None:
    async with one_node() as (a, _):
        with pytest.raises(PeerUnreachable):
            await a.send(("box", "nobody@memory"), 1)
        with pytest.raises(trio.WouldBlock):
            a.send_nowait(("box", "nobody@memory"), 1)
        errors = await a.broadcast("box", 1, ["nobody@memory", A])
        assert {name: type(error) for name, error in errors.items()} == {
            "nobody@memory": PeerUnreachable
        }


@pytest.mark.parametrize("where", WHERE)
async def test_a_monitor_fires_once_with_the_reason(
    where: Where, autojump_clock: MockClock
) -> None:
    async with where() as (a, b), a.open_mailbox() as watcher:
        async with b.open_mailbox("box") as box:
            by_pid = watcher.monitor(box.pid)
            by_name = watcher.monitor(("box", b.name))
            undone = watcher.monitor(box.pid)
            watcher.demonitor(undone)
            await wait_all_tasks_blocked()
        downs = {await watcher.receive(), await watcher.receive()}
        assert downs == {
            Down(by_pid, box.pid, Atom("normal")),
            Down(by_name, ("box", b.name), Atom("normal")),
        }
        await wait_all_tasks_blocked()
        assert len(watcher) == 0


@pytest.mark.parametrize("where", WHERE)
async def test_a_monitor_of_nothing_fires_at_once(where: Where, autojump_clock: MockClock) -> None:
    async with where() as (a, b), a.open_mailbox() as watcher:
        ref = watcher.monitor(("nothing", b.name))
        assert await watcher.receive() == Down(ref, ("nothing", b.name), Atom("noproc"))


async def test_a_lost_connection_fires_everything_once(autojump_clock: MockClock) -> None:
    async with two_nodes() as (a, b), a.open_mailbox(trap_exits=True) as here:
        async with b.open_mailbox(trap_exits=True) as there:
            ref = here.monitor(there.pid)
            here.link(there.pid)
            other = there.monitor(here.pid)
            await wait_all_tasks_blocked()
            await a.disconnect(B)
            assert {await here.receive(), await here.receive()} == {
                Down(ref, there.pid, Atom("noconnection")),
                Exit(there.pid, Atom("noconnection")),
            }
            assert {await there.receive(), await there.receive()} == {
                Down(other, here.pid, Atom("noconnection")),
                Exit(here.pid, Atom("noconnection")),
            }
            await a.connect(B)
            await b.nodes.wait_value(frozenset({A}))
        await wait_all_tasks_blocked()
        assert len(here) == 0


@pytest.mark.parametrize("where", WHERE)
async def test_a_link_ends_the_other_side(where: Where, autojump_clock: MockClock) -> None:
    async with where() as (a, b), a.open_mailbox() as here:
        await _end_badly(b, here)
        with pytest.raises(ProcessExit) as caught:
            await here.receive()
        assert caught.value.reason == (Atom("python_error"), b"KeyError", b"'broken'")


async def _end_badly(node: Node, linked: Mailbox) -> None:
    with suppress(KeyError):
        async with node.open_mailbox() as box:
            linked.link(box.pid)
            await wait_all_tasks_blocked()
            raise KeyError("broken")


@pytest.mark.parametrize("where", WHERE)
async def test_a_normal_end_does_not_end_the_other_side(
    where: Where, autojump_clock: MockClock
) -> None:
    async with where() as (a, b), a.open_mailbox() as here:
        async with b.open_mailbox() as there:
            here.link(there.pid)
            await wait_all_tasks_blocked()
        await wait_all_tasks_blocked()
        assert not here.ended


@pytest.mark.parametrize("where", WHERE)
async def test_after_an_unlink_nothing_comes(where: Where, autojump_clock: MockClock) -> None:
    async with where() as (a, b), a.open_mailbox() as here:
        for _ in range(3):
            async with b.open_mailbox() as there:
                here.link(there.pid)
                here.unlink(there.pid)
                here.link(there.pid)
                here.unlink(there.pid)
                await wait_all_tasks_blocked()
                await _end_badly(b, there)
                await wait_all_tasks_blocked()
                assert there.ended
            await wait_all_tasks_blocked()
            assert not here.ended


@pytest.mark.parametrize("where", WHERE)
async def test_a_call_to_nobody_is_down_at_once(where: Where, autojump_clock: MockClock) -> None:
    async with where() as (a, b):
        with pytest.raises(ProcessDown) as caught:
            await a.call(("nothing", b.name), "hello")
        assert caught.value.reason is Atom("noproc")


@pytest.mark.parametrize("where", WHERE)
async def test_what_the_node_itself_answers_is_answered(
    where: Where, autojump_clock: MockClock
) -> None:
    async with where() as (a, b), a.open_mailbox() as watcher:
        with trio.fail_after(1):
            assert await a.call(("net_kernel", b.name), (Atom("is_auth"), Atom("x@y"))) is Atom(
                "yes"
            )
        watcher.monitor(("net_kernel", b.name))
        await wait_all_tasks_blocked()
        assert len(watcher) == 0


async def test_a_call_of_a_lost_node_is_down(autojump_clock: MockClock) -> None:
    async with two_nodes() as (a, b), b.open_mailbox("server"), trio.open_nursery() as nursery:

        async def call() -> None:
            with pytest.raises(ProcessDown) as caught:
                await a.call(("server", B), "hello")
            assert caught.value.reason is Atom("noconnection")

        nursery.start_soon(call)
        await wait_all_tasks_blocked()
        await a.disconnect(B)


async def test_a_mailbox_that_outlives_its_node_is_told_so(autojump_clock: MockClock) -> None:
    async with AsyncExitStack() as stack:
        async with MemoryNetwork().open_node(A) as a:
            box = await stack.enter_async_context(a.open_mailbox())
        ref = box.monitor(("nobody", B))
        assert await box.receive() == Down(ref, ("nobody", B), Atom("noconnection"))


async def test_messages_for_an_older_incarnation_are_dropped(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    async with network.open_node(A) as a:
        async with network.open_node(B) as b, b.open_mailbox() as box:
            stale = box.pid
        async with network.open_node(B) as b, b.open_mailbox() as box:
            assert (box.pid.id, box.pid.serial) == (stale.id, stale.serial)
            await a.send(stale, "for the dead")
            await a.send(box.pid, "for the living")
            assert await box.receive() == b"for the living"
            assert len(box) == 0


async def test_maps_that_a_dict_cannot_hold_arrive_exactly(autojump_clock: MockClock) -> None:
    exact = Map([(1, "int"), (1.0, "float"), ([1], "list")])
    async with two_nodes() as (a, b), b.open_mailbox() as box:
        await a.send(box.pid, exact)
        received = await box.receive()
        assert len(received) == 3
        assert received[1.0] == b"float"
        assert received[[1]] == b"list"


async def test_a_faulty_match_keeps_no_message_from_other_receivers() -> None:
    async def faulty(box: Mailbox) -> None:
        with pytest.raises(ZeroDivisionError):
            await box.receive(lambda _message: 1 // 0 > 0)

    async with one_node() as (a, _), a.open_mailbox() as box, trio.open_nursery() as nursery:
        nursery.start_soon(faulty, box)
        await wait_all_tasks_blocked()
        nursery.start_soon(box.receive)
        await wait_all_tasks_blocked()
        a.send_nowait(box.pid, "for the other")
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks
        assert len(box) == 0


async def test_what_waits_for_a_connection_goes_before_what_is_sent_over_it(
    autojump_clock: MockClock,
) -> None:
    """As everything else between two processes, in the order in which it was said."""

    async def take_one(b: Node) -> None:
        async with b.open_mailbox("box") as box:
            await box.receive()

    async with two_nodes() as (a, b), a.open_mailbox(trap_exits=True) as here:
        for _ in range(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(take_one, b)
                await wait_all_tasks_blocked()
                refs = [here.monitor(("box", B)) for _ in range(100)]
                here.demonitor(refs.pop())
                tasks = trio.lowlevel.current_statistics().tasks_living
                assert tasks < 50, "one of them dials for all"
                await a.send(("box", B), "end")
            downs = [await here.receive() for _ in refs]
            assert downs == [Down(ref, ("box", B), Atom("normal")) for ref in refs]
            await a.disconnect(B)
            await b.nodes.wait_value(frozenset())
