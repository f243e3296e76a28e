"""Large messages beside small ones, against real BEAM nodes and against peers by hand."""

from __future__ import annotations

import logging
import random
from contextlib import suppress
from typing import Any

import pytest
import trio

from barnacle_trio import ConfigurationError
from barnacle_trio._names import NodeName
from barnacle_trio.distribution import _connection as connection_module
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution import open_node
from barnacle_trio.distribution._flags import OUR_FLAGS
from barnacle_trio.distribution._fragments import FRAGMENT, MAX_UNFINISHED, Transfer
from barnacle_trio.distribution._frames import frame
from barnacle_trio.distribution._gen import reply_to
from barnacle_trio.distribution._lanes import Lanes
from barnacle_trio.distribution._outbound import parties
from barnacle_trio.etf import Atom, EncodeError, ImproperList, Pid, Reference
from tests.beam import COOKIE, unique
from tests.erlang import Erlang
from tests.intruder import drained, open_intruder, reachable_node
from tests.puppets import open_stage

pytestmark = pytest.mark.usefixtures("epmd_port")

MIB = 1024 * 1024
LARGE = 64 * MIB
PATIENCE = 30
"""Seconds. Nothing here is about speed."""


async def test_small_messages_pass_a_large_one_on_its_way_out(erlang: Erlang) -> None:
    """What must not wait is done before what it would have waited for."""
    async with open_stage(erlang) as stage:
        sink, other = await stage.puppet(), await stage.puppet()
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                arrived = trio.Event()

                async def wait_for_it() -> None:
                    assert await sink.got(1) == [bytes(LARGE)]
                    arrived.set()

                await stage.node.send(sink.pid, bytes(LARGE))
                nursery.start_soon(wait_for_it)
                for number in range(3):
                    await stage.node.send(other.pid, number)
                assert await other.got(3) == [0, 1, 2]
                assert await stage.node.ping(stage.beam.name)
                assert not arrived.is_set()


async def test_small_messages_pass_a_large_one_on_its_way_in(erlang: Erlang) -> None:
    async with (
        open_stage(erlang) as stage,
        stage.node.open_mailbox() as sink,
        stage.node.open_mailbox() as other,
    ):
        code = f"""
            Large = binary:copy(<<7>>, {LARGE}),
            spawn(fun() -> Sink ! Large end),
            [Other ! N || N <- lists:seq(1, 3)], ok
        """
        puppet = await stage.puppet()
        with trio.fail_after(PATIENCE):
            await puppet.run(code, Sink=sink.pid, Other=other.pid)
            assert [await other.receive() for _ in range(3)] == [1, 2, 3]
            assert not len(sink)
            assert await sink.receive() == b"\7" * LARGE


@pytest.mark.parametrize("seed", range(3))
async def test_messages_between_the_same_two_keep_their_order(erlang: Erlang, seed: int) -> None:
    chance = random.Random(seed)
    sizes = [chance.choice([1, 10, 1000, FRAGMENT, 3 * FRAGMENT, 20 * FRAGMENT]) for _ in range(60)]
    async with open_stage(erlang) as stage, stage.node.open_mailbox() as box:
        one, two = await stage.puppet(), await stage.puppet()
        with trio.fail_after(PATIENCE):
            for number, size in enumerate(sizes):
                for puppet in (one, two) if chance.random() < 0.5 else (two, one):
                    await stage.node.send(puppet.pid, (number, bytes(size)))
            expected = [(number, bytes(size)) for number, size in enumerate(sizes)]
            assert await one.got(len(sizes)) == expected
            assert await two.got(len(sizes)) == expected
            code = "[Box ! {N, binary:copy(<<0>>, Size)} || {N, Size} <- Sizes], ok"
            await one.run(code, Box=box.pid, Sizes=list(enumerate(sizes)))
            assert [await box.receive() for _ in sizes] == expected


async def test_200_megabytes_both_ways_where_both_ends_take_that(erlang: Erlang) -> None:
    size = 200_000_000
    async with open_stage(erlang, max_message=size) as stage:
        puppet = await stage.puppet()
        with trio.fail_after(2 * PATIENCE):
            assert await puppet.run("byte_size(Large)", Large=bytes(size)) == size
            # A thousand bytes at a time: one by one it keeps a scheduler, and with it what
            # answers probes, for seconds.
            code = f"binary:copy(binary:copy(<<1>>, 1000), {size // 1000})"
            large = await puppet.run(code)
        assert len(large) == size


async def test_what_is_too_large_is_refused_before_anything_is_sent(erlang: Erlang) -> None:
    async with open_stage(erlang) as stage:
        puppet = await stage.puppet()
        await stage.node.send(puppet.pid, bytes(LARGE))  # the limit is of what one gives
        for term in (bytes(LARGE + 200_000), [bytes(MIB)] * 70):
            with pytest.raises(EncodeError, match="more than"):
                await stage.node.send(puppet.pid, term)
        assert await puppet.got(1) == [bytes(LARGE)]
        assert await puppet.got() == []


@pytest.mark.parametrize("limit", [0, -1, 2**31, 2**40])
async def test_a_limit_that_cannot_be_is_refused(limit: int) -> None:
    with pytest.raises(ConfigurationError, match="max_message is a number of bytes from 1 to"):
        async with open_node(unique("py"), cookie=COOKIE, max_message=limit):
            raise AssertionError("it was taken")


# -- by hand -------------------------------------------------------------------------------------


async def test_a_peer_without_fragments_gets_one_frame() -> None:
    async with reachable_node() as (node, port), open_intruder(node, port) as peer:
        large = bytes(2 * MIB)
        await node.send(peer.pid(1), large)
        heard = await peer.hear()
        assert heard == control.Send(node._kernel.pid, peer.pid(1), large)


async def read_away(stream: trio.abc.ReceiveStream) -> None:
    async for _ in stream:
        pass


def pieces(message: bytes, sequence: int = 1) -> list[bytes]:
    transfer = Transfer(sequence, [message])
    frames = []
    while transfer.left:
        frames.append(transfer.next())
    return frames


async def test_61_pieces_that_make_no_message_cost_their_connection_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    async with (
        reachable_node() as (node, port),
        open_intruder(node, port, flags=OUR_FLAGS) as good,
        node.open_mailbox() as box,
    ):
        sender = good.pid(1)
        first, second, third = pieces(control.send(sender, box.pid, bytes(150_000), OUR_FLAGS))
        many = [
            Transfer(number, [control.send(sender, box.pid, bytes(100_000), OUR_FLAGS)]).next()[
                :300
            ]
            for number in range(MAX_UNFINISHED + 1)
        ]
        for what, data in {
            "a continuation without a beginning": second,
            "pieces out of order": first + third,
            "a beginning twice": first + first,
            "pass-through": frame(control.link(sender, box.pid)),
            "an atom cache": frame(b"\x83D\x01\x08\xff\x02ok" + b"h\1a\1"),
            "a header that is cut": frame(b"\x83E" + bytes(10)),
            "too many at once": b"".join((len(each) - 4).to_bytes(4) + each[4:] for each in many),
        }.items():
            async with open_intruder(node, port, flags=OUR_FLAGS) as bad:
                with trio.fail_after(PATIENCE):
                    with suppress(trio.BrokenResourceError):
                        await bad.stream.send_all(data)
                    await drained(bad.stream)
                await node.hidden_nodes.wait_value(frozenset({NodeName(good.name)}))
            assert await good.heard_last() == [], what
        await good.stream.send_all(first + second + third)
        assert await box.receive() == bytes(150_000)
    assert not [record for record in caplog.records if record.exc_info], "no fault of ours"


async def test_a_peer_that_does_not_read_holds_up_large_and_small_ones_within_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A large message waits for those before it; what another process is told goes on for long."""
    async with (
        reachable_node() as (node, port),
        open_intruder(node, port, flags=OUR_FLAGS) as peer,
    ):
        connection = node._peers.get(NodeName(peer.name))
        assert connection is not None
        large = bytes(16 * MIB)  # more than the sockets' own buffers hold
        with trio.fail_after(PATIENCE):
            await node.send(peer.pid(1), large)
        with trio.move_on_after(0.1) as waited:
            await node.send(peer.pid(2), large)
        assert waited.cancelled_caught
        with pytest.raises(trio.WouldBlock):
            node.send_nowait(peer.pid(2), large)
        with pytest.raises(trio.WouldBlock):
            node.send_nowait(peer.pid(1), "behind the large one")
        node.send_nowait(peer.pid(2), "beside it")

        def send_many() -> None:
            for _ in range(2000):
                node.send_nowait(peer.pid(2), bytes(1000))

        with pytest.raises(trio.WouldBlock):
            send_many()
        assert connection._outbox_size < connection_module.HIGH_WATER + 2000
        assert connection.reason is None
        # It reads on: everything leaves, and nothing is counted any more.
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_away, peer.stream)
                await node.send(peer.pid(2), large)
                await connection.flush()
                assert connection._bulk_size == connection._outbox_size == 0
                nursery.cancel_scope.cancel()


def test_the_answers_of_one_server_to_two_callers_do_not_wait_for_each_other() -> None:
    """Whose alias it is, is known where a call is answered."""
    here, there = Atom("a@127.0.0.1"), Atom("b@127.0.0.1")
    server = Pid(here, 1, 0, 1)
    answers: list[Any] = []
    for number in (1, 2):
        tag = ImproperList((Atom("alias"),), Reference(there, 1, (number,)))
        answers.append(reply_to(server, Pid(there, number, 0, 1), tag, b""))
    lanes = Lanes()
    large = Transfer(1, [control.send(server, Pid(there, 1, 0, 1), bytes(100_000), OUR_FLAGS)])
    assert not lanes.take(parties(answers[0]), large)
    assert lanes.holds(parties(answers[0]))
    assert not lanes.holds(parties(answers[1]))
