"""Gossip on one host: several nodes that share a port, an Erlang one among them, and strangers."""

from __future__ import annotations

import logging
import os
import socket
import sys
from functools import partial
from typing import Any

import pytest
import trio

from barnacle_trio import (
    ConfigurationError,
    DiscoveryError,
    NodeName,
    Refreshed,
    fallback,
    gossip,
    merge,
    open_barnacle,
    run_once,
)
from barnacle_trio._strategy import asked_by_nobody
from barnacle_trio.strategies._gossip_group import Group, is_here
from barnacle_trio.strategies._gossip_packets import EncryptedWire, PlainWire, SealedWire
from barnacle_trio.testing import EventRecorder, FakeTransport, check_strategy
from tests.erlang import Erlang
from tests.gossip_lab import (
    LOOPBACK,
    QUICK,
    SECRET,
    Talker,
    all_talking,
    any_port,
    open_libcluster_like,
    quick,
    talking,
    throw,
    until,
)

A, B, C = "a@127.0.0.1", "b@127.0.0.1", "c@127.0.0.1"
PLAIN: dict[str, Any] = {"insecure": True, "match": "*"}
MODES: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "encrypted": {},
    "sealed": {"wire": "sealed"},
}


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> dict[str, Any]:
    return MODES[request.param]


@pytest.fixture
def port() -> int:
    return any_port()


# -- what is asked for -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "give secret=..., the same to all nodes (Elixir's too), or say insecure=True"),
        ({"secret": SECRET, "insecure": True}, "not both"),
        ({"secret": ""}, "not empty"),
        ({"secret": 7}, "secret is a str or bytes"),
        ({"insecure": True, "wire": "sealed"}, "needs a secret"),
        ({"secret": "short", "wire": "sealed"}, "16 at least"),
        ({"secret": SECRET, "wire": "other"}, "'libcluster' or 'sealed'"),
        ({"group": "10.0.0.1"}, "no multicast address; for one of broadcast, say broadcast=True"),
        ({"group": "localhost"}, "a literal address"),
        ({"group": "ff02::1%lo"}, "without a zone"),
        ({"group": "ff15::7a", "broadcast": True}, "IPv6 knows no broadcast"),
        ({"group": "239.0.0.1", "broadcast": True}, "no broadcast address"),
        ({"port": 0}, "port is a number from 1 to 65535"),
        ({"port": True}, "port is a number"),
        ({"ttl": 256}, "ttl is a number from 0 to 255"),
        ({"interface": ""}, "interface is a name"),
        ({"interface": -1}, "interface is a name"),
        ({"interface": "127.0.0.1", "broadcast": True}, "by its name or its index"),
        ({"interface": "127.0.0.1", "group": "ff15::7a"}, "by its name or its index"),
        ({"interface": "::1"}, "by its name or its index"),
        ({"interval": 5}, "interval is two numbers"),
        ({"interval": (5, 1)}, "do not fit"),
        ({"interval": (0, 0)}, "do not fit"),
        ({"expire_after": 5.0}, "do not fit"),
        ({"max_names": 0}, "max_names is an int of at least 1"),
        ({"max_new_names": 0}, "max_new_names is a positive number"),
        ({"match": 7}, "match is a glob"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], complaint: str) -> None:
    if options and not {"secret", "insecure", "wire"} & options.keys():
        options = {"secret": SECRET, **options}
    with pytest.raises(ConfigurationError) as caught:
        gossip(**options)
    assert complaint in str(caught.value)
    assert SECRET not in str(caught.value)


def test_its_repr_keeps_the_secret() -> None:
    told = repr(gossip(secret=SECRET, wire="sealed", match="my_app", interface="eth0"))
    assert told == (
        "gossip('233.252.1.32:45892 on eth0', secret=..., wire='sealed', match='my_app')"
    )
    assert repr(gossip(insecure=True, broadcast=True)) == (
        "gossip('255.255.255.255:45892', insecure=True)"
    )
    assert repr(gossip(insecure=True, group="ff15::7a")) == (
        "gossip('[ff15::7a]:45892', insecure=True)"
    )


# -- meeting ---------------------------------------------------------------------------------------


async def test_nodes_of_one_host_hear_each_other(mode: dict[str, Any], port: int) -> None:
    async with all_talking(port, [A, B, C], **mode) as (a, b, c):
        await a.hears(B, C)
        await b.hears(A, C)
        await c.hears(A, B)
        assert a.changes >= 2
        assert not a.ignored


async def test_a_newcomer_need_not_wait_for_the_next_beat(port: int) -> None:
    slow: dict[str, Any] = {"interval": (30.0, 30.0), "expire_after": 100.0}
    async with talking(quick(port, **slow), A) as a:
        await trio.sleep(0.05)
        async with talking(quick(port, **slow), B) as b:
            for each, other in ((a, B), (b, A)):
                with trio.fail_after(10), pytest.raises(DiscoveryError) as caught:
                    await each.ask()
                assert caught.value.partial == frozenset({other})
                assert "all are heard within 30 s" in caught.value.reason


async def test_alone_one_waits_until_everybody_has_had_the_time_to_speak(port: int) -> None:
    async with talking(quick(port), A) as a:
        assert await a.ask() == frozenset()
    async with talking(quick(port, interval=(1.0, 60.0), expire_after=99.0), A) as a:
        with trio.fail_after(1), pytest.raises(DiscoveryError) as caught:
            await a.ask()
        assert caught.value.partial == frozenset()


@pytest.mark.parametrize("secret", [None, SECRET], ids=["plain", "encrypted"])
async def test_an_erlang_node_of_libclusters_manners_is_met(
    erlang: Erlang, secret: str | None, port: int
) -> None:
    options: dict[str, Any] = PLAIN if secret is None else {"secret": secret}
    async with (
        talking(quick(port, **options), A) as a,
        open_libcluster_like(erlang, port, B, secret) as erlang_hears,
    ):
        await erlang_hears(A)
        await a.hears(B)
        await a.strategy.leave(a.name)
        async with talking(quick(port, **options), C):  # it has survived the goodbye
            await erlang_hears(C)


# -- leaving ---------------------------------------------------------------------------------------


async def test_who_says_goodbye_is_forgotten_at_once(mode: dict[str, Any], port: int) -> None:
    patient = {**mode, "expire_after": 1000.0}
    async with all_talking(port, [A, B], **patient) as (a, b):
        await a.hears(B)
        changes = a.changes
        await b.strategy.leave(b.name)
        await a.hears()
        assert a.changes > changes
        await trio.sleep(3 * QUICK["interval"][1])  # type: ignore[index] # it says no more
        assert await a.ask() == frozenset()


async def test_who_falls_silent_is_forgotten_in_time(port: int) -> None:
    async with talking(quick(port), A) as a:
        async with talking(quick(port), B):
            await a.hears(B)
        await a.hears()


async def test_who_comes_back_under_the_same_name_is_heard(mode: dict[str, Any], port: int) -> None:
    async with talking(quick(port, **mode), A) as a:
        for _ in range(2):
            async with talking(quick(port, **mode), B) as b:
                await a.hears(B)
                await b.strategy.leave(b.name)
                await a.hears()


async def test_a_barnacle_drains_and_says_goodbye(port: int) -> None:
    async with talking(quick(port, expire_after=1000.0), A) as a:
        async with open_barnacle(quick(port), FakeTransport(B, reachable=[A])) as barnacle:
            await barnacle.wait_for_nodes(1)
            await a.hears(B)
            await barnacle.drain(grace=1)
        await a.hears()


# -- asked in other ways ---------------------------------------------------------------------------


async def test_one_round_waits_for_all(port: int) -> None:
    slow: dict[str, Any] = {"interval": (0.8, 0.8), "expire_after": 5.0}
    # libcluster's do not answer newcomers; these are as slow as the slowest of them
    async with talking(quick(port, **slow), B), trio.open_nursery() as nursery:
        packet = EncryptedWire(SECRET.encode()).encode("heartbeat", NodeName(C))

        async def say_late() -> None:
            await trio.sleep(0.6)
            throw(port, packet)

        nursery.start_soon(say_late)
        transport = FakeTransport(A, reachable=[B, C])
        result = await run_once(quick(port, **slow), transport)
    assert result.nodes == {B, C}
    assert result.discovery_error is None


@pytest.mark.parametrize("served", [False, True])
async def test_a_mere_question_is_not_heard_by_anybody(served: bool, port: int) -> None:
    asker = quick(port)
    async with all_talking(port, [A, B]) as (a, b), trio.open_nursery() as nursery:
        if served:
            serve = partial(asker.serve, NodeName(C), changed=asked_by_nobody)
            await nursery.start(serve)
        assert await asker(NodeName(C)) == {A, B}
        await a.hears(B)
        await b.hears(A)
        nursery.cancel_scope.cancel()


async def test_a_question_without_the_time_is_answered_in_part(port: int) -> None:
    async with talking(quick(port), A):
        with trio.fail_after(1), pytest.raises(DiscoveryError) as caught:
            await quick(port, interval=(1.0, 60.0), expire_after=99.0)(NodeName(B))
        assert caught.value.partial == frozenset({A})


async def test_it_keeps_to_what_a_barnacle_relies_on(port: int) -> None:
    async with talking(quick(port), A):
        answer = await check_strategy(quick(port), B)
        assert answer.nodes == {A}
        answer = await check_strategy(merge(quick(port), fallback(quick(port))), B)
        assert answer.nodes == {A}


async def test_it_is_told_once_when_discovery_is_partial_and_when_not(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="barnacle_trio")
    recorder, slow = EventRecorder(), {"interval": (0.5, 0.5), "expire_after": 2.0}
    transport = FakeTransport(B, reachable=[A])
    async with (
        talking(quick(port, **slow), A),
        open_barnacle(
            quick(port, **slow), transport, poll_interval=0.1, listener=recorder.send
        ) as barnacle,
    ):
        await barnacle.wait_for_nodes(1)
        await recorder.wait_for(Refreshed, lambda event: not event.result.discovery_error)
        rounds = barnacle.status().refreshes
        await until(lambda: barnacle.status().refreshes >= rounds + 5)
    told = [each.getMessage() for each in caplog.records if "discovery" in each.getMessage()]
    assert len(told) == 2
    assert "discovery is partial" in told[0]
    assert "discovery is complete" in told[1], "it had not failed"


# -- troubles --------------------------------------------------------------------------------------


async def test_a_port_that_is_taken_is_waited_for(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as selfish:
        selfish.bind(("", port))
        async with talking(quick(port), A) as a, talking(quick(port), B):
            assert "Address already in use" in (await a.fails()).reason
            with pytest.raises(DiscoveryError, match="Address already in use"):
                await quick(port)(NodeName(C))
            changes = a.changes
            selfish.close()
            await a.hears(B)
            assert a.changes > changes


async def test_an_interface_that_is_not_there_is_waited_for(port: int) -> None:
    async with talking(quick(port, interface="nowhere0"), A) as a:
        assert "there is no interface nowhere0" in (await a.fails()).reason


async def test_a_network_that_swallows_packets_is_noticed(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket of which the system says nothing bad, and whose packets nobody gets."""
    async with all_talking(port, [A, B]) as (a, b):
        await a.hears(B)
        with monkeypatch.context() as patch:
            nowhere = property(lambda _group: (LOOPBACK, 9))
            patch.setattr(Group, "destination", nowhere)
            for each in (a, b):
                assert "this node does not even hear itself" in (await each.fails()).reason
        await a.hears(B)
        await b.hears(A)


# -- strangers -------------------------------------------------------------------------------------


def hostile() -> list[bytes]:
    """What a barnacle with a secret must not believe."""
    me = NodeName("evil@127.0.0.1")
    return [
        b"",
        b"heartbeat::",
        b"heartbeat::garbage",
        PlainWire().encode("heartbeat", me),
        PlainWire().encode("goodbye", NodeName(B)),
        EncryptedWire(b"another").encode("heartbeat", me),
        SealedWire(b"another secret of theirs").encode("goodbye", NodeName(B)),
        bytes(65_000),
        b"\x83" + b"l\x00\x00\x00\x01" * 200,
    ]


async def test_strangers_are_ignored_and_told_of_once(
    mode: dict[str, Any], port: int, caplog: pytest.LogCaptureFixture
) -> None:
    if "insecure" in mode:
        mode = {**mode, "match": "[abc]@*"}
    async with all_talking(port, [A, B], **mode) as (a, b):
        await a.hears(B)
        believed = 1 if "insecure" in mode else 0  # a goodbye from B's own address
        for _ in range(10):
            enough = sum(a.ignored.values()) + len(hostile()) - believed
            throw(port, *hostile())
            await a.ignores(enough)
        await a.hears(B)
        await b.hears(A)
    told = [record.getMessage() for record in caplog.records if "ignored" in record.message]
    assert len(told) == 2  # one of each node
    assert told[0].startswith(f"gossip with 233.252.1.32:{port} on 127.0.0.1: a packet from")
    assert SECRET not in caplog.text


async def test_a_replayed_goodbye_is_ignored(port: int) -> None:
    options: dict[str, Any] = {"wire": "sealed", "expire_after": 1000.0}
    recorded: list[bytes] = []
    group = socket.inet_aton("233.252.1.32") + socket.inet_aton(LOOPBACK)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as spy:
        spy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        spy.bind(("", port))
        spy.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        spy.setblocking(False)
        async with talking(quick(port, **options), A) as a:
            async with talking(quick(port, **options), B) as b:
                await a.hears(B)
                await b.strategy.leave(b.name)
            await a.hears()
            while True:
                try:
                    recorded.append(spy.recv(2000))
                except BlockingIOError:
                    break
            assert len(recorded) > 3
            async with talking(quick(port, **options), B) as b:
                await a.hears(B)
                throw(port, *recorded)
                await until(lambda: a.ignored.get("it was heard before", 0) >= len(recorded))
                await a.hears(B)


async def test_a_flood_leaves_room_for_others(port: int) -> None:
    """10^5 packets that name as many strangers: nobody waits, few are named, nobody is missed."""
    wire = PlainWire()
    flood = [wire.encode("heartbeat", NodeName(f"x{number}@10.9.9.9")) for number in range(1000)]
    async with all_talking(port, [A, B], **{**PLAIN, "expire_after": 1000.0}) as (a, b):
        await a.hears(B)
        for _ in range(100):
            throw(port, *flood)
            with trio.fail_after(5):
                await trio.lowlevel.checkpoint()
        with pytest.raises(DiscoveryError, match="more is said than is taken in") as caught:
            await a.ask()
        answer = caught.value.partial
        assert answer is not None
        assert B in answer
        assert len(answer) < 200
        assert a.ignored["too many new names come at once (max_new_names)"]
        assert b.ignored["too many packets come at once"]


# -- sockets ---------------------------------------------------------------------------------------


async def test_what_was_sent_to_this_host_alone_is_not_heard(port: int) -> None:
    packet = PlainWire().encode("heartbeat", NodeName(B))
    async with talking(quick(port, **PLAIN), A) as a:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(packet, (LOOPBACK, port))
        await trio.sleep(0.2)
        await a.hears()
        throw(port, packet)
        await a.hears(B)


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("192.0.2.1", False),
        ("2001:db8::1", False),
        ("fe80::1%1", False),
        ("fe80::1%x", False),
        ("nonsense", False),
    ],
)
def test_addresses_of_this_host_are_known(address: str, here: bool) -> None:
    assert is_here(address) == here


async def test_nothing_is_left_open(port: int) -> None:
    talkers: list[Talker] = []
    before = trio.lowlevel.current_statistics().tasks_living
    for _ in range(3):
        async with talking(quick(port), A) as a:
            talkers.append(a)
            await a.hears()
    assert trio.lowlevel.current_statistics().tasks_living == before
    assert not talkers[0].strategy._of(NodeName(A))


# -- the command line ------------------------------------------------------------------------------


async def test_the_command_asks_and_is_not_heard(port: int) -> None:
    word = f"gossip:interface={LOOPBACK},port={port}"
    async with talking(quick(port), A) as a:
        with trio.fail_after(30):
            done = await trio.run_process(
                [sys.executable, "-W", "error", "-m", "barnacle_trio", "discover", word],
                env={**os.environ, "BARNACLE_GOSSIP_SECRET": SECRET},
                capture_stdout=True,
            )
        assert done.stdout.decode().split() == [A]
        await a.hears()
        assert not a.ignored
