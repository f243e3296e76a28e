"""What strangers may send to a node's port, and what peers may send once they are let in."""

from __future__ import annotations

import gc
import logging
import struct
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio

from barnacle_trio._errors import HandshakeRefused, RemoteProtocolError
from barnacle_trio.distribution import _acceptor, open_node
from barnacle_trio.distribution._control import exit2, reg_send
from barnacle_trio.distribution._flags import OUR_FLAGS
from barnacle_trio.distribution._frames import TICK, frame
from barnacle_trio.epmd import FixedPort, open_registration
from barnacle_trio.etf import Atom, Pid, encode
from tests.beam import COOKIE, unique
from tests.intruder import drained, intrude, message, name_message, reachable_node

pytestmark = pytest.mark.usefixtures("epmd_port")

HANDSHAKE_TIMEOUT = _acceptor.HANDSHAKE_TIMEOUT


GARBAGE = {
    "zero length": b"\x00\x00",
    "oversized": b"\xff\xff" + b"x" * 100,
    "http": b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
    "tls": bytes.fromhex("16030100a5010000a10303") + bytes(160),
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "old handshake": message(b"n\x00\x05\x00\x00\x00\x00old@127.0.0.1"),
    "no name": name_message(b""),
    "no at sign": name_message(b"nobody"),
    "control characters": name_message(b"no\nbody@127.0.0.1"),
    "bidi": name_message("no\u202ebody@127.0.0.1".encode()),
    "long name": name_message(b"x" * 300 + b"@127.0.0.1"),
    "no flags": name_message(b"flagless@127.0.0.1", 0),
    "name length lies": message(struct.pack(">cQIH", b"N", int(OUR_FLAGS), 7, 999) + b"a@b"),
    "out of order": message(b"r" + bytes(20)),
    "ack first": message(b"a" + bytes(16)),
    "a frame": frame(b"\x70\x83h\x01a\x01"),
}


@pytest.mark.parametrize("what", GARBAGE)
async def test_33_to_49_garbage_instead_of_a_handshake_closes_that_alone(
    what: str,
) -> None:
    async with reachable_node() as (node, port):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(GARBAGE[what])
        with trio.fail_after(2):
            answer = await drained(stream)
        assert answer in (b"", message(b"snot_allowed"))
        await stream.aclose()
        async with open_node(unique("peer"), cookie=COOKIE) as peer:
            await peer.connect(node.name)


async def test_37_our_own_name_is_refused() -> None:
    async with reachable_node() as (node, port):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(name_message(node.name.encode()))
        with trio.fail_after(2):
            assert await drained(stream) == message(b"snok")
        await stream.aclose()


async def test_30_31_silent_and_slow_strangers_are_closed_within_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_acceptor, "HANDSHAKE_TIMEOUT", 1.0)
    closed: list[float] = []

    async def silent(port: int) -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await drained(stream)
        closed.append(trio.current_time())
        await stream.aclose()

    async def drip(port: int) -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        try:
            for byte in name_message(b"slow@127.0.0.1") * 10:
                await stream.send_all(bytes([byte]))
                await trio.sleep(0.1)
        except trio.BrokenResourceError:
            closed.append(trio.current_time())
        await stream.aclose()

    async with reachable_node() as (node, port):
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(silent, port)
                nursery.start_soon(drip, port)
        assert len(closed) == 20
        assert max(closed) - started < 2.5
        assert node._doorkeeper.strangers == 0


async def test_32_two_thousand_half_open_handshakes_keep_nobody_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_acceptor, "HANDSHAKE_TIMEOUT", 2.0)
    async with reachable_node() as (node, port):
        strangers: list[trio.SocketStream] = []
        before = _resident()
        tasks = trio.lowlevel.current_statistics().tasks_living

        async def hold(number: int) -> None:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            strangers.append(stream)
            if number % 2:  # half of them say who they are, and no more
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(name_message(f"half{number}@127.0.0.1".encode()))

        for start in range(0, 2000, 5):
            async with trio.open_nursery() as batch:
                for number in range(start, start + 5):
                    batch.start_soon(hold, number)
        assert len(strangers) == 2000
        assert node._doorkeeper.strangers <= _acceptor.MAX_STRANGERS
        async with open_node(unique("peer"), cookie=COOKIE) as peer:
            with trio.fail_after(1):
                await peer.connect(node.name)
            assert _resident() - before < 64 * 1024 * 1024
            with trio.fail_after(8):
                for stream in strangers:
                    await drained(stream)  # it was closed
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert node._doorkeeper.strangers == 0
        assert trio.lowlevel.current_statistics().tasks_living <= tasks
        for stream in strangers:
            await trio.aclose_forcefully(stream)


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def test_memory_stays_flat_over_ten_thousand_hostile_connections(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL)
    kinds = list(GARBAGE.values())

    async def attack(port: int, number: int) -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        try:
            await stream.send_all(kinds[number % len(kinds)])
            if number % 3:
                await drained(stream)
        except trio.BrokenResourceError:
            pass
        await trio.aclose_forcefully(stream)

    async def wave(port: int, count: int) -> None:
        for start in range(0, count, 50):
            async with trio.open_nursery() as nursery:
                for number in range(start, start + 50):
                    nursery.start_soon(attack, port, number)

    async with reachable_node() as (node, port):
        await wave(port, 1000)
        before = _resident()
        tasks = trio.lowlevel.current_statistics().tasks_living
        await wave(port, 10_000)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert _resident() - before < 4 * 1024 * 1024
        assert trio.lowlevel.current_statistics().tasks_living <= tasks
        async with open_node(unique("peer"), cookie=COOKIE) as peer:
            await peer.connect(node.name)


PEER_PID = Pid(node=Atom("intruder@127.0.0.1"), id=1, serial=0, creation=7)
LETHAL = {
    "four gigabytes": b"\xff\xff\xff\xff" + b"x" * 50,
    "a distribution header": frame(b"\x83D\x00" + encode((1,))[1:]),
    "no control term": frame(b"\x70\x83\xff"),
    "wrong arity": frame(b"\x70" + encode((6, 1))),
    "wrong types": frame(b"\x70" + encode((19, 1, 2, 3))),
    "no payload": frame(b"\x70" + encode((6, PEER_PID, Atom(""), Atom("x")))),
    "nesting": frame(b"\x70\x83" + b"h\x01" * 1_000_000 + b"j"),
    "a list of four billion": frame(b"\x70\x83l\xff\xff\xff\xff"),
    "a compressed bomb": frame(b"\x70\x83P\xff\xff\xff\xff" + bytes(100)),
}
HARMLESS = {
    "ticks": TICK * 10_000,
    "an unknown control message": frame(b"\x70" + encode((99, 1, 2))),
    "a message to nobody": frame(reg_send(PEER_PID, Atom("nobody"), [1, 2, 3])),
    "an exit to nobody": frame(exit2(PEER_PID, PEER_PID, Atom("kill"))),
    "junk for global": frame(
        reg_send(PEER_PID, Atom("global_name_server"), (Atom("$gen_cast"), [1]))
    ),
    "a call with a strange tag": frame(
        reg_send(PEER_PID, Atom("net_kernel"), (Atom("$gen_call"), (PEER_PID, 1), Atom("x")))
    ),
}


@pytest.mark.parametrize("what", LETHAL)
async def test_58_to_74_what_the_protocol_forbids_closes_that_connection_alone(what: str) -> None:
    async with reachable_node() as (node, port), open_node(unique("good"), cookie=COOKIE) as good:
        await good.connect(node.name)
        await node.nodes.wait_value(frozenset({good.name}))
        stream = await intrude(port, "intruder@127.0.0.1")
        with trio.fail_after(5):
            with suppress(trio.BrokenResourceError):
                await stream.send_all(LETHAL[what])
            await drained(stream)
        await node.hidden_nodes.wait_value(frozenset())
        assert node.nodes.value == {good.name}
        assert await good.ping(node.name)
        await stream.aclose()


@pytest.mark.parametrize("what", HARMLESS)
async def test_63_to_68_what_makes_no_sense_is_ignored(what: str) -> None:
    async with reachable_node() as (node, port):
        stream = await intrude(port, "intruder@127.0.0.1")
        await stream.send_all(HARMLESS[what])
        async with open_node(unique("good"), cookie=COOKIE) as good:
            assert await good.ping(node.name)
        assert node.hidden_nodes.value == {"intruder@127.0.0.1"}
        await stream.aclose()


async def test_17_a_port_that_is_no_node_fails_that_dial_alone() -> None:
    async def web(stream: trio.SocketStream) -> None:
        await stream.receive_some(1000)
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, web, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        async with open_node(
            unique("py", "127.0.0.2"), cookie=COOKIE, epmd=FixedPort(port), listen=("127.0.0.2", 0)
        ) as node:
            with pytest.raises(RemoteProtocolError, match=r"announced.*HTTP"):
                await node.connect("web@127.0.0.1")
        nursery.cancel_scope.cancel()


async def _offered_challenge(port: int, name: str) -> tuple[trio.SocketStream, bytes]:
    """Dial the node under a name, and stop at the challenge that it issues."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(name_message(name.encode()))
    data = b""
    while len(data) < 7 or len(data) < 7 + int.from_bytes(data[5:7]):
        data += await stream.receive_some(1000)
    return stream, data[16:20]


@pytest.mark.parametrize("pending", [True, False], ids=["pending", "given up"])
async def test_43_a_challenge_of_our_own_is_never_answered(pending: bool) -> None:
    """The reflection attack: who does not know the cookie has the node answer its own challenge."""
    attacker = unique("attacker")
    answers: list[bytes] = []
    async with reachable_node() as (node, port), trio.open_nursery() as nursery:
        stream, challenge = await _offered_challenge(port, unique("first"))
        if not pending:
            await stream.aclose()

        async def reflect(dialled: trio.SocketStream) -> None:
            await dialled.receive_some(1000)
            name = attacker.encode()
            body = struct.pack(">cQ4sIH", b"N", int(OUR_FLAGS), challenge, 7, len(name)) + name
            await dialled.send_all(message(b"sok") + message(body))
            answers.append(await drained(dialled))

        listeners = await nursery.start(partial(trio.serve_tcp, reflect, 0, host="127.0.0.1"))
        attackers_port = listeners[0].socket.getsockname()[1]
        basename = attacker.partition("@")[0]
        async with open_registration(basename, attackers_port):
            with pytest.raises(HandshakeRefused, match="itself issued"):
                await node.connect(attacker)
        assert answers == [b""], "not a byte of an answer"
        nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(stream)
