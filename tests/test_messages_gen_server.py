"""Gen_servers in Python, called from our own nodes, in memory and on a virtual clock."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from barnacle_trio import ConfigurationError
from barnacle_trio.etf import Atom
from tests.gen_server_players import GEN_CALL, GEN_CAST, Recorder, echo, serving
from tests.memory_pairs import WHERE, A, Where, one_node, two_nodes


@pytest.mark.parametrize("where", WHERE)
async def test_a_function_answers_calls_by_name_and_by_pid(
    where: Where, autojump_clock: MockClock
) -> None:
    async with where() as (a, b), serving(b, echo) as pid:
        assert await a.call(("server", b.name), {"text": [1, 2.5, None]}) == {
            b"text": [1, 2.5, None]
        }
        assert await a.call(pid, Atom("by_pid")) is Atom("by_pid")
    async with where() as (a, b), serving(b, echo, None) as pid:
        assert await a.call(pid, "without a name") == b"without a name"


@pytest.mark.parametrize("where", WHERE)
async def test_an_object_gets_calls_casts_and_other_messages_in_order(
    where: Where, autojump_clock: MockClock
) -> None:
    recorder = Recorder()
    async with where() as (a, b), serving(b, recorder) as pid:
        await a.cast(pid, 1)
        await a.send(("server", b.name), 2)
        await a.cast(("server", b.name), 3)
        answer = await a.call(pid, 4)
        assert answer == [(b"cast", 1), (b"info", 2), (b"cast", 3), (b"call", 4)]
        assert recorder.seen[-1] == ("call", 4, a.name)


async def test_lists_and_broken_envelopes_are_plain_messages(autojump_clock: MockClock) -> None:
    recorder = Recorder()
    plain: list[Any] = [
        [GEN_CALL, [1, 2], 3],
        (GEN_CALL, (1, 2), 3),
        (GEN_CALL, 2),
        [GEN_CAST, 1],
        (GEN_CAST, 1, 2),
        (Atom("system"), 1, 2),
        (),
        None,
    ]
    async with two_nodes() as (a, b), serving(b, recorder) as pid:
        for each in plain:
            await a.send(pid, each)
        await a.call(pid, "done")
    assert recorder.seen[:-1] == [("info", each) for each in plain]


async def test_what_has_no_method_is_dropped_and_told_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with two_nodes() as (a, b), serving(b, echo) as pid:
        for _ in range(3):
            await a.cast(pid, "dropped")
            await a.send(pid, "dropped, too")
        assert await a.call(pid, "still here") == b"still here"
    assert [record.getMessage() for record in caplog.records] == [
        "['server'] takes no cast: such messages are dropped",
        "['server'] takes no info: such messages are dropped",
    ]


class OnlyCasts:
    async def cast(self, message: Any) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    ("handler", "match"),
    [
        pytest.param(Recorder, "call it to make one", id="class"),
        pytest.param(OnlyCasts(), "object with `call`", id="no call"),
        pytest.param(None, "object with `call`", id="none"),
    ],
)
async def test_what_is_no_handler_is_refused(handler: Any, match: str) -> None:
    async with one_node() as (a, _):
        with pytest.raises(ConfigurationError, match=match):
            await a.serve_process("server", handler)


async def test_a_coroutine_is_no_handler() -> None:
    async with one_node() as (a, _):
        with pytest.raises(ConfigurationError, match="uncalled"):
            await a.serve_process("server", echo(1))  # type: ignore[arg-type]
        for option in ("max_concurrent", "max_length"):
            for bad in (0, True, 1.5, None):
                options: Any = {option: bad}
                with pytest.raises(ConfigurationError, match=option):
                    await a.serve_process("server", echo, **options)


async def test_a_taken_name_is_told_plainly(autojump_clock: MockClock) -> None:
    async with one_node() as (a, _), serving(a, echo), trio.open_nursery() as nursery:
        for name in ("server", "net_kernel"):
            with pytest.raises(ConfigurationError, match="already"):
                await nursery.start(a.serve_process, name, echo)
        assert await a.call(("server", A), 1) == 1


async def test_a_node_that_was_left_serves_nothing() -> None:
    async with one_node() as (a, _):
        pass
    with pytest.raises(trio.ClosedResourceError):
        await a.serve_process("server", echo)
