"""The example on Partisan. Partisan itself cannot be had here: modules of ours stand in for it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio

from barnacle_trio import ConnectError, RemoteError, open_node
from barnacle_trio.epmd import serve_epmd
from tests.beam import Beam, open_beam, unique
from tests.beam_modules import load_module
from tests.erlang import Erlang
from tests.test_examples import COOKIE, command, load, promised, run

EXAMPLE = "partisan.py"

# The names, arguments and answers of Partisan 5; a node joins a moment after it was told to.
_PARTISAN = """
-module(partisan).
-export([node_spec/0]).
node_spec() ->
    #{name => node(), listen_addrs => [#{ip => {127,0,0,1}, port => 10200}], channels => #{}}.
"""
_PEER_SERVICE = """
-module(partisan_peer_service).
-export([join/1, leave/1, members/0]).
join(#{name := Name}) when Name =:= node() -> {error, self_join};
join(#{name := Name, listen_addrs := [#{ip := {_, _, _, _}, port := _}]}) ->
    spawn(fun() -> timer:sleep(50), set([Name | known() -- [Name]]) end),
    ok.
leave(#{name := Name}) -> set(known() -- [Name]), ok.
members() -> {ok, [node() | known()]}.
known() -> application:get_env(partisan, members, []).
set(Members) -> application:set_env(partisan, members, Members).
"""


@asynccontextmanager
async def open_partisans(erlang: Erlang, *names: str) -> AsyncIterator[list[Beam]]:
    """BEAM nodes with stand-ins for Partisan."""
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel, "the test is over")
        await nursery.start(serve_epmd)
        beams = []
        for name in names:
            beam = await stack.enter_async_context(open_beam(erlang, name, cookie=COOKIE))
            await load_module(beam, _PARTISAN)
            await load_module(beam, _PEER_SERVICE)
            beams.append(beam)
        yield beams


async def members(beam: Beam) -> set[str]:
    told = await beam.eval("[atom_to_list(M) || M <- element(2, partisan_peer_service:members())]")
    return set(json.loads(told))


async def test_nodes_join_by_a_stand_in_for_partisan(erlang: Erlang, epmd_port: int) -> None:
    names = [f"{number}@127.0.0.1" for number in ("one", "two", "three")]
    async with open_partisans(erlang, *names) as (gate, *_others):
        printed, _told = await run(*command(EXAMPLE, *names))
        assert printed == promised(EXAMPLE)
        assert await members(gate) == set(names)


@asynccontextmanager
async def open_service(gate: Beam) -> AsyncIterator[Any]:
    async with open_node(unique("keeper"), cookie=COOKIE, hidden=True) as node:
        yield load(EXAMPLE).PeerService(node, gate.name)


async def test_nodes_leave_and_faults_are_told_by_a_stand_in_for_partisan(
    erlang: Erlang, epmd_port: int
) -> None:
    async with (
        open_partisans(erlang, unique("gate"), unique("other")) as (gate, other),
        open_service(gate) as service,
        open_service(gate) as newcomer,
    ):
        with trio.fail_after(20):
            await service.connect(other.name)
            assert await service.list_nodes() == {other.name}
            await service.disconnect(other.name)
            assert await service.list_nodes() == set()
            await service.connect(other.name)
            await newcomer.disconnect(other.name)
            assert await members(gate) == {gate.name}
            with pytest.raises(ConnectError, match="self_join"):
                await service.connect(gate.name)
            with pytest.raises(ConnectError):
                await service.connect(unique("absent"))
            assert await other.eval("code:delete(partisan)") == "true"
            assert await other.eval("code:purge(partisan)") == "false"
            with pytest.raises(RemoteError):
                await service.connect(other.name)
