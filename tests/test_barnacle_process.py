"""The barnacle as a process of its node: called from Python, and from real BEAM nodes."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from barnacle_trio import ConfigurationError, NodeName, custom_transport, open_barnacle
from barnacle_trio._errors import ProcessDown
from barnacle_trio.distribution import open_node
from barnacle_trio.etf import Atom
from barnacle_trio.testing import HANG, ScriptedStrategy, open_memory_nodes
from tests.beam import COOKIE, Beam, open_beam, unique
from tests.erlang import Erlang

A, B = NodeName("a@memory"), NodeName("b@memory")
OK, ERROR = Atom("ok"), Atom("error")
NAME = "my_barnacle"


async def test_calls_from_a_python_node(autojump_clock: MockClock) -> None:
    strategy = ScriptedStrategy([A, B])
    async with (
        open_memory_nodes(A, B) as (a, b),
        open_barnacle(strategy, a, registered_name=NAME, poll_interval=1000) as barnacle,
    ):

        async def call(request: str) -> Any:
            return await b.call((NAME, A), Atom(request))

        ok, result = await call("refresh")
        assert ok is OK
        assert result[Atom("nodes")] == [Atom(B)]
        assert await call("nodes") == (OK, [Atom(B)])
        assert await call("pause") is OK
        assert barnacle.status().state == "paused"
        ok, status = await call("status")
        assert status[Atom("state")] is Atom("paused")
        assert status[Atom("peers")] == {Atom(B): Atom("connected")}
        assert await call("resume") is OK
        assert barnacle.status().state == "running"
        assert await call("dance") == (ERROR, Atom("unknown_request"))


async def test_a_slow_refresh_is_pending_and_holds_nobody_up(autojump_clock: MockClock) -> None:
    strategy = ScriptedStrategy(HANG)
    async with (
        open_memory_nodes(A, B) as (a, b),
        open_barnacle(strategy, a, registered_name=NAME, poll_interval=1000),
        trio.open_nursery() as nursery,
    ):
        took: list[float] = []

        async def refresh() -> None:
            began = trio.current_time()
            assert await b.call((NAME, A), Atom("refresh")) == (ERROR, Atom("pending"))
            took.append(trio.current_time() - began)

        for _ in range(20):
            nursery.start_soon(refresh)
        await trio.sleep(1)
        began = trio.current_time()
        ok, status = await b.call((NAME, A), Atom("status"))
        assert (ok, status[Atom("state")]) == (OK, Atom("running"))
        assert trio.current_time() == began
        await trio.sleep(3.5)
        assert took == [pytest.approx(4.0)] * 20


async def test_a_taken_name_is_told_on_entering(autojump_clock: MockClock) -> None:
    async with open_memory_nodes(A) as (a,), a.open_mailbox(NAME):
        with pytest.raises(ConfigurationError, match="cannot be registered as 'my_barnacle'"):
            async with open_barnacle(ScriptedStrategy(), a, registered_name=NAME):
                raise AssertionError("it is not entered")
    async with open_memory_nodes(A) as (a,):
        for _ in range(2):  # the name is free again each time
            async with open_barnacle(ScriptedStrategy(), a, registered_name=NAME):
                assert await a.call((NAME, A), Atom("nodes")) == (OK, [])
                with pytest.raises(ConfigurationError, match="already"):
                    async with open_barnacle(ScriptedStrategy(), a, registered_name=NAME):
                        raise AssertionError("it is not entered")


async def test_the_process_ends_with_the_barnacle(autojump_clock: MockClock) -> None:
    async with (
        open_memory_nodes(A, B) as (a, b),
        open_barnacle(ScriptedStrategy(HANG), a, registered_name=NAME) as barnacle,
    ):

        async def down(request: str, reason: str) -> None:
            with pytest.raises(ProcessDown) as caught:
                await b.call((NAME, A), Atom(request))
            assert caught.value.reason is Atom(reason)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(down, "refresh", "shutdown")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(barnacle.shutdown)
        await down("nodes", "noproc")


async def test_a_custom_transport_serves_through_its_node(autojump_clock: MockClock) -> None:
    async def connect(_name: NodeName) -> None:
        await trio.lowlevel.checkpoint()

    async with open_memory_nodes(A) as (a,):
        transport = custom_transport(a, connect=connect)
        async with open_barnacle(ScriptedStrategy(), transport, registered_name=NAME):
            assert await a.call((NAME, A), Atom("nodes")) == (OK, [])


@pytest.mark.usefixtures("epmd_port")
async def test_calls_from_a_beam_node(erlang: Erlang, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("barnacle_trio._process.ANSWER_WITHIN", 0.5)
    strategy = ScriptedStrategy()
    async with (
        open_node(unique("py"), cookie=COOKIE) as node,
        open_beam(erlang) as beam,
        open_barnacle(strategy, node, registered_name=NAME, poll_interval=1000) as barnacle,
    ):
        strategy.answer = [beam.name]
        refreshed = await ask(beam, node.name, "refresh")
        for part in ("{ok,#{", f"nodes => ['{beam.name}']", "failed => #{}"):
            assert part in refreshed
        assert await ask(beam, node.name, "nodes") == f"{{ok,['{beam.name}']}}"
        assert await ask(beam, node.name, "pause") == "ok"
        assert barnacle.status().state == "paused"
        assert "state => paused" in await ask(beam, node.name, "status")
        assert await ask(beam, node.name, "resume") == "ok"
        assert barnacle.status().state == "running"
        assert await ask(beam, node.name, "{dance, 7}") == "{error,unknown_request}"
        await beam.eval(f"gen_server:cast({{{NAME}, '{node.name}'}}, refresh)")
        strategy.answer = OSError("no route")
        assert await ask(beam, node.name, "refresh") == '{error,<<"no route">>}'
        strategy.answer = HANG
        assert await ask(beam, node.name, "refresh") == "{error,pending}"


async def ask(beam: Beam, node: str, request: str) -> str:
    """``GenServer.call({:my_barnacle, node}, request)``."""
    with trio.fail_after(10):
        return await beam.eval(f"gen_server:call({{{NAME}, '{node}'}}, {request})")
