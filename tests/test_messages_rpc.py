"""Calls of functions on real BEAM nodes."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from barnacle_trio import Node, open_node
from barnacle_trio._errors import PeerUnreachable, ProcessDown, RemoteError
from barnacle_trio.etf import Atom, EncodeError, Pid
from tests.beam import COOKIE, Beam, open_beam, unique
from tests.erlang import Erlang

pytestmark = pytest.mark.usefixtures("epmd_port")

# The processes that calls of ours run in.
CALLS = "[P || P <- processes(), {_, {erpc, execute_call, 4}} <- [process_info(P, initial_call)]]"


@asynccontextmanager
async def nodes(erlang: Erlang) -> AsyncIterator[tuple[Node, Beam]]:
    async with open_node(unique("py"), cookie=COOKIE) as node, open_beam(erlang) as beam:
        yield node, beam
        assert len(node._calls) == 0, "nothing of a call is left behind"


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    with trio.fail_after(10):
        while not await condition():  # noqa: ASYNC110 - another process cannot wake us
            await trio.sleep(0.01)


async def calls_there(beam: Beam, count: int) -> None:
    async def so_many() -> bool:
        return await beam.eval(f"length({CALLS})") == str(count)

    await until(so_many)


async def test_values_come_back_and_the_node_is_dialled(erlang: Erlang) -> None:
    async with nodes(erlang) as (node, beam):
        assert await node.rpc(beam.name, "erlang", "node") is Atom(beam.name)
        assert node.nodes.value == {beam.name}
        assert await node.rpc(beam.name, Atom("lists"), Atom("seq"), 1, 5) == [1, 2, 3, 4, 5]
        assert isinstance(await node.rpc(beam.name, "erlang", "self"), Pid)
        big = bytes(range(256)) * 8192
        assert await node.rpc(beam.name, "erlang", "hd", [big]) == big
        assert await node.rpc(beam.name, "erlang", "hd", [None]) is None


RAISED: dict[str, tuple[tuple[Any, ...], str, Any]] = {
    "error": (("erlang", "error", Atom("why")), "error", Atom("why")),
    "an error with a term": (("erlang", "error", (1, b"x")), "error", (1, b"x")),
    "throw": (("erlang", "throw", [1, 2]), "throw", [1, 2]),
    "exit": (("erlang", "exit", Atom("normal")), "exit", Atom("normal")),
    "badarg of the function": (("erlang", "atom_to_list", 1), "error", Atom("badarg")),
    "no such function": (("lists", "nothing", 1), "error", Atom("undef")),
    "no such module": (("Elixir.Nothing", "at_all"), "error", Atom("undef")),
    "badarith": (("erlang", "div", 1, 0), "error", Atom("badarith")),
    "badmatch": (("gen_server", "call", Atom("nobody"), 1), "exit", None),
}


async def test_what_remote_code_raises_is_raised_here(erlang: Erlang) -> None:
    async with nodes(erlang) as (node, beam):
        for what, (call, kind, reason) in RAISED.items():
            with pytest.raises(RemoteError) as caught:
                await node.rpc(beam.name, *call)
            assert caught.value.kind == kind, what
            assert reason is None or caught.value.reason == reason, what
        with pytest.raises(RemoteError) as caught:
            await node.rpc(beam.name, "lists", "nothing", 1)
        match caught.value.stack:
            case [(Atom("lists"), Atom("nothing"), *_), *_]:
                pass
            case stack:
                raise AssertionError(stack)


async def test_a_term_without_encoding_fails_its_caller_alone(erlang: Erlang) -> None:
    async with nodes(erlang) as (node, beam):
        with pytest.raises(EncodeError):
            await node.rpc(beam.name, "erlang", "hd", [object()])
        assert await node.rpc(beam.name, "erlang", "hd", [1]) == 1


async def test_a_node_that_is_not_there(erlang: Erlang) -> None:
    async with nodes(erlang) as (node, _):
        with pytest.raises(PeerUnreachable):
            await node.rpc(unique("nobody"), "erlang", "node")


PRINTED: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "format": (("io", "format", b"~s is ~p~n", [b"six", 6]), Atom("ok"), "'six is 6'"),
    "format of a charlist": (("io", "format", list(b"plain~n")), Atom("ok"), "'plain'"),
    "put_chars": (("io", "put_chars", "gr\u00fc\u00df".encode()), Atom("ok"), r"'gr\xfc\xdf'"),
    "put_chars of a list": (("io", "put_chars", [b"a", [98, [b"c"]]]), Atom("ok"), "'abc'"),
    "latin1": (("file", "write", Atom("standard_io"), b"\xfc"), Atom("ok"), r"'\xfc'"),
    "write": (("io", "write", (1, 2)), Atom("ok"), "'(1, 2)'"),
    "nl": (("io", "nl"), Atom("ok"), ""),
    "get_line": (("io", "get_line", b"name? "), Atom("eof"), ""),
    "get_chars": (("io", "get_chars", b"", 3), Atom("eof"), ""),
    "read": (("io", "read", b""), Atom("eof"), ""),
    "fread": (("io", "fread", b"", list(b"~d")), Atom("eof"), ""),
    "setopts": (("io", "setopts", [Atom("binary")]), Atom("ok"), ""),
    "getopts": (
        ("io", "getopts"),
        [(Atom("binary"), True), (Atom("encoding"), Atom("unicode"))],
        "",
    ),
    "columns": (("io", "columns"), (Atom("error"), Atom("enotsup")), ""),
    "password": (("io", "get_password", Atom("standard_io")), Atom("eof"), ""),
    "an unknown request": (
        ("io", "request", Atom("standard_io"), Atom("dance")),
        (Atom("error"), Atom("request")),
        "",
    ),
    "requests": (
        (
            "io",
            "requests",
            [
                (Atom("put_chars"), Atom("unicode"), b"one "),
                (Atom("format"), b"~w", [2]),
                Atom("nl"),
            ],
        ),
        Atom("ok"),
        "'one 2'",
    ),
}


async def test_code_that_prints_or_reads_does_not_hang(
    erlang: Erlang, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "barnacle_trio.io")
    async with nodes(erlang) as (node, beam):
        await node.connect(beam.name)
        for what, (call, value, printed) in PRINTED.items():
            caplog.clear()
            with trio.fail_after(3):
                assert await node.rpc(beam.name, *call) == value, what
            lines = [r.getMessage() for r in caplog.records if r.name == "barnacle_trio.io"]
            assert lines == ([f"[{beam.name}] {printed}"] if printed else []), what


async def test_a_killed_call_is_down(erlang: Erlang) -> None:
    async with nodes(erlang) as (node, beam), trio.open_nursery() as nursery:

        async def call() -> None:
            with pytest.raises(ProcessDown) as caught:
                await node.rpc(beam.name, "timer", "sleep", Atom("infinity"))
            assert caught.value.reason is Atom("killed")

        nursery.start_soon(call)
        await calls_there(beam, 1)
        await beam.eval(f"[exit(P, kill) || P <- {CALLS}]")


@pytest.mark.parametrize("how", ["kill", "disconnect"])
async def test_a_call_is_down_when_the_connection_is_lost(erlang: Erlang, how: str) -> None:
    async with nodes(erlang) as (node, beam), trio.open_nursery() as nursery:

        async def call() -> None:
            with pytest.raises(ProcessDown) as caught:
                await node.rpc(beam.name, "timer", "sleep", Atom("infinity"))
            assert caught.value.reason is Atom("noconnection")

        with trio.fail_after(5):
            nursery.start_soon(call)
            await calls_there(beam, 1)
            if how == "kill":
                await beam.kill()
            else:
                await node.disconnect(beam.name)


async def test_a_cancelled_call_is_killed_there(erlang: Erlang) -> None:
    async with nodes(erlang) as (node, beam):
        await node.connect(beam.name)
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(node.rpc, beam.name, "timer", "sleep", Atom("infinity"))
            await calls_there(beam, 10)
            nursery.cancel_scope.cancel()
        await calls_there(beam, 0)


async def test_a_call_cancelled_at_once_is_killed_there(erlang: Erlang) -> None:
    async with nodes(erlang) as (node, beam):
        await node.connect(beam.name)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.rpc, beam.name, "timer", "sleep", Atom("infinity"))
            await trio.testing.wait_all_tasks_blocked()  # on its way, and not answered yet
            nursery.cancel_scope.cancel()
        assert await node.rpc(beam.name, "erlang", "hd", [1]) == 1
        await calls_there(beam, 0)


async def test_a_hundred_calls_at_once(erlang: Erlang) -> None:
    async with nodes(erlang) as (node, beam):
        await node.connect(beam.name)
        got: list[int] = []

        async def call(number: int) -> None:
            assert await node.rpc(beam.name, "timer", "sleep", number % 7) is Atom("ok")
            got.append(await node.rpc(beam.name, "erlang", "abs", -number))

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                for number in range(100):
                    nursery.start_soon(call, number)
        assert sorted(got) == list(range(100))
