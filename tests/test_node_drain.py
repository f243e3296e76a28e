"""`Node.drain`: calls that are served, those that wait, and those that come late."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from barnacle_trio import ConfigurationError, ProcessDown
from barnacle_trio._errors import PeerUnreachable
from barnacle_trio.etf import Atom
from barnacle_trio.testing._memory import open_memory_nodes
from tests.drain_players import A, Ask, B, C, Desk, ask_function, ask_process, asks, serve
from tests.test_node_memory import record, told


async def test_each_peer_is_told_once_that_the_node_left(autojump_clock: MockClock) -> None:
    async with open_memory_nodes(A, B, C) as (a, b, c):
        changes, others = record(a), record(c)
        await a.connect(B)
        await b.connect(C)
        ours = record(b)
        await b.drain(5)
        assert trio.current_time() < 0.1, "there was nothing to wait for"
        assert told(ours) == ["closed_by_us", "closed_by_us"]
        await wait_all_tasks_blocked()
        assert told(changes) == ["up", "left"]
        assert told(others) == ["up", "left"]
        assert b.nodes.value == frozenset()


async def test_after_that_the_node_is_of_no_more_use(autojump_clock: MockClock) -> None:
    async with open_memory_nodes(A, B) as (a, b):
        await b.drain(0)
        with pytest.raises(trio.ClosedResourceError):
            await b.connect(A)
        with pytest.raises(PeerUnreachable):
            await a.connect(B)
        await b.drain(5)  # once more does no harm


async def test_a_node_that_was_left_cannot_drain(autojump_clock: MockClock) -> None:
    async with open_memory_nodes(A) as (a,):
        pass
    with pytest.raises(trio.ClosedResourceError):
        await a.drain(1)


@pytest.mark.parametrize("grace", [-1, float("inf"), float("nan")])
async def test_a_grace_that_is_none(grace: float, autojump_clock: MockClock) -> None:
    async with open_memory_nodes(A, B) as (a, _):
        with pytest.raises(ConfigurationError, match="grace"):
            await a.drain(grace)
        await a.connect(B)


@pytest.mark.parametrize("ask", [ask_process, ask_function])
async def test_calls_that_are_served_may_end(ask: Ask, autojump_clock: MockClock) -> None:
    desk, answers = Desk(), list[Any]()
    async with open_memory_nodes(A, B) as (a, b), trio.open_nursery() as nursery:
        changes = record(a)
        await serve(nursery, b, desk, ask)
        nursery.start_soon(asks, ask, a, 1, answers)
        nursery.start_soon(asks, ask, a, 2, answers)  # waits in the mailbox, of the process
        await wait_all_tasks_blocked()
        nursery.start_soon(b.drain, 10)
        await trio.sleep(3)
        assert b.nodes.value == {A}, "it waits"
        desk.let_go.set()
        await a.nodes.wait_value(frozenset())
        assert trio.current_time() == pytest.approx(3, abs=0.1)
        assert sorted(answers) == [1, 2]
        assert told(changes) == ["up", "left"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("ask", [ask_process, ask_function])
async def test_calls_that_never_end_do_not_hold_it_up(ask: Ask, autojump_clock: MockClock) -> None:
    desk, answers = Desk(), list[Any]()
    async with open_memory_nodes(A, B) as (a, b), trio.open_nursery() as nursery:
        changes = record(a)
        await serve(nursery, b, desk, ask)
        nursery.start_soon(asks, ask, a, 1, answers)
        await wait_all_tasks_blocked()
        await b.drain(4)
        assert trio.current_time() == pytest.approx(4, abs=0.1)
        await wait_all_tasks_blocked()
        [lost] = answers
        assert isinstance(lost, ProcessDown)
        assert lost.reason is Atom("noconnection")
        assert told(changes) == ["up", "left"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("ask", [ask_process, ask_function])
async def test_late_calls_are_not_begun(ask: Ask, autojump_clock: MockClock) -> None:
    """Or a node that is called all the time would always leave some half done."""
    desk, answers = Desk(), list[Any]()
    async with open_memory_nodes(A, B) as (a, b), trio.open_nursery() as nursery:
        await serve(nursery, b, desk, ask, width=10)
        nursery.start_soon(asks, ask, a, 1, answers)
        await wait_all_tasks_blocked()
        nursery.start_soon(b.drain, 10)
        await trio.sleep(4)
        nursery.start_soon(asks, ask, a, 2, answers)
        await trio.sleep(2)
        nursery.start_soon(asks, ask, a, 3, answers)
        await trio.sleep(1)
        assert desk.begun == [1, 2], "the third came late"
        desk.let_go.set()
        await a.nodes.wait_value(frozenset())
        assert trio.current_time() == pytest.approx(7, abs=0.1)
        await wait_all_tasks_blocked()
        assert len(answers) == 3
        [late] = [each for each in answers if not isinstance(each, int)]
        assert "noconnection" in str(late)
        nursery.cancel_scope.cancel()


async def test_calls_among_our_own_processes_go_on_to_the_end(autojump_clock: MockClock) -> None:
    answers = list[Any]()

    async def relay(request: Any) -> Any:
        await trio.sleep(6)
        return await b.call(("helper", B), request)

    async def help_out(request: Any) -> Any:
        await trio.sleep(1)
        return [request]

    async with open_memory_nodes(A, B) as (a, b), trio.open_nursery() as nursery:
        await nursery.start(b.serve_process, "desk", relay)
        await nursery.start(b.serve_process, "helper", help_out)
        nursery.start_soon(asks, ask_process, a, 1, answers)
        await wait_all_tasks_blocked()
        await b.drain(10)
        assert trio.current_time() == pytest.approx(7, abs=0.1)
        await wait_all_tasks_blocked()
        assert answers == [[1]]
        nursery.cancel_scope.cancel()


async def test_casts_are_not_waited_for(autojump_clock: MockClock) -> None:
    class Slow:
        async def call(self, request: Any, _sender: object) -> Any:
            return request

        async def cast(self, _message: Any) -> None:
            await trio.sleep_forever()

    async with open_memory_nodes(A, B) as (a, b), trio.open_nursery() as nursery:
        await nursery.start(b.serve_process, "slow", Slow())
        await a.cast(("slow", B), 1)
        await wait_all_tasks_blocked()
        await b.drain(10)
        assert trio.current_time() < 0.1
        nursery.cancel_scope.cancel()


async def test_a_large_reply_arrives_whole_before_the_goodbye(autojump_clock: MockClock) -> None:
    begun, answers = trio.Event(), list[Any]()

    async def much(_request: Any) -> bytes:
        begun.set()
        await trio.sleep(1)
        return bytes(8_000_000)

    async with open_memory_nodes(A, B) as (a, b), trio.open_nursery() as nursery:
        await nursery.start(b.serve_process, "desk", much)
        nursery.start_soon(asks, ask_process, a, 1, answers)
        await begun.wait()
        await b.drain(10)
        await wait_all_tasks_blocked()
        assert [len(each) for each in answers] == [8_000_000]
        nursery.cancel_scope.cancel()
