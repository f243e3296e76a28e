"""Calls between our own nodes, in memory and on a virtual clock."""

from __future__ import annotations

import gc
from collections import UserDict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from barnacle_trio import ConfigurationError, NodeName
from barnacle_trio._errors import PeerUnreachable, ProcessDown, ProcessExit, RemoteError
from barnacle_trio.distribution._node import Node
from barnacle_trio.etf import Atom, EncodeError
from barnacle_trio.testing import MemoryNetwork

A, B = NodeName("a@memory"), NodeName("b@memory")
NOTSUP = (Atom("erpc"), Atom("notsup"))
Pair = tuple[Node, Node]


@asynccontextmanager
async def one_node() -> AsyncIterator[Pair]:
    async with MemoryNetwork().open_node(A) as a:
        yield a, a
        await nothing_is_left(a)


@asynccontextmanager
async def two_nodes() -> AsyncIterator[Pair]:
    network = MemoryNetwork()
    async with network.open_node(A) as a, network.open_node(B) as b:
        yield a, b
        await nothing_is_left(a)
        await nothing_is_left(b)


async def nothing_is_left(node: Node) -> None:
    await wait_all_tasks_blocked()
    assert len(node._calls) == len(node._exposed) == 0
    assert not node._processes.monitors


WHERE: list[Any] = [pytest.param(one_node, id="local"), pytest.param(two_nodes, id="remote")]
Where = Callable[[], AbstractAsyncContextManager[Pair]]


async def echo(*terms: Any) -> Any:  # noqa: ASYNC124
    return terms


async def refused(node: Node, peer: str, *call: Any) -> Any:
    with pytest.raises(RemoteError) as caught:
        await node.rpc(peer, *call)
    assert caught.value.kind == "error"
    return caught.value.reason


@pytest.mark.parametrize("where", WHERE)
async def test_a_value_arrives_as_from_any_node(where: Where, autojump_clock: MockClock) -> None:
    async with where() as (a, b):
        with b.expose({("m", "echo"): echo}):
            terms = (1, "text", Atom("x"), None, True, {"k": [2.5]})
            assert await a.rpc(b.name, "m", "echo", *terms) == (
                *(1, b"text", Atom("x"), None, True),
                {b"k": [2.5]},
            )


@pytest.mark.parametrize("where", WHERE)
async def test_names_that_are_python_values_too(where: Where, autojump_clock: MockClock) -> None:
    async with where() as (a, b):
        with b.expose({("true", "nil"): echo, (Atom("false"), Atom("f")): echo}):
            assert await a.rpc(b.name, "true", "nil", 1) == (1,)
            assert await a.rpc(b.name, "false", "f", 1) == (1,)
        assert await refused(a, b.name, "true", "nil") == NOTSUP


@pytest.mark.parametrize("where", WHERE)
async def test_nothing_but_what_is_exposed_can_be_called(
    where: Where, autojump_clock: MockClock
) -> None:
    async with where() as (a, b):
        for module, function in (
            ("os", "getcwd"),
            ("builtins", "eval"),
            ("tests.test_messages_rpc_memory", "echo"),
            ("m", "__class__"),
            ("m.echo", "__call__"),
            ("erpc", "execute_call"),
            ("", ""),
        ):
            with b.expose({("m", "echo"): echo}):
                assert await refused(a, b.name, module, function) == NOTSUP


@pytest.mark.parametrize("where", WHERE)
async def test_a_wrong_number_of_arguments_is_undef(
    where: Where, autojump_clock: MockClock
) -> None:
    async def two(a: int, b: int = 2, *, c: int = 3) -> int:  # noqa: ASYNC124
        return a + b + c

    async with where() as (a, b):
        with b.expose({("m", "two"): two, ("m", "one"): partial(two, 1), ("m", "any"): echo}):
            assert await a.rpc(b.name, "m", "two", 1) == 6
            assert await a.rpc(b.name, "m", "two", 1, 1) == 5
            assert await a.rpc(b.name, "m", "one") == 6
            assert await a.rpc(b.name, "m", "any", *range(300)) == tuple(range(300))
            wrong: list[tuple[str, list[Any]]] = [("two", []), ("two", [1] * 3), ("one", [1] * 2)]
            for function, arguments in wrong:
                with pytest.raises(RemoteError) as caught:
                    await a.rpc(b.name, "m", function, *arguments)
                assert caught.value.reason is Atom("undef")
                assert caught.value.stack == [(Atom("m"), Atom(function), arguments, [])]


RAISED: list[tuple[Exception, tuple[str, Any, Any]]] = [
    (RemoteError("error", Atom("why"), [1]), ("error", Atom("why"), [1])),
    (RemoteError("throw", [1]), ("throw", [1], ())),
    (RemoteError("exit", Atom("over")), ("exit", Atom("over"), ())),
    (RemoteError("no kind", Atom("why"), "no stack"), ("error", Atom("why"), [])),
    (ProcessExit(Atom("over")), ("exit", Atom("over"), ())),
    (KeyError("k"), ("error", (Atom("python_error"), b"KeyError", b"'k'"), [])),
    (ExceptionGroup("g", [KeyError("k")]), ("error", None, [])),
    (RemoteError("error", object()), ("error", None, [])),
    (RemoteError("error", Atom("why"), [object()]), ("error", None, [])),
]


@pytest.mark.parametrize("where", WHERE)
async def test_what_a_function_raises_is_raised_for_its_caller(
    where: Where, autojump_clock: MockClock
) -> None:
    async def fail(number: int) -> None:  # noqa: ASYNC124
        raise RAISED[number][0]

    async with where() as (a, b):
        with b.expose({("m", "fail"): fail}):
            for number, (error, (kind, reason, stack)) in enumerate(RAISED):
                with pytest.raises(RemoteError) as caught:
                    await a.rpc(b.name, "m", "fail", number)
                assert (caught.value.kind, caught.value.stack) == (kind, stack), error
                got: Any = caught.value.reason
                assert got == reason or (reason is None and got[0] is Atom("python_error"))


@pytest.mark.parametrize("where", WHERE)
async def test_a_value_without_encoding_is_an_error_of_its_call(
    where: Where, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Hostile(UserDict[str, int]):
        def items(self) -> Any:
            raise ZeroDivisionError

    async def give(what: bytes) -> Any:  # noqa: ASYNC124
        values: dict[bytes, Any] = {b"object": object(), b"inf": 1e999, b"hostile": Hostile(a=1)}
        return values[what]

    async with where() as (a, b):
        with b.expose({("m", "give"): give, ("m", "echo"): echo}):
            for what in (b"object", b"inf", b"hostile"):
                reason = await refused(a, b.name, "m", "give", what)
                assert reason[0] is Atom("python_error")
            with pytest.raises(EncodeError):
                await a.rpc(b.name, "m", "echo", object())
            assert await a.rpc(b.name, "m", "echo", 1) == (1,)
            assert a is b or (B in a.nodes.value and A in b.nodes.value)


async def test_overlapping_blocks_shadow_and_restore(autojump_clock: MockClock) -> None:
    def giving(value: int) -> Any:
        async def give() -> int:  # noqa: ASYNC124
            return value

        return {("m", "give"): give}

    async with two_nodes() as (a, b):
        call = partial(a.rpc, B, "m", "give")
        with b.expose(giving(1)), b.expose({("m", "other"): echo}):
            with b.expose(giving(2)):
                assert await call() == 2
            assert await call() == 1
        assert await refused(a, B, "m", "give") == NOTSUP
        first, second = ExitStack(), ExitStack()
        first.enter_context(b.expose(giving(1)))
        second.enter_context(b.expose(giving(2)))
        first.close()  # not in the order of entering
        assert await call() == 2
        second.close()
        assert await refused(a, B, "m", "give") == NOTSUP


async def test_what_cannot_be_exposed_is_told_at_once(autojump_clock: MockClock) -> None:
    def plain(a: int) -> int:
        return a

    async def keyword(*, a: int) -> int:  # noqa: ASYNC124
        return a

    async def generator() -> AsyncIterator[int]:  # noqa: ASYNC124
        yield 1

    wrong: list[tuple[Any, Any]] = [
        (("m", "f"), 1),
        (("m", "f"), plain),
        (("m", "f"), keyword),
        (("m", "f"), generator),
        ("mf", echo),
        ("m", echo),
        (("m",), echo),
        (("m", "f", 1), echo),
        (("m", 1), echo),
        (1, echo),
    ]
    async with one_node() as (a, _):
        for names, function in wrong:
            with pytest.raises(ConfigurationError), a.expose({names: function}):
                raise AssertionError(names)
        with a.expose({("m", "f"): lambda x: echo(x)}):
            assert await a.rpc(A, "m", "f", 1) == (1,)


async def test_a_function_that_is_not_async_after_all(autojump_clock: MockClock) -> None:
    async with two_nodes() as (a, b):
        with b.expose({("m", "f"): lambda: 1}):  # type: ignore[dict-item,return-value]
            assert (await refused(a, B, "m", "f"))[1] == b"TypeError"


@pytest.mark.parametrize("where", WHERE)
async def test_a_call_under_way_outlives_its_block(where: Where, autojump_clock: MockClock) -> None:
    async def slow() -> str:
        await trio.sleep(10)
        return "done"

    async def call() -> None:
        assert await a.rpc(b.name, "m", "slow") == b"done"

    async with where() as (a, b), trio.open_nursery() as nursery:
        with b.expose({("m", "slow"): slow}):
            nursery.start_soon(call)
            await trio.sleep(1)
        assert await refused(a, b.name, "m", "slow") == NOTSUP


class Sleeper:
    """Sleeps for long, and says how that ended."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0

    async def sleep(self) -> None:
        self.begun += 1
        try:
            await trio.sleep(1000)
        except trio.Cancelled:
            self.cancelled += 1
            raise


@pytest.mark.parametrize("where", WHERE)
async def test_cancelling_a_call_cancels_the_function(
    where: Where, autojump_clock: MockClock
) -> None:
    sleeper = Sleeper()
    async with where() as (a, b):
        with b.expose({("m", "sleep"): sleeper.sleep}):
            for seconds in (5, 0):
                with trio.move_on_after(seconds) as scope:
                    await a.rpc(b.name, "m", "sleep")
                assert scope.cancelled_caught
                await wait_all_tasks_blocked()
                assert sleeper.begun == sleeper.cancelled


async def test_a_call_given_up_before_it_is_answered_is_killed_later(
    autojump_clock: MockClock,
) -> None:
    sleeper = Sleeper()
    network = MemoryNetwork()
    async with network.open_node(A) as a, network.open_node(B) as b:
        with b.expose({("m", "sleep"): sleeper.sleep}):
            await a.connect(B)
            network.cut(A, B)
            with trio.move_on_after(1):
                await a.rpc(B, "m", "sleep")
            assert len(a._calls) == 1
            network.heal(A, B)
            await wait_all_tasks_blocked()
            assert (sleeper.begun, sleeper.cancelled) == (1, 1)
            assert len(a._calls) == 0
            network.cut(A, B)
            with trio.move_on_after(1):
                await a.rpc(B, "m", "sleep")
            await a.disconnect(B)
            assert len(a._calls) == 0


async def test_losing_the_connection_ends_both_sides(autojump_clock: MockClock) -> None:
    sleeper = Sleeper()
    async with two_nodes() as (a, b):

        async def call() -> None:
            with pytest.raises(ProcessDown) as caught:
                await a.rpc(B, "m", "sleep")
            assert caught.value.reason is Atom("noconnection")

        with b.expose({("m", "sleep"): sleeper.sleep}):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                nursery.start_soon(call)
                await trio.sleep(1)
                await b.disconnect(A)
            await wait_all_tasks_blocked()
            assert (sleeper.begun, sleeper.cancelled) == (2, 2)


async def test_a_node_is_left_while_it_serves_a_call(autojump_clock: MockClock) -> None:
    sleeper = Sleeper()

    async def fails_when_cancelled() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleeper.sleep)
            try:
                await sleeper.sleep()
            finally:
                raise KeyError("on the way out")

    network = MemoryNetwork()
    async with network.open_node(A) as a, trio.open_nursery() as nursery:

        async def call() -> None:
            with pytest.raises(ProcessDown):
                await a.rpc(B, "m", "sleep")

        async with network.open_node(B) as b:
            with b.expose({("m", "sleep"): fails_when_cancelled}):
                nursery.start_soon(call)
                await trio.sleep(1)
        assert sleeper.cancelled == sleeper.begun == 2
        with pytest.raises(PeerUnreachable):
            await a.rpc(B, "m", "sleep")
    with pytest.raises(trio.ClosedResourceError):
        await a.rpc(A, "m", "sleep")
    with pytest.raises(trio.ClosedResourceError):
        a.expose({})


async def test_ten_thousand_calls_leave_nothing_behind(autojump_clock: MockClock) -> None:
    async with two_nodes() as (a, b):
        with b.expose({("m", "echo"): echo}):

            async def call() -> None:
                for _ in range(20):
                    await a.rpc(B, "m", "echo")

            async def many() -> None:
                async with trio.open_nursery() as nursery:
                    for _ in range(50):
                        nursery.start_soon(call)

            await many()
            gc.collect()
            before = len(gc.get_objects())
            await many()
            gc.collect()
            assert len(gc.get_objects()) < before + 2000
            for node in (a, b):
                assert len(node._processes._table.by_pid) == 0
