"""What peers that were let in may say to processes of ours, by hand, signal by signal."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from barnacle_trio._errors import ProcessExit
from barnacle_trio._names import NodeName
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution import _held, _inbox, open_node
from barnacle_trio.distribution._flags import PLAIN, Flag
from barnacle_trio.distribution._frames import TICK, frame
from barnacle_trio.distribution._inbox import Down, Exit
from barnacle_trio.etf import Atom, Pid, encode
from barnacle_trio.testing import MemoryNetwork
from tests.beam import COOKIE, unique
from tests.intruder import Intruder, be_let_in, drained, open_intruder, reachable_node

pytestmark = pytest.mark.usefixtures("epmd_port")

NOPROC, NOCONNECTION, NORMAL = Atom("noproc"), Atom("noconnection"), Atom("normal")
OLD = PLAIN & ~(Flag.EXIT_PAYLOAD | Flag.UNLINK_ID | Flag.SEND_SENDER)


def op(number: int, *rest: Any) -> bytes:
    """A control message of any kind, well built or not."""
    return b"\x70" + encode((number, *rest))


# -- links, one signal at a time -----------------------------------------------------------------


async def test_what_is_dead_says_so() -> None:
    async with reachable_node() as (node, port), open_intruder(node, port) as peer:
        async with node.open_mailbox() as box:
            pass
        one = peer.pid(1)
        await peer.send(control.link(one, box.pid))
        assert await peer.hear() == control.Exit(box.pid, one, NOPROC)
        await peer.send(control.monitor(one, box.pid, peer.ref(1)))
        assert await peer.hear() == control.MonitorExit(box.pid, one, peer.ref(1), NOPROC)
        await peer.send(control.monitor(one, Atom("nobody"), peer.ref(2)))
        assert await peer.hear() == control.MonitorExit(Atom("nobody"), one, peer.ref(2), NOPROC)
        await peer.send(control.unlink(9, one, box.pid))
        assert await peer.hear() == control.UnlinkAck(9, box.pid, one)
        # All this is no reason to say anything.
        await peer.send(
            control.demonitor(one, box.pid, peer.ref(1)),
            control.demonitor(one, Atom("nobody"), peer.ref(3)),
            control.unlink_ack(3, one, box.pid),
            control.exit_(one, box.pid, NORMAL),
            control.exit2(one, box.pid, Atom("kill")),
            control.monitor_exit(one, box.pid, peer.ref(4), NOPROC),
            control.unlink(1, one, box.pid, OLD),
            control.group_leader(one, box.pid),
            control.send(one, box.pid, 1),
            control.alias_send(one, peer.ref(5), 1),
        )
        assert await peer.heard_last() == []


async def test_while_an_unlink_is_not_acknowledged_nothing_counts() -> None:
    async with (
        reachable_node() as (node, port),
        open_intruder(node, port) as peer,
        node.open_mailbox() as box,
    ):
        one = peer.pid(1)
        box.link(one)
        assert await peer.hear() == control.Link(box.pid, one)
        box.unlink(one)
        unlink = await peer.hear()
        assert isinstance(unlink, control.Unlink)
        await peer.send(
            control.link(one, box.pid),
            control.unlink_ack(unlink.id + 1, one, box.pid),
            control.exit_(one, box.pid, Atom("void")),
        )
        assert await peer.heard_last() == []
        assert not box.ended
        await peer.send(control.unlink(5, one, box.pid))
        assert await peer.hear() == control.UnlinkAck(5, box.pid, one)
        await peer.send(control.unlink_ack(unlink.id, one, box.pid), control.link(one, box.pid))
        await peer.send(control.exit_(one, box.pid, Atom("counts")))
        with pytest.raises(ProcessExit, match="counts"):
            await box.receive()


async def test_a_link_that_is_made_anew_before_the_acknowledgement_counts() -> None:
    async with (
        reachable_node() as (node, port),
        open_intruder(node, port) as peer,
        node.open_mailbox(trap_exits=True) as box,
    ):
        one = peer.pid(1)
        box.link(one)
        box.unlink(one)
        box.link(one)
        heard = await peer.heard_last()
        assert [type(each) for each in heard] == [control.Link, control.Unlink, control.Link]
        assert isinstance(heard[1], control.Unlink)
        await peer.send(control.unlink_ack(heard[1].id, one, box.pid))
        await peer.send(control.exit_(one, box.pid, NORMAL), control.exit_(one, box.pid, NORMAL))
        assert await box.receive() == Exit(one, NORMAL)
        assert await peer.heard_last() == []
        assert len(box) == 0, "once"


async def test_the_forms_of_older_peers_mean_the_same() -> None:
    async with (
        reachable_node() as (node, port),
        open_intruder(node, port) as peer,
        node.open_mailbox(trap_exits=True) as box,
    ):
        one, two, three = peer.pid(1), peer.pid(2), peer.pid(3)
        ref = box.monitor(three)
        await peer.send(
            control.link(one, box.pid),
            control.link(two, box.pid),
            control.unlink(1, one, box.pid, OLD),
            control.exit_(one, box.pid, Atom("void"), OLD),
            control.exit_(two, box.pid, Atom("one"), OLD),
            control.exit2(one, box.pid, Atom("two"), OLD),
            control.monitor_exit(three, box.pid, ref, Atom("three"), OLD),
            control.send(one, box.pid, Atom("four"), OLD),
        )
        assert await box.receive() == Exit(two, Atom("one"))
        assert await box.receive() == Exit(one, Atom("two"))
        assert await box.receive() == Down(ref, three, Atom("three"))
        assert await box.receive() == Atom("four")


# -- who speaks for others -----------------------------------------------------------------------


async def test_nobody_speaks_for_processes_of_another_node() -> None:
    """Links and monitors are between their ends; a third node neither makes nor breaks one."""
    async with (
        reachable_node() as (node, port),
        open_intruder(node, port) as good,
        open_intruder(node, port) as bad,
        node.open_mailbox(trap_exits=True) as box,
    ):
        theirs, other = good.pid(1), good.pid(2)
        box.link(theirs)
        ref = box.monitor(theirs)
        await good.send(control.monitor(theirs, box.pid, good.ref(1)))
        await good.heard_last()
        await bad.send(
            control.exit_(theirs, box.pid, Atom("forged")),
            control.unlink(1, theirs, box.pid),
            control.unlink(1, theirs, box.pid, OLD),
            control.monitor_exit(theirs, box.pid, ref, Atom("forged")),
            control.demonitor(theirs, box.pid, good.ref(1)),
            control.demonitor(bad.pid(1), box.pid, good.ref(1)),
            control.monitor(bad.pid(1), box.pid, good.ref(1)),
            control.link(other, box.pid),
            control.monitor(other, Atom("nobody"), bad.ref(1)),
            control.link(bad.pid(3, node="no name"), box.pid),
            control.monitor(bad.pid(3, node="no name"), Atom("nobody"), bad.ref(2)),
            control.unlink(1, bad.pid(3, node="no name"), box.pid),
        )
        assert await bad.heard_last() == []
        assert len(box) == 0
        assert await good.heard_last() == []
        await good.send(control.exit_(other, box.pid, Atom("not linked")))
        await good.send(control.exit_(theirs, box.pid, Atom("linked")))
        assert await box.receive() == Exit(theirs, Atom("linked"))
        await good.send(control.monitor_exit(theirs, box.pid, ref, Atom("ended")))
        assert await box.receive() == Down(ref, theirs, Atom("ended"))
        node._processes.close(box._inbox)
        assert await good.hear() == control.MonitorExit(box.pid, theirs, good.ref(1), NORMAL)


async def test_messages_for_other_nodes_and_incarnations_are_dropped() -> None:
    async with (
        reachable_node() as (node, port),
        open_intruder(node, port) as peer,
        node.open_mailbox() as box,
    ):
        ours = box.pid
        stale = Pid(node=ours.node, id=ours.id, serial=ours.serial, creation=ours.creation ^ 1)
        others = Pid(node=Atom("other@host"), id=ours.id, serial=0, creation=ours.creation)
        for pid in (stale, others):
            await peer.send(
                control.send(peer.pid(1), pid, 1), control.exit2(peer.pid(1), pid, Atom("kill"))
            )
        assert await peer.heard_last() == []
        assert len(box) == 0
        assert not box.ended


# -- bounds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["links", "monitors"])
async def test_a_flood_of_links_or_monitors_costs_its_sender_alone(
    what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_held, "MAX_HELD", 1000)
    async with (
        reachable_node() as (node, port),
        open_intruder(node, port) as good,
        open_intruder(node, port) as bad,
        node.open_mailbox(trap_exits=True) as box,
        node.open_mailbox(trap_exits=True) as other,
    ):

        def hold(peer: Intruder, number: int) -> bytes:
            to = (box if peer is good or number % 2 else other).pid
            if what == "links":
                return control.link(peer.pid(number), to)
            return control.monitor(peer.pid(1), to, peer.ref(number))

        await good.send(*(hold(good, number) for number in range(900)))
        # What was let go makes room.
        for _ in range(3):
            await bad.send(*(hold(bad, number) for number in range(900)))
            if what == "links":
                let_go = [control.unlink(1, bad.pid(n), box.pid) for n in range(900)]
                let_go += [control.unlink(1, bad.pid(n), other.pid) for n in range(900)]
            else:
                let_go = [control.demonitor(bad.pid(1), box.pid, bad.ref(n)) for n in range(900)]
                let_go += [control.demonitor(bad.pid(1), other.pid, bad.ref(n)) for n in range(900)]
            await bad.send(*let_go)
            assert all(isinstance(each, control.UnlinkAck) for each in await bad.heard_last())
        await good.send(*(hold(good, number) for number in range(900, 990)))
        await good.heard_last()
        await bad.send(*(hold(bad, number) for number in range(1100)))
        with trio.fail_after(5):
            await drained(bad.stream)
        assert "1000 links and monitors" in caplog.text
        assert await good.heard_last() == []
        assert good.name in node.hidden_nodes.value


async def test_the_end_of_what_was_held_is_told_however_full_the_mailbox() -> None:
    """A message may be rejected; that a monitored process ended is told in any case."""
    async with (
        reachable_node() as (node, port),
        open_intruder(node, port) as peer,
        node.open_mailbox(trap_exits=True, max_length=2) as box,
    ):
        linked, ref = peer.pid(1), box.monitor(peer.pid(2))
        box.link(linked)
        await peer.send(*(control.send(peer.pid(1), box.pid, number) for number in range(5)))
        await peer.send(
            *(control.exit2(peer.pid(1), box.pid, Atom("asked")) for number in range(5)),
            control.monitor_exit(peer.pid(2), box.pid, ref, NORMAL),
            control.exit_(linked, box.pid, NORMAL),
        )
        await peer.heard_last()
        assert [await box.receive() for _ in range(len(box))] == [
            0,
            1,
            Down(ref, peer.pid(2), NORMAL),
            Exit(linked, NORMAL),
        ]
        assert box.rejected == 8
        refs = [box.monitor(peer.pid(number)) for number in range(10)]
        await peer.stream.aclose()
        downs = [await box.receive() for _ in range(10)]
        assert {down.ref for down in downs} == set(refs)


async def test_a_slow_mailbox_rejects_and_the_connection_stays(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Never by not reading: what stops there would stop for all processes of both nodes."""
    async with (
        reachable_node() as (node, port),
        open_intruder(node, port) as peer,
        node.open_mailbox("slow", max_length=100) as slow,
        node.open_mailbox("quick") as quick,
    ):
        for number in range(200):
            sent = control.reg_send(peer.pid(1), Atom("slow"), bytes(10_000))
            await peer.send(*[sent] * 10, control.reg_send(peer.pid(1), Atom("quick"), number))
        with trio.fail_after(5):
            assert [await quick.receive() for _ in range(200)] == list(range(200))
        assert (len(slow), slow.rejected) == (100, 1900)
        assert [await slow.receive() for _ in range(100)] == [bytes(10_000)] * 100
        assert await peer.heard_last() == []
        lines = [record for record in caplog.records if "is full" in record.getMessage()]
        assert len(lines) == 1


async def test_a_flood_of_ticks_delays_nobody() -> None:
    async with (
        reachable_node() as (node, port),
        open_intruder(node, port) as bad,
        open_node(unique("good"), cookie=COOKIE) as good,
        trio.open_nursery() as nursery,
    ):
        await good.connect(node.name)

        async def flood() -> None:
            while True:
                await bad.stream.send_all(TICK * 250_000)

        nursery.start_soon(flood)
        worst = 0.0
        for _ in range(20):
            began = time.perf_counter()
            assert await good.ping(node.name)
            worst = max(worst, time.perf_counter() - began)
        assert worst < 2
        assert bad.name in node.hidden_nodes.value
        nursery.cancel_scope.cancel()


async def test_the_nodes_own_processes_cannot_be_ended_or_led() -> None:
    async with reachable_node() as (node, port), open_intruder(node, port) as peer:
        kernel = node._kernel.pid
        await peer.send(
            control.exit2(peer.pid(1), kernel, Atom("kill")),
            control.group_leader(peer.pid(1), kernel),
            control.link(peer.pid(1), kernel),
            control.exit_(peer.pid(1), kernel, Atom("kill")),
        )
        assert await peer.heard_last() == []
        assert await node.ping(node.name)
        async with open_node(unique("good"), cookie=COOKIE) as good:
            assert await good.ping(node.name)


async def test_nothing_is_run_that_was_not_exposed() -> None:
    async with reachable_node() as (node, port), open_intruder(node, port) as peer:
        for number, (module, function) in enumerate(
            [("os", "cmd"), ("os", "system"), ("erpc", "execute_call"), ("builtins", "eval")]
        ):
            ref = peer.ref(number)
            names = (Atom(module), Atom(function))
            options = [Atom("monitor")]
            await peer.send(
                control.spawn_request(ref, peer.pid(1), peer.pid(1), names, ["id"], options)
            )
            reply = await peer.hear()
            assert isinstance(reply, control.SpawnReply)
            assert (reply.ref, reply.to, reply.flags) == (ref, peer.pid(1), 0)
            assert isinstance(reply.result, Atom)
        call = (Atom("call"), Atom("os"), Atom("cmd"), [b"id"], peer.pid(1))
        await peer.send(
            control.reg_send(
                peer.pid(1), Atom("rex"), (Atom("$gen_call"), (peer.pid(1), peer.ref(9)), call)
            )
        )
        for heard in await peer.heard_last():
            assert isinstance(heard, control.Send)
            assert b"uid=" not in encode(heard.payload)
            assert heard.payload[1][0] is Atom("badrpc")


# -- frames --------------------------------------------------------------------------------------

PID = Pid(node=Atom("intruder@127.0.0.1"), id=1, serial=0, creation=7)
ARITIES = {1: 3, 2: 3, 3: 4, 4: 3, 6: 4, 7: 3, 8: 4, 19: 4, 20: 4, 21: 5, 22: 3, 24: 3, 26: 3}
ARITIES |= {28: 4, 29: 6, 31: 5, 33: 3, 35: 4, 36: 4}
LETHAL = {
    "a frame beyond the limit": (64 * 1024 * 1024 + 128 * 1024 + 1).to_bytes(4),
    "a header with atom cache references": frame(b"\x83D\x01\x08\xff\x02ok" + encode((1,))[1:]),
    "a first fragment": frame(b"\x83E" + bytes(7) + b"\x01" + bytes(7) + b"\x02\x00h\x01a\x01"),
    "a later fragment": frame(b"\x83F" + bytes(7) + b"\x01" + bytes(7) + b"\x01abc"),
    "an atom cache reference": frame(b"\x70\x83h\x01R\x00"),
    "no tuple": frame(b"\x70" + encode([1, PID, PID])),
    "no number": frame(b"\x70" + encode((Atom("link"), PID, PID))),
    "an unlink id of zero": frame(op(35, 0, PID, PID)),
    "an unlink id beyond 64 bits": frame(op(35, 1 << 64, PID, PID)),
    "a payload that is cut": frame(op(22, PID, PID) + encode(bytes(100))[:50]),
    **{
        f"arguments of {number} that are numbers": frame(
            op(number, *range(1, arity)) + encode([]),
        )
        for number, arity in ARITIES.items()
        if number != 2
    },
    **{
        f"{number} with too few": frame(op(number, *[PID] * (arity - 2)) + encode([]))
        for number, arity in ARITIES.items()
    },
    **{
        f"{number} with too many": frame(op(number, *[PID] * arity) + encode([]))
        for number, arity in ARITIES.items()
    },
}


async def test_frames_that_were_not_agreed_on_cost_their_connection_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    async with reachable_node() as (node, port), open_intruder(node, port) as good:
        for what, data in LETHAL.items():
            async with open_intruder(node, port) as bad:
                with trio.fail_after(5):
                    with suppress(trio.BrokenResourceError):
                        await bad.stream.send_all(data)
                    await drained(bad.stream)
                await node.hidden_nodes.wait_value(frozenset({NodeName(good.name)}))
            assert await good.heard_last() == [], what
    assert not [record for record in caplog.records if record.exc_info], "no fault of ours"


async def test_a_large_frame_that_drips_is_given_up(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    async with network.open_node("a@memory") as node:
        stream, _ = await network._dial(NodeName("bad@memory"), node.name)
        await be_let_in(stream, "bad@memory", "memory")
        await node.hidden_nodes.wait_value(frozenset({NodeName("bad@memory")}))
        began = trio.current_time()
        await stream.send_all((64 * 1024 * 1024).to_bytes(4))
        with suppress(trio.BrokenResourceError):
            while trio.current_time() - began < 1000:
                await stream.send_all(b"x")
                await trio.sleep(5)
        assert 60 <= trio.current_time() - began <= 130
        assert node.hidden_nodes.value == frozenset()
        await trio.aclose_forcefully(stream)


async def test_a_slow_mailbox_is_bounded_in_bytes_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_inbox, "MAX_MAILBOX_BYTES", 1_000_000)
    async with (
        reachable_node() as (node, port),
        open_intruder(node, port) as peer,
        node.open_mailbox("slow") as slow,
    ):

        def head_of(sender: Pid) -> bytes:
            return control.head(control.send_control(sender, slow.pid), PLAIN)

        for to in (head_of(peer.pid(1)), None):
            for number in range(30):  # a sender that is new each time takes another way in
                head = to or head_of(peer.pid(number))
                await peer.send(head + encode(bytes([number]) * 100_000)[1:])
            await peer.heard_last()
            assert len(slow) == 9
            for number in range(9):
                if number % 2:
                    assert await slow.receive() == bytes([number]) * 100_000
                else:
                    assert (await slow.receive(lambda found: len(found) > 1))[0] == number
        assert slow.rejected == 42
        # Small ones are bounded by their number alone.
        await peer.send(*[control.send(peer.pid(1), slow.pid, bytes(2000))] * 1000)
        await peer.heard_last()
        assert len(slow) == 1000
