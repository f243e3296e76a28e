"""Asking port mappers, most of them hostile (the numbers are those of the list of such inputs)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeAlias

import pytest
import trio
from trio.testing import MockClock

from barnacle_trio import _errors
from barnacle_trio._names import NodeName
from barnacle_trio.epmd import (
    Epmd,
    PortEntry,
    _client,
    lookup,
    names,
    open_registration,
    serve_epmd,
)
from barnacle_trio.epmd import _wire as wire
from tests.epmd_lab import PATIENCE, real_epmd
from tests.ports import free_port

Script: TypeAlias = Callable[[trio.SocketStream], Awaitable[None]]

ENTRY = PortEntry(name="a", port=1234)
FOUND = wire.encode_port_answer(ENTRY)


async def scripted(nursery: trio.Nursery, script: Script, host: str = "127.0.0.1") -> int:
    """A port mapper that reads the request and then does as told."""

    async def handle(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        with suppress(trio.BrokenResourceError):  # the client had enough
            await script(stream)

    listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host=host))
    port: int = listeners[0].socket.getsockname()[1]
    return port


async def mute(_stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def answering(nursery: trio.Nursery, answer: bytes) -> int:
    return await scripted(nursery, lambda stream: stream.send_all(answer))


async def register(port: int) -> None:
    async with open_registration("a", 1234, host="127.0.0.1", port=port):
        pytest.fail("this cannot be registered with")


QUERIES: list[Callable[[int], Awaitable[object]]] = [
    lambda port: names("127.0.0.1", port),
    lambda port: lookup("a", "127.0.0.1", port),
    register,
]
each_query = pytest.mark.parametrize("query", QUERIES, ids=["names", "lookup", "registration"])


# --- port mappers that are well ------------------------------------------------------------------


async def test_otps_epmd_is_asked_and_registered_with() -> None:
    port = free_port()
    async with real_epmd(port):
        for host in ("127.0.0.1", "::1", "localhost"):
            async with open_registration("a", 1234, host=host, port=port) as registration:
                assert registration.creation >= 4
                assert await names(host, port) == {"a": 1234}
                assert await lookup("a", host, port) == ENTRY
                assert await lookup("b", host, port) is None
                with pytest.raises(_errors.NameTakenError):
                    await register(port)
            with trio.fail_after(PATIENCE):
                while await names(host, port):
                    await trio.lowlevel.checkpoint()


async def test_what_was_registered_is_told(nursery: trio.Nursery) -> None:
    port: int = await nursery.start(partial(serve_epmd, port=0))
    async with open_registration("a", 99, port=port, hidden=True, extra=b"more"):
        entry = await lookup("a", "127.0.0.1", port)
        assert entry == PortEntry(name="a", port=99, node_type=72, extra=b"more")
        assert entry is not None
        assert entry.hidden


async def test_a_lost_registration_is_noticed(nursery: trio.Nursery) -> None:
    async with trio.open_nursery() as serving:
        port: int = await serving.start(partial(serve_epmd, port=0))
        async with open_registration("a", 99, port=port) as registration:
            with trio.move_on_after(0.02):
                await registration.wait_lost()
                pytest.fail("it stands")
            serving.cancel_scope.cancel()
            with trio.CancelScope(shield=True), trio.fail_after(PATIENCE):
                await registration.wait_lost()


async def test_localhost_is_both_families(nursery: trio.Nursery) -> None:
    port = await answering(nursery, bytes(4) + b"name six at port 6\n")
    assert await names("localhost", port) == {"six": 6}
    six = await scripted(nursery, lambda stream: stream.send_all(b"w\1"), host="::1")
    assert await lookup("a", "localhost", six) is None


async def test_the_usual_port_comes_from_the_environment(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ERL_EPMD_PORT", raising=False)
    assert _client.mapper_port() == 4369
    monkeypatch.setenv("ERL_EPMD_PORT", str(await answering(nursery, bytes(4))))
    assert await names() == {}
    for wrong in ("", "x", "0", "65536", "-1", "4369 ", "\u0661", "9" * 5000):
        monkeypatch.setenv("ERL_EPMD_PORT", wrong)
        with pytest.raises(_errors.ConfigurationError, match="ERL_EPMD_PORT must be"):
            await names()


@pytest.mark.parametrize("basename", ["", "a@b", "a b", "a\0", "n" * 256, "a\n", "\udcff"])
async def test_only_base_names_are_asked_for(basename: str) -> None:
    with pytest.raises(_errors.ConfigurationError, match="before the '@'"):
        await lookup(basename, "127.0.0.1")
    with pytest.raises(_errors.ConfigurationError, match="before the '@'"):
        async with open_registration(basename, 1234):
            pytest.fail("this is no name")


@pytest.mark.parametrize("port", [0, -1, 65536])
async def test_a_node_listens_on_a_port(port: int) -> None:
    with pytest.raises(_errors.ConfigurationError, match="cannot listen"):
        async with open_registration("a", port):
            pytest.fail("this is no port")


# --- hostile ones --------------------------------------------------------------------------------


@each_query
async def test_nobody_there(query: Callable[[int], Awaitable[object]]) -> None:
    with pytest.raises(_errors.PeerUnreachable, match="no port mapper answers at") as caught:
        await query(free_port())
    assert isinstance(caught.value.__cause__, OSError)


@each_query
async def test_1_one_that_never_answers_costs_5_seconds(
    query: Callable[[int], Awaitable[object]], autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    port = await scripted(nursery, mute)
    began = trio.current_time()
    with pytest.raises(_errors.PeerUnreachable, match="did not answer within 5 s") as caught:
        await query(port)
    assert trio.current_time() - began == pytest.approx(5.0, abs=0.1)
    assert isinstance(caught.value.__cause__, trio.TooSlowError)


@pytest.mark.parametrize("query", QUERIES[:2], ids=["names", "lookup"])
async def test_2_a_drip_costs_5_seconds_too(
    query: Callable[[int], Awaitable[object]], autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async def drip(stream: trio.SocketStream) -> None:
        for _ in range(1000):
            await stream.send_all(b"\0")
            await trio.sleep(1)

    port = await scripted(nursery, drip)
    began = trio.current_time()
    with pytest.raises(_errors.PeerUnreachable, match="did not answer"):
        await query(port)
    assert trio.current_time() - began == pytest.approx(5.0, abs=0.1)


@each_query
async def test_3_one_that_closes_at_once(
    query: Callable[[int], Awaitable[object]], nursery: trio.Nursery
) -> None:
    with pytest.raises(_errors.PeerUnreachable, match="closed without an answer"):
        await query(await answering(nursery, b""))


@each_query
async def test_3_one_that_resets(
    query: Callable[[int], Awaitable[object]], nursery: trio.Nursery
) -> None:
    async def reset(stream: trio.SocketStream) -> None:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await trio.aclose_forcefully(stream)

    with pytest.raises(_errors.PeerUnreachable, match="broke the connection"):
        await query(await scripted(nursery, reset))


async def test_4_another_result_means_that_the_name_is_unknown(nursery: trio.Nursery) -> None:
    port = await answering(nursery, b"w\x63")
    assert await lookup("a", "127.0.0.1", port) is None
    with pytest.raises(_errors.PeerUnreachable, match="not registered"):
        await Epmd(port=port).lookup(NodeName("a@127.0.0.1"))


@pytest.mark.parametrize(
    "answer",
    [
        FOUND[:-1],
        FOUND[:1],
        b"w\0" + struct.pack(">HBBHHH", 1, 77, 0, 6, 5, 0xFFFF) + b"abc",
        wire.encode_port_answer(PortEntry(name="b", port=1234)),
        wire.encode_port_answer(PortEntry(name="a", port=0)),
        wire.encode_port_answer(PortEntry(name="a", port=1, highest=4, lowest=5)),
        FOUND[:-2] + b"\xff\xff",
        FOUND + bytes(10_000),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
    ids=[
        "5 truncated",
        "5 one byte",
        "6 lying name length",
        "7 another name",
        "8 port 0",
        "9 versions",
        "10 lying extra length",
        "too long",
        "17 http",
    ],
)
async def test_malformed_answers_to_lookups(answer: bytes, nursery: trio.Nursery) -> None:
    with pytest.raises(_errors.RemoteProtocolError):
        await lookup("a", "127.0.0.1", await answering(nursery, answer))


async def test_11_a_list_without_end_is_cut_at_its_bound(nursery: trio.Nursery) -> None:
    sent = 0

    async def flood(stream: trio.SocketStream) -> None:
        nonlocal sent
        for _ in range(1600):
            await stream.send_all(b"name a at port 1\n" * 4096)
            sent += 1
        pytest.fail("all of it was taken")

    with pytest.raises(_errors.RemoteProtocolError, match="more than 1048576 bytes"):
        await names("127.0.0.1", await scripted(nursery, flood))
    assert sent < 400


async def test_12_13_bad_names_are_left_out_and_told_by_their_number(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    lines = bytes(4) + b"name ok at port 1\nname \x1b[2J at port 2\nname a@b at port 3\nname c"
    port = await answering(nursery, lines)
    assert await names("127.0.0.1", port) == {"ok": 1}
    assert "lists 3 names that were left out" in caplog.text
    assert "\x1b" not in caplog.text
    answer = await _client.ask_names("127.0.0.1", port)
    assert answer == wire.NamesAnswer({"ok": 1}, 3)


async def test_14_a_refused_registration_is_a_taken_name(nursery: trio.Nursery) -> None:
    for answer in ("760100000063", "79010063"):
        with pytest.raises(_errors.NameTakenError, match="'a' is taken"):
            await register(await answering(nursery, bytes.fromhex(answer)))


@pytest.mark.parametrize("answer", ["760000000000", "79000000", "79000003"])
async def test_15_a_creation_that_tells_nothing_apart_is_replaced(
    answer: str, nursery: trio.Nursery
) -> None:
    async def old(stream: trio.SocketStream) -> None:
        await stream.send_all(bytes.fromhex(answer))
        await trio.sleep_forever()

    creations = set()
    for _ in range(3):
        async with trio.open_nursery() as node:
            mapper = Epmd(port=await scripted(nursery, old))
            serve = partial(
                mapper.serve_registration,
                NodeName("a@127.0.0.1"),
                port=1234,
                hidden=False,
                addresses=[],
            )
            creations.add(await node.start(serve))
            node.cancel_scope.cancel()
    assert len(creations) == 3
    assert all(4 <= creation < 2**32 for creation in creations)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400\r\n", b"v\0\0\0\0\0\0", b"w\1"])
async def test_malformed_answers_to_registrations(answer: bytes, nursery: trio.Nursery) -> None:
    with pytest.raises(_errors.RemoteProtocolError):
        await register(await answering(nursery, answer))


async def test_an_answer_in_pieces_is_put_together(nursery: trio.Nursery) -> None:
    async def pieces(stream: trio.SocketStream) -> None:
        for byte in b"v\0\0\0\x10\0":
            await stream.send_all(bytes((byte,)))
            await trio.lowlevel.checkpoint()
        await trio.sleep_forever()

    port = await scripted(nursery, pieces)
    async with open_registration("a", 1234, port=port) as registration:
        assert registration.creation == 0x1000


@pytest.mark.parametrize(
    "host", ["", "a\0b", "a" * 70 + ".example", "no such host", "[::1]", "é\udcff"]
)
async def test_what_is_no_host_is_unreachable(host: str) -> None:
    class NoNames(trio.abc.HostnameResolver):
        async def getaddrinfo(self, *_args: object) -> list[object]:  # type: ignore[override]
            await trio.lowlevel.checkpoint()
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        async def getnameinfo(self, *_args: object) -> tuple[str, str]:
            raise NotImplementedError

    trio.socket.set_custom_hostname_resolver(NoNames())
    with pytest.raises(_errors.PeerUnreachable):
        await names(host, free_port())


async def test_a_socket_connected_to_itself_is_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()

    async def to_itself(host: str, port: int) -> trio.SocketStream:
        sock = trio.socket.socket()
        await sock.bind((host, port))
        await sock.connect((host, port))
        return trio.SocketStream(sock)

    monkeypatch.setattr(trio, "open_tcp_stream", to_itself)
    with pytest.raises(_errors.PeerUnreachable, match="nobody listens there"):
        await names("127.0.0.1", port)


@each_query
async def test_a_cancelled_query_closes_its_socket(
    query: Callable[[int], Awaitable[object]], nursery: trio.Nursery
) -> None:
    asked, closed = trio.Event(), trio.Event()

    async def watch(stream: trio.SocketStream) -> None:
        asked.set()
        assert await stream.receive_some() == b""
        closed.set()

    port = await scripted(nursery, watch)
    async with trio.open_nursery() as asking:
        asking.start_soon(query, port)
        await asked.wait()
        asking.cancel_scope.cancel()
    with trio.fail_after(PATIENCE):
        await closed.wait()


async def test_a_deadline_of_the_callers_stays_the_callers(nursery: trio.Nursery) -> None:
    port = await scripted(nursery, mute)
    with pytest.raises(trio.TooSlowError), trio.fail_after(0.02):
        await names("127.0.0.1", port)
