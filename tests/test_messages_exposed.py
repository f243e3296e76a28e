"""Functions of ours that real BEAM nodes call."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from barnacle_trio import Node, open_node
from barnacle_trio._errors import ProcessExit, RemoteError
from barnacle_trio.distribution import _exposed
from barnacle_trio.etf import Atom
from tests.beam import COOKIE, Beam, open_beam, unique
from tests.erlang import Erlang

pytestmark = pytest.mark.usefixtures("epmd_port")


class Functions:
    """What is exposed in these tests, and what came of it."""

    def __init__(self) -> None:
        self.casts: list[Any] = []
        self.begun = trio.Event()
        self.cancelled = trio.Event()

    def table(self) -> dict[tuple[str, str], Any]:
        return {
            ("math", "add"): self.add,
            ("py", "echo"): self.echo,
            ("py", "say"): self.say,
            ("py", "error"): self.error,
            ("py", "sleep"): self.sleep,
            ("py", "until_asleep"): self.until_asleep,
            ("py", "crash"): self.crash,
            ("py", "strange"): self.strange,
        }

    async def add(self, a: Any, b: Any = 0) -> Any:
        return a + b

    async def echo(self, *terms: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return terms

    async def say(self, what: Any) -> Any:
        self.casts.append(what)

    async def error(self, kind: bytes, reason: Any) -> None:
        if kind == b"process_exit":
            raise ProcessExit(reason)
        raise RemoteError(kind.decode(), reason, [])

    async def crash(self) -> None:
        raise KeyError("broken")

    async def strange(self) -> Any:
        return object()

    async def until_asleep(self) -> Any:
        await self.begun.wait()
        return Atom("asleep")

    async def sleep(self, seconds: float) -> Any:
        self.begun.set()
        try:
            await trio.sleep(seconds)
        except trio.Cancelled:
            self.cancelled.set()
            raise
        return "slept"


@asynccontextmanager
async def exposed(erlang: Erlang) -> AsyncIterator[tuple[Node, Beam, Functions]]:
    functions = Functions()
    async with open_node(unique("py"), cookie=COOKIE) as node, open_beam(erlang) as beam:
        await node.connect(beam.name)
        with node.expose(functions.table()):
            yield node, beam, functions


async def check(node: Node, beam: Beam, rows: dict[str, str]) -> None:
    for code, expected in rows.items():
        with trio.fail_after(5):
            value = await beam.eval(re.sub(r"\bN\b", f"'{node.name}'", code))
        assert value == expected, code


# `N` stands for our node.
VALUES = {
    "erpc:call(N, math, add, [1, 2])": "3",
    "erpc:call(N, math, add, [1])": "1",
    "erpc:call(N, math, add, [1, 2], 5000)": "3",
    "rpc:call(N, math, add, [1, 2])": "3",
    "rpc:call(N, math, add, [1, 2], 5000)": "3",
    "rpc:block_call(N, math, add, [1, 2])": "3",
    "rpc:block_call(N, math, add, [1, 2], 5000)": "3",
    'rpc:call(N, py, echo, [true, nil, undefined, <<1>>, #{a => [1.5]}, "text"])': (
        '{true,nil,undefined,<<1>>,#{a => [1.5]},"text"}'
    ),
    "rpc:multicall([N], math, add, [1, 2])": "{[3],[]}",
    "erpc:multicall([N], math, add, [1, 2])": "[{ok,3}]",
    "erpc:receive_response(erpc:send_request(N, math, add, [1, 2]))": "3",
    "rpc:yield(rpc:async_call(N, math, add, [1, 2]))": "3",
    "gen_server:call({rex, N}, {call, math, add, [1, 2], group_leader()})": "3",
    "{rex, N} ! {self(), {call, math, add, [1, 2], user}}, receive {rex, R} -> R end": "3",
    "{rex, N} ! {self(), {call, m, f, [], user}}, receive {rex, R} -> R end": "{badrpc,notsup}",
    "{rex, N} ! {self(), features_request}, receive {features_reply, _, F} -> F end": "[erpc]",
}
REFUSED = {
    'try erpc:call(N, os, cmd, ["id"]) catch C:R -> {C, R} end': "{error,{erpc,notsup}}",
    "try erpc:call(N, math, nothing, []) catch C:R -> {C, R} end": "{error,{erpc,notsup}}",
    "try erpc:call(N, math, '__init__', []) catch C:R -> {C, R} end": "{error,{erpc,notsup}}",
    "try erpc:call(N, fun() -> 1 end) catch C:R -> {C, R} end": "{error,{erpc,notsup}}",
    "rpc:call(N, erlang, node, [])": "{badrpc,notsup}",
    "rpc:block_call(N, erlang, node, [])": "{badrpc,notsup}",
    "rpc:multicall([N], erlang, node, [])": "{[{badrpc,notsup}],[]}",
    "gen_server:call({rex, N}, dance)": "{badrpc,notsup}",
    "rpc:cast(N, erlang, node, [])": "true",
    "erpc:cast(N, erlang, node, [])": "ok",
    "R = spawn_request(N, erlang, node, []), receive {spawn_reply, R, E, W} -> {E, W} end": (
        "{error,notsup}"
    ),
    "try spawn_monitor(N, erlang, node, []) catch C:R -> {C, R} end": "{error,notsup}",
    "rpc:sbcast([N], nobody, hello) =:= {[], [N]}": "true",
}
RAISED = {
    "try erpc:call(N, math, add, []) catch C:R -> {C, R} end": (
        "{error,{exception,undef,[{math,add,[],[]}]}}"
    ),
    "try erpc:call(N, math, add, [1, 2, 3]) catch C:{_, R, _} -> {C, R} end": "{error,undef}",
    'try erpc:call(N, py, error, [<<"error">>, x]) catch C:R -> {C, R} end': (
        "{error,{exception,x,[]}}"
    ),
    'try erpc:call(N, py, error, [<<"throw">>, x]) catch C:R -> {C, R} end': "{throw,x}",
    'try erpc:call(N, py, error, [<<"exit">>, x]) catch C:R -> {C, R} end': (
        "{exit,{exception,x}}"
    ),
    'try erpc:call(N, py, error, [<<"process_exit">>, x]) catch C:R -> {C, R} end': (
        "{exit,{exception,x}}"
    ),
    "try erpc:call(N, py, crash, []) catch C:R -> {C, R} end": (
        '{error,{exception,{python_error,<<"KeyError">>,<<"\'broken\'">>},[]}}'
    ),
    "try erpc:call(N, py, strange, []) catch C:{_, {W, _, _}, _} -> {C, W} end": (
        "{error,python_error}"
    ),
    'rpc:call(N, py, error, [<<"error">>, x])': "{badrpc,{'EXIT',{x,[]}}}",
    'rpc:call(N, py, error, [<<"throw">>, x])': "x",
    'rpc:call(N, py, error, [<<"exit">>, x])': "{badrpc,{'EXIT',x}}",
    "rpc:call(N, math, add, [])": "{badrpc,{'EXIT',{undef,[{math,add,[],[]}]}}}",
    'rpc:block_call(N, py, error, [<<"error">>, x])': "{badrpc,{'EXIT',{x,[]}}}",
    'rpc:block_call(N, py, error, [<<"throw">>, x])': "x",
    'rpc:block_call(N, py, error, [<<"exit">>, x])': "{badrpc,{'EXIT',x}}",
    "rpc:block_call(N, math, add, [])": "{badrpc,{'EXIT',{undef,[{math,add,[],[]}]}}}",
}
SPAWNED = {
    "{P, R} = spawn_monitor(N, math, add, [1]), receive {'DOWN', R, _, P, W} -> W end": "normal",
    "{_, R} = spawn_monitor(N, math, add, []), receive {'DOWN', R, _, _, W} -> W end": (
        "{undef,[{math,add,[],[]}]}"
    ),
    '{_, R} = spawn_monitor(N, py, error, [<<"throw">>, x]),'
    " receive {'DOWN', R, _, _, W} -> W end": "{{nocatch,x},[]}",
    '{_, R} = spawn_monitor(N, py, error, [<<"exit">>, x]),'
    " receive {'DOWN', R, _, _, W} -> W end": "x",
    "process_flag(trap_exit, true), P = spawn_link(N, math, add, [1]),"
    " receive {'EXIT', P, W} -> W end": "normal",
    'process_flag(trap_exit, true), P = spawn_link(N, py, error, [<<"exit">>, x]),'
    " receive {'EXIT', P, W} -> W end": "x",
    "{P, R} = spawn_opt(N, py, sleep, [100], [link, monitor, {priority, high}]),"
    " unlink(P), asleep = erpc:call(N, py, until_asleep, []), exit(P, kill),"
    " receive {'DOWN', R, _, P, W} -> W end": "killed",
    "P = spawn(N, py, sleep, [100]), exit(P, bye), R = monitor(process, P),"
    " receive {'DOWN', R, _, P, W} -> W end": "noproc",
}


async def test_values_go_back(erlang: Erlang) -> None:
    async with exposed(erlang) as (node, beam, _):
        await check(node, beam, VALUES)
        assert len(node._exposed) == 0


async def test_what_is_not_exposed_is_refused_at_once(erlang: Erlang) -> None:
    async with exposed(erlang) as (node, beam, _):
        await check(node, beam, REFUSED)
        assert node.nodes.value == {beam.name}


async def test_what_a_function_raises_is_raised_there(erlang: Erlang) -> None:
    async with exposed(erlang) as (node, beam, _):
        await check(node, beam, RAISED)
        assert node.nodes.value == {beam.name}


async def test_spawned_processes_end_as_erlangs_do(erlang: Erlang) -> None:
    async with exposed(erlang) as (node, beam, functions):
        await check(node, beam, SPAWNED)
        with trio.fail_after(3):
            await functions.cancelled.wait()


async def test_casts_and_spawns_run(erlang: Erlang) -> None:
    async with exposed(erlang) as (node, beam, functions):
        rows = {
            "rpc:cast(N, py, say, [one])": "true",
            "erpc:cast(N, py, say, [two])": "ok",
            "erpc:multicast([N], py, say, [three])": "ok",
            "gen_server:cast({rex, N}, {cast, py, say, [four], group_leader()})": "ok",
            "is_pid(spawn(N, py, say, [five]))": "true",
            "rpc:call(N, math, add, [1, 2])": "3",
        }
        await check(node, beam, rows)
        said = [Atom(name) for name in ("one", "two", "three", "four", "five")]
        assert functions.casts == said


async def test_a_multicall_over_exposing_and_other_nodes(erlang: Erlang) -> None:
    async with (
        exposed(erlang) as (node, beam, _),
        open_node(unique("py"), cookie=COOKIE) as other,
        open_beam(erlang) as third,
    ):
        await other.connect(beam.name)
        await third.eval(f"net_kernel:connect_node('{beam.name}')")
        names = ", ".join(f"'{name}'" for name in (node.name, other.name, third.name))
        code = f"erpc:multicall([{names}], math, add, [1, 2])"
        with trio.fail_after(5):
            answers = await beam.eval(code)
        assert answers.startswith("[{ok,3},{error,{erpc,notsup}},{error,{exception,undef,")
        answers = await beam.eval(f"element(1, rpc:multicall([{names}], math, add, [1, 2]))")
        assert answers.startswith("[3,{badrpc,notsup},{badrpc,{'EXIT',{undef,")


async def test_a_caller_that_stops_waiting_leaves_the_call_running(erlang: Erlang) -> None:
    async with exposed(erlang) as (node, beam, functions):
        rows = {
            "try erpc:call(N, py, sleep, [0.3], 100) catch C:R -> {C, R} end": (
                "{error,{erpc,timeout}}"
            ),
            "rpc:call(N, py, sleep, [0.3], 100)": "{badrpc,timeout}",
            "receive X -> X after 500 -> nothing end": "nothing",
        }
        await check(node, beam, rows)
        assert not functions.cancelled.is_set()
        assert len(node._exposed) == 0


@pytest.mark.parametrize("call", ["erpc:call", "rpc:block_call"])
async def test_a_call_is_cancelled_when_its_callers_node_is_lost(erlang: Erlang, call: str) -> None:
    async with exposed(erlang) as (node, beam, functions):
        await beam.eval(f"spawn(fun() -> {call}('{node.name}', py, sleep, [100]) end)")
        with trio.fail_after(5):
            await functions.begun.wait()
            await beam.kill()
            await functions.cancelled.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert len(node._exposed) == 0


async def test_a_linked_process_ends_with_who_asked_for_it(erlang: Erlang) -> None:
    async with exposed(erlang) as (node, beam, functions):
        code = f"P = spawn(fun() -> spawn_link('{node.name}', py, sleep, [100]),"
        await beam.eval(f"{code} receive stop -> exit(over) end end), register(owner, P)")
        with trio.fail_after(5):
            await functions.begun.wait()
            await beam.eval("owner ! stop")
            await functions.cancelled.wait()


async def test_an_unattended_process_outlives_the_connection(erlang: Erlang) -> None:
    async with exposed(erlang) as (node, beam, functions):
        assert await beam.eval(f"rpc:cast('{node.name}', py, sleep, [0.2])") == "true"
        with trio.fail_after(5):
            await functions.begun.wait()
            await beam.kill()
            while len(node._exposed):  # noqa: ASYNC110 - there is nothing to wait for but time
                await trio.sleep(0.01)
        assert not functions.cancelled.is_set()


async def test_a_hundred_calls_at_once(erlang: Erlang) -> None:
    async with exposed(erlang) as (node, beam, _):
        code = (
            f"Rs = [erpc:send_request('{node.name}', math, add, [I, I]) || I <- lists:seq(1, 100)],"
            "[erpc:receive_response(R) || R <- Rs] =:= [2 * I || I <- lists:seq(1, 100)]"
        )
        with trio.fail_after(10):
            assert await beam.eval(code) == "true"


async def test_calls_beyond_the_limit_are_refused(
    erlang: Erlang, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_exposed, "MAX_CALLS", 3)
    async with exposed(erlang) as (node, beam, _):
        rows = {
            "Ps = [spawn(N, py, sleep, [100]) || _ <- [1, 2, 3]], put(ps, Ps), ok": "ok",
            "try erpc:call(N, math, add, [1]) catch C:R -> {C, R} end": (
                "{error,{erpc,system_limit}}"
            ),
            "rpc:block_call(N, math, add, [1])": "{badrpc,system_limit}",
            "[exit(P, kill) || P <- get(ps)], (fun F() -> try erpc:call(N, math, add, [1])"
            " catch error:{erpc, system_limit} -> timer:sleep(10), F() end end)()": "1",
        }
        await check(node, beam, rows)
