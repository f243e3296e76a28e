"""Addresses of our port mapper, and its successors."""

from __future__ import annotations

import socket
import struct
from functools import partial
from typing import NoReturn

import pytest
import trio

from barnacle_trio._errors import RemoteProtocolError
from barnacle_trio.epmd import _clients, _server, serve_epmd
from barnacle_trio.epmd._estate import Estate
from tests.epmd_lab import PATIENCE, alive, ask, connect, framed, read_all
from tests.epmd_requests import register, until_free
from tests.ports import free_port


@pytest.fixture
async def port(nursery: trio.Nursery) -> int:
    served: int = await nursery.start(partial(serve_epmd, port=free_port()))
    return served


async def test_loopback_is_served_in_both_families_and_other_addresses_on_demand(
    nursery: trio.Nursery,
) -> None:
    server = _server.EpmdServer(0)
    nursery.start_soon(server.run)
    port = server.port
    assert server.addresses == {"127.0.0.1", "::1"}
    with pytest.raises(OSError, match="connect"):
        await trio.open_tcp_stream("127.0.0.2", port)
    server.listen("127.0.0.2")
    server.listen("127.0.0.2")
    assert await ask(port, framed(b"n"), host="127.0.0.2") == struct.pack(">I", port)
    server.listen("0.0.0.0")  # noqa: S104
    server.listen("127.0.0.3")
    assert server.addresses == {"0.0.0.0", "::1"}  # noqa: S104
    for host in ("127.0.0.1", "127.0.0.2", "127.0.0.3", "::1"):
        assert await ask(port, framed(b"n"), host=host) == struct.pack(">I", port)


async def test_names_and_waiting_connections_outlast_a_change_to_the_wildcard(
    nursery: trio.Nursery,
) -> None:
    server = _server.EpmdServer(0)
    nursery.start_soon(server.run)
    port = server.port
    holder, _answer = await register(port, alive(b"kept"))
    async with holder:
        with socket.create_connection(("127.0.0.1", port)) as waiting:
            server.listen("0.0.0.0")  # noqa: S104  # before the server could accept
            waiting.setblocking(False)
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(waiting))
            await stream.send_all(framed(b"zkept"))
            assert (await read_all(stream)).startswith(b"w\0")


async def test_a_second_server_on_the_port_is_refused(port: int) -> None:
    with pytest.raises(OSError, match="in use"):
        await serve_epmd(port=port)


async def test_a_successor_goes_on_with_every_name_and_every_waiting_connection(
    nursery: trio.Nursery,
) -> None:
    old = _server.EpmdServer(0)
    nursery.start_soon(old.run)
    port = old.port
    kept, answer = await register(port, alive(b"kept", extra=b"more"))
    ended, _answer = await register(port, alive(b"ended"))
    late, _answer = await register(port, alive(b"late"))
    await ended.aclose()
    async with kept, late:
        estate = await old.hand_over()
        waiting = await connect(port)
        await waiting.send_all(framed(b"zkept"))
        new = _server.EpmdServer(port, estate=estate)
        async with trio.open_nursery() as successor:
            successor.start_soon(new.run)
            assert (await read_all(waiting)).endswith(b"kept\0\4more")
            assert [each.name for each in new.entries] == ["late", "kept"]
            stream, again = await register(port, alive(b"third"))
            assert int.from_bytes(again[2:]) > int.from_bytes(answer[2:])
            await stream.aclose()
            await late.aclose()
            await until_free(port, b"late")
            successor.cancel_scope.cancel()
        await waiting.aclose()


async def test_a_move_waits_for_a_request_under_way_and_takes_its_name_along(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_server, "_QUIET", PATIENCE)
    server = _server.EpmdServer(0)
    nursery.start_soon(server.run)
    estates: list[Estate] = []

    async def move() -> None:
        estates.append(await server.hand_over())

    request = framed(alive(b"slow"))
    stream = await connect(server.port)
    async with stream:
        await stream.send_all(request[:5])
        with trio.fail_after(PATIENCE):
            while not server._clients._pending:
                await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as moving:
            moving.start_soon(move)
            await trio.testing.wait_all_tasks_blocked()
            assert not estates
            await stream.send_all(request[5:])
        assert [entry.name for entry, _sock in estates[0].names] == ["slow"]
        estates[0].close()


async def test_a_move_does_not_wait_for_long(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_server, "_QUIET", 0.01)
    server = _server.EpmdServer(0)
    nursery.start_soon(server.run)
    async with await connect(server.port):
        with trio.fail_after(PATIENCE):
            while not server._clients._pending:
                await trio.lowlevel.checkpoint()
            estate = await server.hand_over()
        assert server._clients._pending
        assert not estate.names
        estate.close()


async def test_an_interrupt_of_the_program_does_not_hit_the_server(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would end the server before its node can hand it over."""
    protected = []

    def check(*_arguments: object) -> NoReturn:
        protected.append(trio.lowlevel.currently_ki_protected())
        raise RemoteProtocolError("that will do")

    server = _server.EpmdServer(0)
    nursery.start_soon(server.run)
    monkeypatch.setattr(_clients, "parse_request", check)
    assert await ask(server.port, framed(b"n")) == b""
    assert protected == [True]
