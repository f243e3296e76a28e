"""A command that is told to end: it drains its node, so that the others see that it left."""

from __future__ import annotations

import signal
from contextlib import AsyncExitStack

import pytest
import trio

from barnacle_trio import open_node
from tests.beam import COOKIE, open_beam, unique
from tests.cli_lab import assert_left_well, running
from tests.erlang import Erlang
from tests.test_node_memory import record, told


@pytest.mark.usefixtures("epmd_port")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_has_it_leave_as_it_should(number: signal.Signals) -> None:
    name = unique("cli")
    async with open_node(unique("peer"), cookie=COOKIE) as peer:
        changes = record(peer)
        async with running(
            "run", "--name", name, "--cookie", COOKIE, "--json", f"epmd:{peer.name}"
        ) as command:
            await command.event("NodeUp", node=peer.name)
            await peer.nodes.wait_value(lambda nodes: name in nodes)
            with trio.fail_after(5):
                ended = await command.end(number)
        await peer.nodes.wait_value(frozenset())
        assert told(changes) == ["up", "left"]
        assert_left_well(ended)
        last = [event["type"] for event in ended.objects()][-3:]
        assert last == ["Draining", "NodeDown", "ShutDown"]


async def test_a_beam_node_sees_one_nodedown(epmd_port: int, erlang: Erlang) -> None:
    name, beam_name = unique("cli"), unique("beam")
    arguments = ("--cookie", COOKIE, "--poll-interval", "0.2", "--json", f"epmd:{beam_name}")
    async with AsyncExitStack() as stack:
        command = await stack.enter_async_context(running("run", "--name", name, *arguments))
        await command.event("Started")  # it runs the port mapper
        beam = await stack.enter_async_context(open_beam(erlang, beam_name))
        await beam.eval("net_kernel:monitor_nodes(true).")
        await command.event("NodeUp", node=beam_name)
        ended = await command.end(signal.SIGTERM)
        heard = await beam.eval(
            f"""
            receive {{nodedown, '{name}'}} -> ok after 5000 -> none end,
            (fun Rest() -> receive {{Kind, '{name}'}} -> [Kind | Rest()]
             after 300 -> [] end end)().
            """
        )
        assert heard in ("[nodeup]", "[]"), "the latter where it was up before it was asked for"
        assert ended.code == 0
