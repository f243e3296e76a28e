"""How much of what peers say waits in a mailbox, whichever way they say it."""

from __future__ import annotations

import pytest

from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution import _inbox, open_node
from barnacle_trio.distribution._flags import PLAIN, Flag
from barnacle_trio.distribution._inbox import Exit
from barnacle_trio.etf import Atom
from tests.beam import COOKIE, unique
from tests.intruder import open_intruder, reachable_node

pytestmark = pytest.mark.usefixtures("epmd_port")

NOCONNECTION, NORMAL = Atom("noconnection"), Atom("normal")
OLD = PLAIN & ~(Flag.EXIT_PAYLOAD | Flag.UNLINK_ID | Flag.SEND_SENDER)


async def test_links_that_a_peer_makes_fill_no_mailbox_beyond_its_bound() -> None:
    """It may link and exit for ever: those are messages, and only what we asked for is more."""
    async with (
        reachable_node() as (node, port),
        open_intruder(node, port) as peer,
        node.open_mailbox(trap_exits=True, max_length=2) as box,
    ):
        asked_for, both = peer.pid(1), peer.pid(2)
        box.link(asked_for)
        await peer.send(control.link(both, box.pid))
        await peer.heard_last()
        box.link(both)
        for _ in range(50):
            pids = [peer.pid(number) for number in range(10, 110)]
            links = [control.link(pid, box.pid) for pid in pids]
            exits = [control.exit_(pid, box.pid, Atom("again")) for pid in pids]
            await peer.send(*(each for pair in zip(links, exits, strict=True) for each in pair))
        await peer.heard_last()
        assert (len(box), box.rejected) == (2, 4998)
        await peer.send(*(control.exit_(pid, box.pid, NORMAL) for pid in (asked_for, both)))
        await peer.heard_last()
        assert [(await box.receive()).pid for _ in range(len(box))] == [
            peer.pid(10),
            peer.pid(11),
            asked_for,
            both,
        ]


async def test_a_peer_that_is_lost_fills_no_mailbox_beyond_its_bound_by_its_links() -> None:
    async with (
        reachable_node() as (node, port),
        node.open_mailbox(trap_exits=True, max_length=2) as box,
    ):
        for number in range(1, 4):
            async with open_intruder(node, port) as peer:
                asked_for = peer.pid(1)
                box.link(asked_for)
                await peer.send(*(control.link(peer.pid(each), box.pid) for each in range(2, 102)))
                await peer.heard_last()
            await node.hidden_nodes.wait_value(frozenset())
            ends = [await box.receive() for _ in range(len(box))]
            assert Exit(asked_for, NOCONNECTION) in ends
            assert len(ends) <= 3
            assert box.rejected >= 98 * number


async def test_links_within_a_node_have_their_room_whoever_made_them() -> None:
    async with (
        open_node(unique("py"), cookie=COOKIE) as node,
        node.open_mailbox(trap_exits=True, max_length=0) as box,
    ):
        async with node.open_mailbox() as one:
            one.link(box.pid)
        assert await box.receive() == Exit(one.pid, NORMAL)


async def test_whatever_a_peer_says_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_inbox, "MAX_MAILBOX_BYTES", 1_000_000)
    async with (
        reachable_node() as (node, port),
        open_intruder(node, port) as peer,
        node.open_mailbox("slow", trap_exits=True) as slow,
    ):
        one, large = peer.pid(1), bytes(100_000)

        def to_rex(what: str) -> bytes:
            request = (Atom(what), Atom("slow"), large)
            return control.reg_send(one, Atom("rex"), (one, request))

        for signals in (
            [control.exit2(one, slow.pid, large)],
            [control.exit2(one, slow.pid, large, OLD)],
            [control.link(one, slow.pid), control.exit_(one, slow.pid, large)],
            [to_rex("sbcast")],
            [to_rex("send")],
        ):
            before = slow.rejected
            for _ in range(30):
                await peer.send(*signals)
            await peer.heard_last()
            assert (len(slow), slow.rejected - before) == (9, 21)
            for _ in range(9):
                await slow.receive()
            assert slow._inbox._large_bytes == 0


async def test_what_a_mailbox_gave_out_counts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes behind a term are passed over, and an atom is the same object each time."""
    monkeypatch.setattr(_inbox, "MAX_MAILBOX_BYTES", 1_000_000)
    async with (
        reachable_node() as (node, port),
        open_intruder(node, port) as peer,
        node.open_mailbox() as box,
    ):
        head = control.head(control.send_control(peer.pid(1), box.pid), PLAIN)
        for match in (None, lambda message: message is Atom("ok")):
            await peer.send(*[head + Atom("ok").wire + bytes(50_000)] * 18)
            await peer.send(control.send(peer.pid(1), box.pid, Atom("ok")))
            await peer.heard_last()
            assert [await box.receive(match) for _ in range(len(box))] == [Atom("ok")] * 19
            assert box._inbox._large_bytes == 0
        await peer.send(control.send(peer.pid(1), box.pid, bytes(900_000)))
        assert await box.receive() == bytes(900_000)
        assert box.rejected == 0
