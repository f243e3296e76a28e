"""Gen_servers in Python and gen_servers of BEAM nodes, called across."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import trio

from barnacle_trio._errors import ProcessDown
from barnacle_trio.distribution import Node, open_node
from barnacle_trio.etf import Atom, Pid
from tests.beam import COOKIE, Beam, open_beam, unique
from tests.beam_modules import load_module
from tests.cluster_lab import until
from tests.erlang import Erlang

pytestmark = pytest.mark.usefixtures("epmd_port")

PATIENCE = 10
"""Seconds for anything that should come at once."""
LARGE = 20_000_000
ECHO, SLEEP, CRASH, STOP, SEEN, WHO, LEN = map(
    Atom, ("echo", "sleep", "crash", "stop", "seen", "who", "len")
)

SERVER = r"""
-module(a_server).
-behaviour(gen_server).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

init(Seen) -> {ok, Seen}.

handle_call({echo, Term}, _, Seen) -> {reply, Term, Seen};
handle_call({len, Binary}, _, Seen) -> {reply, byte_size(Binary), Seen};
handle_call({sleep, Time}, From, Seen) ->
    spawn(fun() -> timer:sleep(Time), gen_server:reply(From, Time) end),
    {noreply, Seen};
handle_call(who, _, Seen) -> {reply, self(), Seen};
handle_call(seen, _, Seen) -> {reply, lists:reverse(Seen), Seen};
handle_call({stop, Reason}, _, Seen) -> {stop, Reason, Seen};
handle_call(crash, _, _) -> error(on_purpose).

handle_cast(Message, Seen) -> {noreply, [{cast, Message} | Seen]}.
handle_info(Message, Seen) -> {noreply, [{info, Message} | Seen]}.
"""

STATEM = r"""
-module(a_statem).
-behaviour(gen_statem).
-export([callback_mode/0, init/1, handle_event/4]).

callback_mode() -> handle_event_function.
init([]) -> {ok, off, 0}.
handle_event({call, From}, push, off, N) -> {next_state, on, N + 1, [{reply, From, {on, N + 1}}]};
handle_event({call, From}, push, on, N) -> {next_state, off, N, [{reply, From, {off, N}}]};
handle_event({call, _}, crash, _, _) -> exit(on_purpose);
handle_event(cast, reset, _, _) -> {next_state, off, 0}.
"""


class Server:
    """Does as it is told."""

    def __init__(self) -> None:
        self.pid: Pid | None = None  # of the first life
        self.seen: list[Any] = []
        self.callers: list[Pid] = []

    async def call(self, request: Any, sender: Pid) -> Any:
        self.callers.append(sender)
        match request:
            case (Atom("echo"), term):
                await trio.lowlevel.checkpoint()
                return term
            case (Atom("sleep"), time):
                await trio.sleep(time / 1000)
                return time
            case Atom("crash"):
                raise KeyError("on purpose")
            case Atom("odd"):
                return object()
            case Atom("pid"):
                return self.pid
        return list(self.seen)

    async def cast(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.seen.append((Atom("cast"), message))

    async def info(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.seen.append((Atom("info"), message))


@dataclass
class Stage:
    """A Python node that serves ``server``, and a BEAM node."""

    node: Node
    beam: Beam
    handler: Server

    async def ask(self, code: str) -> str:
        """Run code there, in which ``S`` is our server."""
        with trio.fail_after(PATIENCE):
            return await self.beam.eval(f"S = {{server, '{self.node.name}'}}, {code}")

    async def start(self, source: str, name: str, behaviour: str = "gen_server") -> None:
        """Start a process of a module there."""
        module = await load_module(self.beam, source)
        started = await self.beam.eval(
            f"element(1, {behaviour}:start({{local, {name}}}, {module}, [], []))"
        )
        assert started == "ok"


@asynccontextmanager
async def open_stage(erlang: Erlang, *, max_concurrent: int = 1) -> AsyncIterator[Stage]:
    async with (
        open_node(unique("py"), cookie=COOKIE) as node,
        open_beam(erlang) as beam,
        trio.open_nursery() as nursery,
    ):
        handler = Server()
        handler.pid = await nursery.start(
            partial(node.serve_process, "server", handler, max_concurrent=max_concurrent)
        )
        yield Stage(node, beam, handler)
        nursery.cancel_scope.cancel()


async def down(node: Node, dest: Any, request: Any) -> Any:
    """The reason for which a call fails."""
    with pytest.raises(ProcessDown) as caught, trio.fail_after(PATIENCE):
        await node.call(dest, request)
    return caught.value.reason


# Our server is started anew when it crashed, was killed or was stopped, which takes a moment.
AGAIN = """(fun F() ->
  try gen_server:call(S, {echo, again})
  catch exit:{noproc, _} -> timer:sleep(20), F()
  end
end)()""".replace("\n", " ")
CRASHED = '{python_error,<<"KeyError">>,<<"\'on purpose\'">>}'


# -- a BEAM node calls us -------------------------------------------------------------------------


async def test_calls_casts_and_messages_from_a_beam_node(erlang: Erlang) -> None:
    async with open_stage(erlang) as stage:
        assert await stage.ask("gen_server:call(S, {echo, #{a => [1, <<2>>]}})") == (
            "#{a => [1,<<2>>]}"
        )
        assert await stage.ask("gen_server:cast(S, one), S ! two, gen_server:call(S, seen)") == (
            "[{cast,one},{info,two}]"
        )
        assert stage.handler.callers[0].node.name == stage.beam.name
        assert await stage.ask("gen_server:call(S, {echo, self()}) =:= self()") == "true"


async def test_every_way_of_otp_to_call(erlang: Erlang) -> None:
    """Each has a tag of its own."""
    async with open_stage(erlang) as stage:
        name = stage.node.name
        call = "{echo, hi}"
        ways = {
            f"gen_server:call(S, {call}, infinity)": "hi",
            f"gen_server:receive_response(gen_server:send_request(S, {call}), 5000)": "{reply,hi}",
            "gen_server:receive_response(gen_server:send_request("
            f"S, {call}, label, gen_server:reqids_new()), 5000, true)": "{{reply,hi},label,",
            f"gen_server:multi_call(['{name}'], server, {call})": f"{{[{{'{name}',hi}}],[]}}",
            f"gen_server:multi_call(['{name}', node()], server, {call}, 5000)": (
                f"{{[{{'{name}',hi}}],['{stage.beam.name}']}}"
            ),
            f"gen_statem:call(S, {call})": "hi",
            f"gen_statem:call(S, {call}, {{clean_timeout, 5000}})": "hi",
            f"gen_statem:call(S, {call}, {{dirty_timeout, 5000}})": "hi",
            f"gen:call(S, '$gen_call', {call})": "{ok,hi}",
        }
        for code, answer in ways.items():
            got = await stage.ask(code)
            assert got.startswith(answer), (code, got)
        assert await stage.ask("process_info(self(), messages)") == "{messages,[]}"


async def test_a_crash_is_the_callers_reason_and_the_next_call_works(erlang: Erlang) -> None:
    async with open_stage(erlang) as stage:
        caught = await stage.ask("gen_server:call(S, crash)")
        assert caught.startswith(f"{{'CAUGHT',exit,{{{CRASHED},{{gen_server,call,"), caught
        assert await stage.ask(AGAIN) == "again"
        answer = await stage.ask(f"gen_server:multi_call(['{stage.node.name}'], server, crash)")
        assert answer == f"{{[],['{stage.node.name}']}}"
        assert await stage.ask(AGAIN) == "again"
        caught = await stage.ask("gen_server:call(S, odd)")
        assert "EncodeError" in caught
        assert await stage.ask(AGAIN) == "again"
        assert stage.node.nodes.value == {stage.beam.name}


async def test_links_and_monitors_from_a_beam_node(erlang: Erlang) -> None:
    async with open_stage(erlang) as stage:
        reasons = await stage.ask(
            "P = gen_server:call(S, pid), Me = self(), R1 = monitor(process, S),"
            " L = spawn(fun() -> link(P), Me ! linked, receive after infinity -> ok end end),"
            " R2 = monitor(process, L), receive linked -> catch gen_server:call(S, crash) end,"
            " [receive {'DOWN', R, process, Item, Why} -> {Item, Why} end || R <- [R1, R2]]"
            f" =:= [{{S, {CRASHED}}}, {{L, {CRASHED}}}]"
        )
        assert reasons == "true"


async def test_exit_signals_from_a_beam_node(erlang: Erlang) -> None:
    async with open_stage(erlang) as stage:
        reasons = await stage.ask(
            "P = gen_server:call(S, pid), R = monitor(process, P), exit(P, normal),"
            " again = gen_server:call(P, {echo, again}), exit(P, kill),"
            " receive {'DOWN', R, _, _, Why} -> Why end"
        )
        assert reasons == "killed"
        assert await stage.ask(AGAIN) == "again"


async def test_an_unknown_name_is_noproc_at_once(erlang: Erlang) -> None:
    async with open_stage(erlang) as stage:
        absent = f"{{absent, '{stage.node.name}'}}"
        caught = await stage.ask(f"gen_server:call({absent}, hi)")
        assert caught.startswith("{'CAUGHT',exit,{noproc,{gen_server,call,"), caught
        assert await stage.ask(f"gen_server:cast({absent}, hi)") == "ok"


async def test_callers_that_give_up_or_die(erlang: Erlang) -> None:
    async with open_stage(erlang, max_concurrent=3) as stage:
        # A BEAM node forgets to take back a monitor that it gives up before it is connected.
        assert await stage.ask("net_kernel:connect_node(element(2, S))") == "true"
        caught = await stage.ask("gen_server:call(S, {sleep, 300}, 50)")
        assert caught.startswith("{'CAUGHT',exit,{timeout,"), caught
        await stage.ask("spawn(fun() -> gen_server:call(S, {sleep, 300}) end), ok")
        await stage.ask(
            "P = spawn(fun() -> gen_server:call(S, {sleep, 1000}) end),"
            " timer:sleep(500), exit(P, kill), timer:sleep(1000), ok"
        )
        assert len(stage.handler.callers) == 3
        assert await stage.ask("{gen_server:call(S, {echo, 1}), process_info(self(), messages)}")
        assert await stage.ask("process_info(self(), messages)") == "{messages,[]}"
        pid = stage.handler.pid
        assert pid is not None
        with trio.fail_after(5):  # the answer comes by another way than the last demonitor
            while stage.node._processes._table.by_pid[pid].watchers:  # noqa: ASYNC110
                await trio.sleep(0.01)


async def test_two_hundred_calls_from_a_beam_node(erlang: Erlang) -> None:
    async with open_stage(erlang, max_concurrent=200) as stage:
        answer = await stage.ask(
            "Me = self(),"
            " [spawn(fun() -> T = (I * 37) rem 100, Me ! {I, gen_server:call(S, {sleep, T}) =:= T}"
            " end) || I <- lists:seq(1, 200)],"
            " [receive {I, Right} -> Right end || I <- lists:seq(1, 200)]"
            " =:= lists:duplicate(200, true)"
        )
        assert answer == "true"


async def test_large_requests_and_replies(erlang: Erlang) -> None:
    async with open_stage(erlang) as stage:
        assert (
            await stage.ask(
                f"B = binary:copy(<<7>>, {LARGE}), gen_server:call(S, {{echo, B}}, 20000) =:= B"
            )
            == "true"
        )
        await stage.start(SERVER, "theirs")
        large = bytes(LARGE)
        with trio.fail_after(PATIENCE):
            assert await stage.node.call(("theirs", stage.beam.name), (LEN, large)) == LARGE
            assert await stage.node.call(("theirs", stage.beam.name), (ECHO, large)) == large


async def test_a_shell_looks_into_our_process_and_stops_it(erlang: Erlang) -> None:
    async with open_stage(erlang) as stage:
        state = await stage.ask("sys:get_state(S)")
        assert 'handler => <<"Server">>' in state
        assert "CAUGHT" not in state
        status = await stage.ask("element(3, sys:get_status(S))")
        assert status == "{module,barnacle_trio}"
        assert await stage.ask("gen_server:stop(S)") == "ok"
        assert await stage.ask(AGAIN) == "again"
        assert await stage.ask("gen_server:stop(S, {shutdown, why}, 5000)") == "ok"
        assert await stage.ask(AGAIN) == "again"


# -- we call a BEAM node --------------------------------------------------------------------------


async def test_calls_of_a_gen_server(erlang: Erlang) -> None:
    async with open_stage(erlang) as stage:
        await stage.start(SERVER, "theirs")
        node, theirs = stage.node, ("theirs", stage.beam.name)
        term = {"text": [1, 2.5, None, (Atom("x"),)]}
        assert await node.call(theirs, (ECHO, term)) == {b"text": [1, 2.5, None, (Atom("x"),)]}
        pid = await node.call(theirs, WHO)
        await node.cast(theirs, "by name")
        await node.cast(pid, "by pid")
        await node.send(pid, "plain")
        assert await node.call(pid, SEEN) == [
            (Atom("cast"), b"by name"),
            (Atom("cast"), b"by pid"),
            (Atom("info"), b"plain"),
        ]


async def test_gen_servers_that_end_in_a_call(erlang: Erlang) -> None:
    async with open_stage(erlang) as stage:
        node, theirs = stage.node, ("theirs", stage.beam.name)
        assert await down(node, theirs, WHO) is Atom("noproc")
        await stage.start(SERVER, "theirs")
        reason, stack = await down(node, theirs, CRASH)
        assert reason is Atom("on_purpose")
        assert stack[0][:2] == (Atom("a_server"), Atom("handle_call"))
        await stage.start(SERVER, "theirs")
        assert await down(node, theirs, (STOP, (Atom("shutdown"), 1))) == (Atom("shutdown"), 1)
        await stage.start(SERVER, "theirs")
        assert await down(node, theirs, (STOP, Atom("normal"))) is Atom("normal")
        await stage.start(SERVER, "theirs")
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                assert await down(node, theirs, (SLEEP, 60_000)) is Atom("killed")

            nursery.start_soon(call)
            assert await node.call(theirs, (SLEEP, 50)) == 50
            assert await stage.ask("exit(whereis(theirs), kill)") == "true"


async def test_a_node_that_dies_in_a_call(erlang: Erlang) -> None:
    async with open_stage(erlang) as stage:
        await stage.start(SERVER, "theirs")
        node, theirs = stage.node, ("theirs", stage.beam.name)
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                assert await down(node, theirs, (SLEEP, 60_000)) is Atom("noconnection")

            nursery.start_soon(call)
            assert await node.call(theirs, (SLEEP, 50)) == 50
            await stage.beam.kill()


async def test_a_call_dials_and_a_cancelled_one_leaves_no_monitor(erlang: Erlang) -> None:
    async with open_stage(erlang) as stage:
        await stage.start(SERVER, "theirs")
        node, theirs = stage.node, ("theirs", stage.beam.name)
        await node.disconnect(stage.beam.name)
        assert await node.call(theirs, (ECHO, 1)) == 1
        for _ in range(3):
            with trio.move_on_after(0.05) as scope:
                await node.call(theirs, (SLEEP, 200))
            assert scope.cancelled_caught
        assert await node.call(theirs, (ECHO, 2)) == 2

        async def unwatched() -> bool:  # the question goes another way than the demonitor
            held = await stage.ask("element(2, process_info(whereis(theirs), monitored_by))")
            return held == "[]"

        await until(unwatched)
        await trio.sleep(0.3)  # the replies that nobody waits for
        assert await node.call(theirs, (ECHO, 3)) == 3
        assert not node._processes._aliases
        assert not node._processes.monitors


async def test_two_hundred_calls_of_a_beam_node(erlang: Erlang) -> None:
    async with open_stage(erlang) as stage, trio.open_nursery() as nursery:
        await stage.start(SERVER, "theirs")

        async def call(time: int) -> None:
            with trio.fail_after(PATIENCE):
                assert await stage.node.call(("theirs", stage.beam.name), (SLEEP, time)) == time

        for number in range(200):
            nursery.start_soon(call, number * 37 % 100)


async def test_calls_of_a_gen_statem(erlang: Erlang) -> None:
    async with open_stage(erlang) as stage:
        await stage.start(STATEM, "switch", "gen_statem")
        node, switch = stage.node, ("switch", stage.beam.name)
        on, off, push = Atom("on"), Atom("off"), Atom("push")
        assert [await node.call(switch, push) for _ in range(3)] == [(on, 1), (off, 1), (on, 2)]
        await node.cast(switch, Atom("reset"))
        assert await node.call(switch, push) == (on, 1)
        reason = await down(node, switch, CRASH)
        assert reason is Atom("on_purpose")


async def test_many_large_calls_at_once_do_not_cost_the_connection() -> None:
    """Together more than may wait for a peer, both ways."""
    large = bytes(1024 * 1024)

    async def echo(request: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return request

    async with (
        open_node(unique("py"), cookie=COOKIE) as one,
        open_node(unique("py"), cookie=COOKIE) as other,
        trio.open_nursery() as nursery,
    ):
        pid = await nursery.start(partial(other.serve_process, None, echo, max_concurrent=100))

        async def call() -> None:
            assert await one.call(pid, large) == large

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as calls:
                for _ in range(80):
                    calls.start_soon(call)
        nursery.cancel_scope.cancel()
