"""Our port mapper beside OTP's, and when it moves."""

from __future__ import annotations

import struct
from contextlib import AsyncExitStack
from functools import partial

import pytest
import trio

from barnacle_trio.epmd import serve_epmd
from tests.epmd_lab import PATIENCE, alive, ask, connect, framed, open_beam, real_epmd
from tests.epmd_requests import register, until_free
from tests.erlang import ERLANGS, Erlang
from tests.ports import free_port

REQUESTS = {
    "found": framed(b"za"),
    "found, with a C terminator": framed(b"za\0"),
    "extra data": framed(b"zextra"),
    "old node": framed(b"zold"),
    "unknown": framed(b"znobody"),
    "whole name": framed(b"za@127.0.0.1"),
    "not utf-8": framed(b"z\xff"),
    "empty name": framed(b"z"),
    "long name": framed(b"z" + b"n" * 255),
    "too long name": framed(b"z" + b"n" * 256),
    "nul inside": framed(b"za\0b"),
    "names": framed(b"n"),
    "names and more": framed(b"nxx"),
    "kill": framed(b"k"),
    "stop": framed(b"sa"),
    "stop nobody": framed(b"snobody"),
    "stop nothing": framed(b"s"),
    "unknown request": framed(b"?"),
    "zero request": framed(b"\0"),
    "no request": b"\0\0",
    "two requests": framed(b"za") * 2,
    "too long request": framed(b"n" * 5000),
    "duplicate": framed(alive(b"a")),
    "old duplicate": framed(alive(b"a", highest=5)),
    "nameless": framed(alive(b"")),
    "nul registered": framed(alive(b"a\0b")),
    "too long registered": framed(alive(b"n" * 256)),
    "not utf-8 registered": framed(alive(b"\xff")),
    "cut off": framed(alive(b"cut")[:-1]),
    "lying name": framed(b"x" + struct.pack(">HBBHHH", 1, 77, 0, 6, 5, 50) + b"a\0\0"),
    "lying extra": framed(b"x" + struct.pack(">HBBHHH", 1, 77, 0, 6, 5, 1) + b"a\0\x50"),
}


@pytest.fixture
async def port(nursery: trio.Nursery) -> int:
    served: int = await nursery.start(partial(serve_epmd, port=free_port()))
    return served


async def test_the_same_requests_give_the_same_bytes_as_from_otps_epmd(port: int) -> None:
    theirs = free_port()
    async with real_epmd(theirs), AsyncExitStack() as held:
        for each in (port, theirs):
            for body, expected in (
                (alive(b"a"), b"v\0"),
                (alive(b"b", 65535), b"v\0"),
                (alive(b"extra", extra=b"hello"), b"v\0"),
                (alive(b"old", highest=5), b"y\0\0"),
                (alive(b"n" * 255), b"v\0"),
            ):
                stream, answer = await register(each, body)
                await held.enter_async_context(stream)
                assert answer.startswith(expected)
        ours = {what: await until_answered(port, asked) for what, asked in REQUESTS.items()}
        otps = {what: await until_answered(theirs, asked) for what, asked in REQUESTS.items()}
    # OTP's takes a name of 255 bytes and then closes on those who look it up; ours answers.
    assert (otps.pop("long name"), ours.pop("long name")[:2]) == (b"", b"w\0")
    assert without_port(ours, port) == without_port(otps, theirs)
    assert ours["names"].count(b"\n") == 5  # and it was not all silence


async def until_answered(port: int, request: bytes) -> bytes:
    """An answer; OTP's leaves a connection open after a refusal, so not the end of it."""
    async with await connect(port) as stream:
        await stream.send_all(request)
        answer = b""
        with trio.move_on_after(0.2 if request[2:3] == b"x" else PATIENCE):
            try:
                async for data in stream:
                    answer += data
            except trio.BrokenResourceError:
                pass
        return answer


def without_port(answers: dict[str, bytes], port: int) -> dict[str, bytes]:
    return {
        what: answer.replace(struct.pack(">I", port), b"PORT") for what, answer in answers.items()
    }


async def test_a_dump_is_told_as_otps_epmd_does(port: int) -> None:
    theirs = free_port()
    async with real_epmd(theirs):
        told = []
        for each in (port, theirs):
            stream, _answer = await register(each, alive(b"a"))
            async with stream:
                dump = await ask(each, framed(b"d"))
            head, sep, fd = dump[4:].partition(b"fd = ")
            assert fd.removesuffix(b"\n\0").isdigit()
            told.append((dump[:4] == struct.pack(">I", each), head + sep))
    assert told[0] == told[1] == (True, b"active name     <a> at port 1234, fd = ")


@pytest.mark.parametrize("erlang", ERLANGS, ids=str)
async def test_beams_register_find_each_other_and_free_their_names_by_dying(
    erlang: Erlang, port: int
) -> None:
    async with (
        open_beam(erlang, "one@127.0.0.1", port) as one,
        open_beam(erlang, "two@127.0.0.1", port) as two,
    ):
        assert await one.eval("net_adm:ping('two@127.0.0.1').") == "pong"
        names = await two.eval(
            '{ok, Names} = net_adm:names("127.0.0.1"), lists:sort([N || {N, _} <- Names]).'
        )
        assert names == '["one","two"]'
        assert await two.eval("is_integer(erlang:system_info(creation)).") == "true"
        await one.kill()
        await until_free(port, b"one")
        assert b"name two at port " in await ask(port, framed(b"n"))


async def test_an_ipv6_beam_registers_too(port: int) -> None:
    async with open_beam(ERLANGS[-1], "six@::1", port, "-proto_dist", "inet6_tcp") as six:
        assert await six.eval("node().") == "'six@::1'"
        assert b"name six at port " in await ask(port, framed(b"n"), host="::1")
    await until_free(port, b"six")


async def test_a_name_can_be_registered_again_at_once_and_its_creation_grows(port: int) -> None:
    creations = []
    for _ in range(3):
        stream, answer = await register(port, alive(b"again"))
        creations.append(int.from_bytes(answer[2:]))
        await stream.aclose()
        await until_free(port, b"again")
    assert creations == [creations[0], creations[0] + 1, creations[0] + 2]
