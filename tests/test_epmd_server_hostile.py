"""Our port mapper and hostile clients (the numbers are those of the list of hostile inputs)."""

from __future__ import annotations

import errno
import resource
import struct
import tracemalloc
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from barnacle_trio.epmd import _clients, _server, serve_epmd
from barnacle_trio.epmd._listening import Listener
from tests.epmd_lab import PATIENCE, alive, ask, connect, framed, read_all
from tests.epmd_requests import register, until_free
from tests.ports import free_port


@pytest.fixture
async def port(nursery: trio.Nursery) -> int:
    served: int = await nursery.start(partial(serve_epmd, port=free_port()))
    return served


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
        monkeypatch.setattr(_clients, "is_loopback", lambda _address: not remote)

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
    monkeypatch.setattr(_clients, "MAX_PENDING", 8)
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


async def test_27_the_names_of_all_addresses_of_this_host_are_bounded_together(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_server, "MAX_HELD_NAMES", 5)
    hosts = [*(f"127.0.0.{number}" for number in range(1, 8)), "::1"]
    port: int = await nursery.start(partial(serve_epmd, port=free_port(), addresses=hosts))
    async with AsyncExitStack() as stack:
        results = []
        for number, host in enumerate(hosts):
            stream = await trio.open_tcp_stream(host, port, local_address=host)
            await stack.enter_async_context(stream)
            await stream.send_all(framed(alive(b"n%d" % number)))
            results.append((await stream.receive_some())[1])
        assert results == [0] * 5 + [1] * 3


@pytest.mark.parametrize(
    ("soft", "places"),
    [(300, 100), (1024, 341), (20_000, 1024), (resource.RLIM_INFINITY, 1024)],
)
async def test_27_names_take_at_most_a_third_of_the_descriptors(
    monkeypatch: pytest.MonkeyPatch, soft: int, places: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (soft, resource.RLIM_INFINITY))
    assert _server.room_for_names() == places


async def test_28_lists_for_other_hosts_are_rationed(
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    pretend_remote: Callable[[bool], None],
) -> None:
    monkeypatch.setattr(_clients, "LISTS_PER_SECOND", 5)
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
        broken.setattr(_clients, "parse_request", lambda _body: 1 / 0)
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
            while server._clients._pending:
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
