"""Large messages where it is crowded: many at once, slow readers, bounds, and what is counted."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from barnacle_trio._errors import RemoteError, RemoteProtocolError
from barnacle_trio._names import NodeName
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution import _fragments as fragments
from barnacle_trio.distribution import _routes as routes
from barnacle_trio.distribution import open_node
from barnacle_trio.distribution._connection import Connection
from barnacle_trio.distribution._detector import Patience
from barnacle_trio.distribution._flags import OUR_FLAGS, Flag
from barnacle_trio.distribution._fragments import FRAGMENT, Reassembly, Transfer, is_fragment
from barnacle_trio.distribution._frames import FrameDecoder, frame
from barnacle_trio.distribution._handshake import Identity
from barnacle_trio.distribution._lanes import MAX_PAIRS, MAX_UNDER_WAY, Lanes, Parties
from barnacle_trio.distribution._messages import Unread
from barnacle_trio.etf import Atom, EncodeError, Limits, Pid
from barnacle_trio.etf._encode import encode_bare
from tests.beam import COOKIE, unique
from tests.erlang import Erlang
from tests.intruder import open_intruder, reachable_node
from tests.puppets import open_stage

KIB, MIB = 1024, 1024 * 1024
PATIENCE = 30
"""Seconds. Nothing here is about speed."""
HERE, THERE = Atom("a@127.0.0.1"), Atom("b@127.0.0.1")
NAME = Atom("sink")

epmd = pytest.mark.usefixtures("epmd_port")


def pid(number: int, node: Atom = HERE) -> Pid:
    return Pid(node, number, 0, 7)


ONE, TO = pid(1), pid(2, THERE)


def transfer(number: int) -> Transfer:
    return Transfer(number, [control.send(ONE, TO, bytes(FRAGMENT), OUR_FLAGS)])


def bodies(message: bytes, sequence: int = 1) -> list[bytes]:
    """The bodies of the frames in which a message goes."""
    one = Transfer(sequence, [message])
    found: list[bytes] = []
    while one.left:
        found += FrameDecoder().feed(one.next())
    return found


# -- what a peer can have us hold ----------------------------------------------------------------


def begin(sequence: int, control_term: bytes, payload: bytes) -> bytes:
    ids = sequence.to_bytes(8) + (2).to_bytes(8)
    return b"\x83E" + ids + b"\0" + control_term + payload


def test_61_what_stands_in_control_terms_is_held_within_bounds() -> None:
    """The place of a pid may hold anything until the types are looked at."""

    def stuffed(size: int) -> bytes:
        return b"h\3a\x16m" + size.to_bytes(4) + bytes(size) + TO.wire

    reassembly = Reassembly(Limits(max_bytes=MIB))
    with pytest.raises(RemoteProtocolError, match="a control message of"):
        reassembly.feed(begin(1, stuffed(900_000), b"a\1"))
    reassembly = Reassembly(Limits(max_bytes=MIB))
    room = fragments.MAX_UNFINISHED_BYTES // 60_100 - 1
    for number in range(room):
        reassembly.feed(begin(number, stuffed(60_000), b"a\1"))
    assert reassembly._held >= 60_000 * room
    with pytest.raises(RemoteProtocolError, match="too many unfinished"):
        deque(reassembly.feed(begin(room + n, stuffed(60_000), b"a\1")) for n in range(9))


def test_what_is_too_much_at_once_is_dropped_and_the_rest_arrives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fragments, "MAX_UNFINISHED_BYTES", 0)
    reassembly = Reassembly(Limits(max_bytes=10 * FRAGMENT))
    payload = bytes(9 * FRAGMENT)
    going = [bodies(control.send(ONE, TO, payload, OUR_FLAGS), number) for number in range(6)]
    done: list[Any] = []
    for pieces in zip(*going, strict=True):  # all six grow alike: 54 pieces where 40 have room
        for piece in pieces:
            whole = reassembly.feed(piece)
            if whole is not None:
                done.append(whole[0])
    assert len(done) == 6
    assert [message.payload for message in done].count(payload) == 4
    assert all(message == control.Send(ONE, TO, message.payload) for message in done)
    assert [type(message.payload) for message in done].count(Unread) == 2
    assert not len(reassembly)
    assert reassembly._held == 0


def test_a_message_at_the_very_limit_is_taken() -> None:
    limits = Limits(max_bytes=3 * FRAGMENT)
    size = limits.max_bytes - 1 - 5  # the version byte, and the binary's header
    encode_bare(bytes(size), limits=limits)
    for payload in (bytes(size), [bytes(size - 6)]):
        message = control.send(ONE, TO, payload, OUR_FLAGS, limits)
        reassembly = Reassembly(limits)
        *_, last = map(reassembly.feed, bodies(message))
        assert last is not None
        assert last[0] == control.Send(ONE, TO, payload)


def test_an_unknown_control_message_in_pieces_is_as_one_in_a_frame() -> None:
    reassembly = Reassembly(Limits(max_bytes=MIB))
    unknown = b"\x83D\0" + b"h\2a\x63a\1" + b"m" + (200_000).to_bytes(4) + bytes(200_000)
    *before, last = (reassembly.feed(body) for body in bodies(unknown))
    assert before == [None] * 3
    assert last is not None
    assert last[0] == control.Unknown(99)
    assert reassembly._held == 0


@epmd
async def test_many_processes_of_a_beam_send_large_messages_at_once(erlang: Erlang) -> None:
    """A BEAM lets all of them begin: each one's message is within the limit."""
    count, size = 30, 2_000_000
    async with (
        open_stage(erlang, max_message=size) as stage,
        stage.node.open_mailbox() as box,
    ):
        puppet = await stage.puppet()
        code = f"""
            Large = binary:copy(<<7>>, {size}),
            [spawn(fun() -> Box ! Large end) || _ <- lists:seq(1, {count})], ok
        """
        with trio.fail_after(PATIENCE):
            await stage.node.send(puppet.pid, b"warm")
            asked = trio.Event()

            async def ask() -> None:
                await puppet.run(code, Box=box.pid)
                asked.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                for _ in range(count):
                    assert len(await box.receive()) == size
        assert asked.is_set()


# -- lanes -----------------------------------------------------------------------------------------


def test_a_lane_with_much_to_do_holds_only_those_who_still_have_something_there() -> None:
    lanes = Lanes()
    last = transfer(0)
    assert not lanes.take((ONE, TO), last)
    for number in range(1, 3 * MAX_PAIRS):
        assert lanes.take((ONE, Atom(f"name{number}")), b"it may be his")
        more = transfer(number)
        assert lanes.take((ONE, TO), more)
        assert lanes.finish(last) == [b"it may be his", more]
        last = more
    assert not lanes.holds((pid(3), pid(4, THERE)))
    assert not lanes.holds((ONE, pid(4, THERE)))
    assert lanes.holds((ONE, NAME))
    assert lanes.finish(last) == []
    assert not len(lanes)


def test_few_large_messages_are_under_way_at_once() -> None:
    """A receiver bounds what is unfinished, and each small message looks at all of them."""
    lanes = Lanes()
    going = [transfer(number) for number in range(100)]
    under_way = []
    for number, item in enumerate(going):
        if not lanes.take((pid(number), TO), item):
            under_way.append(item)
    assert len(under_way) == MAX_UNDER_WAY == fragments.MAX_UNFINISHED_SHARE
    assert lanes.holds((pid(50), TO)), "what comes behind one that waits waits as well"
    left = []
    while under_way:
        left.append(under_way.pop(0))
        freed = lanes.finish(left[-1])
        under_way += [each for each in freed if isinstance(each, Transfer)]
        assert len(under_way) <= MAX_UNDER_WAY
    assert sorted(left, key=going.index) == going
    assert not len(lanes)


# -- one connection, every byte looked at -------------------------------------------------------


@asynccontextmanager
async def open_pair(
    *, agreed: Flag = OUR_FLAGS, limits: Limits | None = None
) -> AsyncIterator[tuple[Connection, trio.testing.MemoryReceiveStream]]:
    """A connection in memory whose writes wait until they are read, and its other end."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    connection = Connection(
        ours,
        Identity(name=NodeName("b@127.0.0.1"), flags=int(agreed), creation=7),
        agreed=agreed,
        hidden=True,
        dialled=True,
        patience=Patience(),
        limits=limits or Limits(),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run, b"", lambda *_: None)
        yield connection, theirs  # type: ignore[misc]
        nursery.cancel_scope.cancel()


def check_counts(connection: Connection, writing: int = 0) -> None:
    whole = [each for each in connection._outbox if not isinstance(each, Transfer)]
    large = [each for each in connection._outbox if isinstance(each, Transfer)]
    waiting = [item for lane in connection._lanes._lanes for _, item in lane._waiting]
    bulk = [each.left for each in (*large, *connection._begun)]
    bulk += [each.left if isinstance(each, Transfer) else len(each) for each in waiting]
    assert connection._bulk_size == sum(bulk)
    if connection._writing:
        assert connection._outbox_size >= sum(map(len, whole))
    else:
        assert connection._outbox_size == sum(map(len, whole))
    under_way = {each for lane in connection._lanes._lanes for each in lane.under_way}
    assert under_way == set(connection._lanes._under_way) == {*large, *connection._begun}
    assert len(under_way) <= MAX_UNDER_WAY
    assert bool(connection._bulk_size) == bool(len(connection._lanes))


@pytest.mark.parametrize("seed", range(6))
async def test_nothing_is_lost_reordered_or_left_counted(seed: int, autojump_clock: Any) -> None:
    """Senders come, wait and are cancelled; the reader is slow; small and large, pids and names."""
    chance = random.Random(seed)
    senders = [pid(number) for number in range(1, 4)]
    receivers: list[Any] = [TO, pid(3, THERE), (NAME.name, THERE.name)]
    ways = {
        (sender, number): routes.Routes(sender).find(to)
        for sender in senders
        for number, to in enumerate(receivers)
    }
    said: dict[tuple[Any, int], list[int]] = {}
    heard: dict[tuple[Any, int], list[int]] = {}
    limits = Limits(max_bytes=3 * MIB)
    async with open_pair(limits=limits) as (connection, stream):

        async def say(sender: Pid) -> None:
            for number in range(60):
                await trio.sleep(chance.choice([0, 0, 0.1]))
                which = chance.randrange(len(receivers))
                way = ways[sender, which]
                size = chance.choice([0, 10, 1000, FRAGMENT - 200, FRAGMENT, 200_000, 2_500_000])
                payload = encode_bare((which, number, bytes(size)), limits=limits)
                with trio.move_on_after(chance.choice([0.05, 5, 1000])):
                    if not connection.writable(len(payload), way.parties):
                        await connection.wait_writable(len(payload), way.parties)
                    connection.send_signal(way.head(connection.agreed_bits), payload, way.parties)
                    said.setdefault((sender, which), []).append(number)
                check_counts(connection)

        decoder, reassembly = FrameDecoder(), Reassembly(limits)

        async def listen() -> None:
            while True:
                await trio.sleep(chance.choice([0, 0.01, 0.3]))
                data = await stream.receive_some(chance.choice([1000, 100_000, MIB]))
                for body in decoder.feed(bytes(data)):
                    if not body:
                        continue
                    message: Any
                    if is_fragment(body):
                        whole = reassembly.feed(body)
                        if whole is None:
                            continue
                        message = whole[0]
                    else:
                        message = control.parse(body, limits, headed=True)
                    which, number, _ = message.payload
                    heard.setdefault((message.sender, which), []).append(number)

        with trio.fail_after(10_000):
            async with trio.open_nursery() as listening:
                listening.start_soon(listen)
                async with trio.open_nursery() as nursery:
                    for sender in senders:
                        nursery.start_soon(say, sender)
                await connection.flush()
                await trio.testing.wait_all_tasks_blocked()
                listening.cancel_scope.cancel()
        check_counts(connection)
        assert connection._outbox_size == connection._bulk_size == 0
        assert not len(connection._lanes)
        assert connection.reason is None
    assert heard == said
    assert sum(map(len, said.values())) > 100


async def test_those_who_wait_are_not_woken_in_vain_at_every_write(autojump_clock: Any) -> None:
    count, size = 20, 3 * MIB
    looked = 0
    async with open_pair() as (connection, stream):
        writable = connection.writable

        def look(size: int, parties: Parties) -> bool:
            nonlocal looked
            looked += 1
            return writable(size, parties)

        connection.writable = look  # type: ignore[method-assign]

        async def say(number: int) -> None:
            payload = encode_bare(bytes(size))
            between = (pid(number), TO)
            await connection.wait_writable(size, between)
            head = control.head(control.send_control(pid(number), TO, OUR_FLAGS), int(OUR_FLAGS))
            connection.send_signal(head, payload, between)

        async def listen() -> None:
            while True:
                await stream.receive_some(MIB)

        with trio.fail_after(1000):
            async with trio.open_nursery() as listening:
                listening.start_soon(listen)
                async with trio.open_nursery() as nursery:
                    for number in range(count):
                        nursery.start_soon(say, number)
                await connection.flush()
                listening.cancel_scope.cancel()
    writes = count * size // (256 * KIB)
    assert looked < 3 * count * count < writes * count // 3


async def test_an_exit_without_a_payload_is_never_cut() -> None:
    """Its reason stands in the control term, and that is wholly in the first piece."""
    agreed = OUR_FLAGS & ~Flag.EXIT_PAYLOAD
    exit_ = control.Exit(ONE, TO, bytes(200_000))
    async with open_pair(agreed=agreed) as (connection, stream):
        connection.send_body(control.exit_(ONE, TO, exit_.reason, agreed), (ONE, TO))
        decoder = FrameDecoder()
        found: list[bytes] = []
        with trio.fail_after(PATIENCE):
            while not found:
                found = decoder.feed(bytes(await stream.receive_some(MIB)))
        assert [control.parse(body, headed=True) for body in found] == [exit_]


# -- what functions return ------------------------------------------------------------------------


async def large(size: int) -> bytes:
    return bytes(size)


@epmd
async def test_many_large_values_at_once_cost_nobody_the_connection() -> None:
    """Together they are far more than may wait for a peer."""
    gate, waiting = trio.Event(), 0

    async def value() -> bytes:
        nonlocal waiting
        waiting += 1
        if waiting == 15:
            gate.set()
        await gate.wait()
        return bytes(8 * MIB)

    async with (
        open_node(unique("py"), cookie=COOKIE) as caller,
        open_node(unique("py"), cookie=COOKIE) as callee,
    ):
        values: list[int] = []

        async def call() -> None:
            values.append(len(await caller.rpc(callee.name, "m", "value")))

        with callee.expose({("m", "value"): value}), trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for _ in range(15):
                    nursery.start_soon(call)
        assert values == [8 * MIB] * 15


@epmd
async def test_max_message_is_for_what_functions_return_too() -> None:
    async with (
        open_node(unique("py"), cookie=COOKIE, max_message=70 * MIB) as caller,
        open_node(unique("py"), cookie=COOKIE, max_message=70 * MIB) as callee,
    ):
        with callee.expose({("m", "large"): large}), trio.fail_after(PATIENCE):
            assert len(await caller.rpc(callee.name, "m", "large", 69 * MIB)) == 69 * MIB
    async with (
        open_node(unique("py"), cookie=COOKIE, max_message=100_000) as caller,
        open_node(unique("py"), cookie=COOKIE, max_message=100_000) as callee,
    ):
        with callee.expose({("m", "large"): large}), trio.fail_after(PATIENCE):
            with pytest.raises(RemoteError, match="more than"):
                await caller.rpc(callee.name, "m", "large", 300_000)
            assert len(await caller.rpc(callee.name, "m", "large", 100_000)) == 100_000


@epmd
async def test_max_message_is_for_what_a_node_tells_itself_too() -> None:
    async def echo(data: bytes) -> bytes:
        return data

    async with (
        open_node(unique("py"), cookie=COOKIE, max_message=70 * MIB) as node,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(node.serve_process, "echo", echo)
        with node.expose({("m", "echo"): echo}), trio.fail_after(PATIENCE):
            data = bytes(69 * MIB)
            assert await node.call(("echo", node.name), data) == data
            assert await node.rpc(node.name, "m", "echo", data) == data
        nursery.cancel_scope.cancel()
    async with open_node(unique("py"), cookie=COOKIE, max_message=100_000) as node:
        with node.expose({("m", "echo"): echo}):
            with pytest.raises(EncodeError, match=r"more than 165536 bytes \(a node's max_message"):
                await node.call(("echo", node.name), bytes(300_000))
            with pytest.raises(EncodeError, match="more than"):
                await node.rpc(node.name, "m", "echo", bytes(300_000))


@epmd
async def test_a_reply_of_rex_that_is_too_large_ends_nothing() -> None:
    """The value alone may be within the limit, and the caller's tag too."""
    async with (
        reachable_node(max_message=100_000) as (node, port),
        open_intruder(node, port, flags=OUR_FLAGS) as peer,
    ):
        with node.expose({("m", "large"): large}), trio.fail_after(PATIENCE):
            for size, tag in ((100_000, bytes(100_000)), (300_000, Atom("t"))):
                request = (Atom("call"), Atom("m"), Atom("large"), [size], Atom("user"))
                call = (Atom("$gen_call"), (peer.pid(1), tag), request)
                await peer.stream.send_all(
                    b"".join(
                        map(
                            frame,
                            bodies(control.reg_send(peer.pid(1), Atom("rex"), call, OUR_FLAGS)),
                        )
                    )
                )
            heard = await peer.hear()
            assert isinstance(heard, control.Send)
            assert heard.payload[0] == Atom("t")
            assert heard.payload[1][0] == Atom("badrpc")
            assert await peer.heard_last() == []
            await node._processes.work.wait_done()
            assert await node.ping(str(node.name))
            assert node.hidden_nodes.value == {NodeName(peer.name)}
