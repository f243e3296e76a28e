"""Our port mapper beside OTP's, and under attack."""

from __future__ import annotations

import errno
import socket
import struct
import tracemalloc
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import NoReturn

import pytest
import trio
from trio.testing import MockClock

from barnacle_trio._errors import RemoteProtocolError
from barnacle_trio.epmd import _registry, _server, serve_epmd
from barnacle_trio.epmd._listening import Listener
from tests.epmd_lab import (
    PATIENCE,
    alive,
    ask,
    connect,
    framed,
    free_port,
    open_beam,
    read_all,
    real_epmd,
)
from tests.erlang import ERLANGS, Erlang


@pytest.fixture
async def port(nursery: trio.Nursery) -> int:
    served: int = await nursery.start(partial(serve_epmd, port=free_port()))
    return served


async def register(port: int, body: bytes) -> tuple[trio.SocketStream, bytes]:
    stream = await connect(port)
    await stream.send_all(framed(body))
    with trio.fail_after(PATIENCE):
        return stream, await stream.receive_some()


async def until_free(port: int, name: bytes) -> None:
    with trio.fail_after(PATIENCE):
        while await ask(port, framed(b"z" + name)) != b"w\x01":
            await trio.lowlevel.checkpoint()


# --- OTP's as the oracle ------------------------------------------------------------------------

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


# --- hostile clients (the numbers are those of the list of hostile inputs) ----------------------


@pytest.mark.parametrize(
    "request_bytes",
    [b"\0\0", b"\xff\xff", framed(b"?"), framed(b"x"), framed(b"n") + b"more"],
    ids=["18 zero length", "19 length 65535", "20 unknown", "cut off", "more than one"],
)
async def test_garbage_is_dropped_without_an_answer(port: int, request_bytes: bytes) -> None:
    assert await ask(port, request_bytes) == b""
    assert (await ask(port, framed(b"n")))[4:] == b""


async def test_19_an_incomplete_request_is_dropped_at_its_deadline(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    port = await nursery.start(partial(serve_epmd, port=0))
    for sent in (b"", b"\0", b"\0\x10x"):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            began = trio.current_time()
            if sent:
                await stream.send_all(sent)
            assert await stream.receive_some(1) == b""
            assert trio.current_time() - began == pytest.approx(5.0, abs=0.2)


async def test_19_a_drip_does_not_extend_the_deadline(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    port = await nursery.start(partial(serve_epmd, port=0))
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        began = trio.current_time()
        drip = framed(b"z" + b"n" * 60)

        async def send() -> None:
            for byte in drip:
                await stream.send_all(bytes((byte,)))
                await trio.sleep(0.5)

        with pytest.raises(trio.BrokenResourceError):
            await send()
        assert trio.current_time() - began <= 7.0


async def test_21_kill_is_refused_even_without_a_name(port: int) -> None:
    assert await ask(port, framed(b"k")) == b"NO"
    assert (await ask(port, framed(b"n")))[:4] == struct.pack(">I", port)


async def test_22_a_live_name_cannot_be_stopped(port: int) -> None:
    stream, _answer = await register(port, alive(b"live"))
    async with stream:
        assert await ask(port, framed(b"slive")) == b""
        assert (await ask(port, framed(b"zlive"))).startswith(b"w\0")


@pytest.fixture
def pretend_remote(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Have the server take this host's addresses for another host's."""

    def set_remote(remote: bool) -> None:
        monkeypatch.setattr(_server, "is_loopback", lambda _address: not remote)

    return set_remote


async def test_23_only_this_host_registers_and_dumps(
    port: int, pretend_remote: Callable[[bool], None]
) -> None:
    pretend_remote(True)
    assert await ask(port, framed(alive(b"far"))) == b""
    assert await ask(port, framed(b"d")) == b""
    assert await ask(port, framed(b"zfar")) == b"w\x01"


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        (b"a@b", "760100000063"),
        (b"n" * 256, "760100000063"),
        (b"a b", "760100000063"),
        (b"a at port 1\nname b", "760100000063"),
        (b"\xe2\x80\xae", "760100000063"),
        (b"a\0", ""),
        (b"", ""),
    ],
)
async def test_24_names_that_no_node_can_have_are_refused(
    port: int, name: bytes, answer: str
) -> None:
    assert (await ask(port, framed(alive(name)))).hex() == answer
    assert (await ask(port, framed(b"n")))[4:] == b""


async def test_25_a_duplicate_is_refused_and_the_holder_stays(port: int) -> None:
    stream, _answer = await register(port, alive(b"one", 1))
    async with stream:
        for highest, answer in ((6, "760100000063"), (5, "79010063")):
            refused = await ask(port, framed(alive(b"one", 2, highest=highest)))
            assert refused.hex() == answer
        assert b"name one at port 1\n" in await ask(port, framed(b"n"))


async def test_26_many_connections_are_bounded_loopback_comes_first_and_names_stay(
    port: int, monkeypatch: pytest.MonkeyPatch, pretend_remote: Callable[[bool], None]
) -> None:
    monkeypatch.setattr(_server, "MAX_PENDING", 8)
    holder, _answer = await register(port, alive(b"kept"))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(holder)

        async def open_many(count: int) -> list[trio.SocketStream]:
            streams = [await connect(port) for _ in range(count)]
            for stream in streams:
                await stack.enter_async_context(stream)
            await trio.testing.wait_all_tasks_blocked(0.02)
            return streams

        pretend_remote(True)
        far = await open_many(30)
        for stream in far[:22]:  # the oldest made room
            assert await read_all(stream) == b""
        pretend_remote(False)
        await open_many(8)
        for stream in far[22:]:
            assert await read_all(stream) == b""
        pretend_remote(True)
        assert await ask(port, framed(b"n")) == b""  # all places are loopback's
        pretend_remote(False)
        assert b"name kept at port 1234\n" in await ask(port, framed(b"n"))


async def test_27_the_names_of_one_address_are_bounded(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_registry, "MAX_NAMES_OF_ADDRESS", 5)
    async with AsyncExitStack() as stack:
        results = []
        for number in range(8):
            stream, answer = await register(port, alive(b"n%d" % number))
            await stack.enter_async_context(stream)
            results.append(answer[1])
        assert results == [0] * 5 + [1] * 3


async def test_28_lists_for_other_hosts_are_rationed(
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    pretend_remote: Callable[[bool], None],
) -> None:
    monkeypatch.setattr(_server, "LISTS_PER_SECOND", 5)
    port: int = await nursery.start(partial(serve_epmd, port=0))

    async def ask_many() -> int:
        return sum([bool(await ask(port, framed(b"n"))) for _ in range(30)])

    pretend_remote(True)
    assert 10 <= await ask_many() < 30
    await trio.sleep(1)
    assert 5 <= await ask_many() < 30
    pretend_remote(False)
    assert await ask_many() == 30


async def test_26_running_out_of_descriptors_is_survived(
    nursery: trio.Nursery, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = _server.EpmdServer(0)
    failures = iter([OSError(errno.EMFILE, "Too many open files")] * 3)
    accept = Listener.accept

    async def short_of_descriptors(listener: Listener) -> trio.SocketStream:
        for failure in failures:
            raise failure
        return await accept(listener)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Listener, "accept", short_of_descriptors)
        nursery.start_soon(server.run)
        assert await ask(server.port, framed(b"n")) == struct.pack(">I", server.port)
    assert caplog.text.count("cannot accept connections") == 1


@pytest.mark.parametrize("how", ["half-closed", "reset", "bytes"])
async def test_29_a_registration_ends_with_its_connection(port: int, how: str) -> None:
    stream, _answer = await register(port, alive(b"gone"))
    async with stream:
        if how == "half-closed":
            await stream.send_eof()
        elif how == "reset":
            stream.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER of nothing: RST
            stream.socket.close()
        else:
            await stream.send_all(b"?")
        await until_free(port, b"gone")


async def test_a_half_closed_query_is_answered(port: int) -> None:
    async with await connect(port) as stream:
        await stream.send_all(framed(b"n"))
        await stream.send_eof()
        assert await read_all(stream) == struct.pack(">I", port)


async def test_a_fault_of_ours_costs_one_connection(
    port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(_server, "parse_request", lambda _body: 1 / 0)
        assert await ask(port, framed(b"n")) == b""
    assert "a request to the port mapper failed" in caplog.text
    assert await ask(port, framed(b"n")) == struct.pack(">I", port)


async def test_thousands_of_garbage_connections_leave_nothing_behind(
    nursery: trio.Nursery,
) -> None:
    server = _server.EpmdServer(0)
    nursery.start_soon(server.run)
    port = server.port
    garbage = [b"", b"\0", b"\0\0", b"\xff\xff", framed(b"?"), framed(b"x" * 2000), b"\0\x10x"]

    async def attack(count: int) -> None:
        for number in range(count):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            try:
                if data := garbage[number % len(garbage)]:
                    await stream.send_all(data)
            finally:
                await trio.aclose_forcefully(stream)

    async def settle() -> int:
        with trio.fail_after(PATIENCE):
            await ask(port, framed(b"n"))
            while server._pending:
                await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        return trio.lowlevel.current_statistics().tasks_living

    before = await settle()
    await attack(300)
    tracemalloc.start()
    try:
        await settle()
        start, _peak = tracemalloc.get_traced_memory()
        await attack(1400)
        assert await settle() == before
        end, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert server.dropped > 700
    assert end - start < 200_000  # bytes


# --- addresses and moving -----------------------------------------------------------------------


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
    monkeypatch.setattr(_server, "parse_request", check)
    assert await ask(server.port, framed(b"n")) == b""
    assert protected == [True]
