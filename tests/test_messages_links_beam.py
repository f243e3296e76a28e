"""Links and exit signals between our processes and those of real BEAM nodes."""

from __future__ import annotations

import random
from functools import partial

import pytest
import trio

from barnacle_trio._errors import ProcessExit
from barnacle_trio.distribution._inbox import Exit
from barnacle_trio.distribution._mailbox import Mailbox
from barnacle_trio.etf import Atom
from tests.cluster_lab import until
from tests.erlang import Erlang
from tests.messages_beam_players import DOWN, EXIT, NOPROC, NORMAL, PROCESS, links, links_there
from tests.puppets import Puppet, Stage, open_stage, received

pytestmark = pytest.mark.usefixtures("epmd_port")


async def all_undone(stage: Stage, box: Mailbox) -> None:
    """Wait until a mailbox of ours has no link, nor waits for the acknowledgement of its end."""
    process = stage.node._processes._table.by_pid[box.pid]

    async def undone() -> bool:
        return not process.links

    await until(undone)


# -- links ---------------------------------------------------------------------------------------


async def test_the_end_of_a_beam_process_ends_ours(erlang: Erlang) -> None:
    reason = (Atom("shutdown"), [1, {Atom("k"): b"v"}])
    async with open_stage(erlang) as stage:
        for linked_by_us in (True, False):
            puppet = await stage.puppet()
            async with stage.node.open_mailbox() as box:
                if linked_by_us:
                    box.link(puppet.pid)
                else:
                    await puppet.run("link(B)", B=box.pid)
                await puppet.end(reason)
                with pytest.raises(ProcessExit) as caught:
                    await received(box)
                assert caught.value.reason == reason


async def test_the_end_of_ours_ends_a_beam_process(erlang: Erlang) -> None:

    async def end(stage: Stage, puppet: Puppet, linked_by_us: bool, error: Exception) -> None:
        async with stage.node.open_mailbox() as box:
            if linked_by_us:
                box.link(puppet.pid)
            else:
                await puppet.run("link(B)", B=box.pid)
            raise error

    ends = [
        (KeyError("k"), (Atom("python_error"), b"KeyError", b"'k'")),
        (ProcessExit((Atom("custom"), [1])), (Atom("custom"), [1])),
    ]
    async with open_stage(erlang) as stage:
        for error, reason in ends:
            for linked_by_us in (True, False):
                puppet, watcher = await stage.puppet(), await stage.puppet()
                ref = await watcher.run("monitor(process, P)", P=puppet.pid)
                with pytest.raises(type(error)):
                    await end(stage, puppet, linked_by_us, error)
                assert await watcher.got(1) == [(DOWN, ref, PROCESS, puppet.pid, reason)]


async def test_exits_are_trapped_both_ways(erlang: Erlang) -> None:
    async with open_stage(erlang) as stage:
        puppet = await stage.puppet(trap_exit=True)
        async with stage.node.open_mailbox() as box:
            box.link(puppet.pid)
        assert await puppet.got(1) == [(EXIT, box.pid, NORMAL)]
        async with stage.node.open_mailbox(trap_exits=True) as box:
            for reason in (NORMAL, Atom("kill"), (Atom("a"), 1)):
                puppet = await stage.puppet()
                await puppet.run("link(B)", B=box.pid)
                await puppet.end(reason)
                assert await received(box) == Exit(puppet.pid, reason)
            assert links(stage, box) == set()


async def test_a_normal_end_ends_nobody(erlang: Erlang) -> None:
    async with open_stage(erlang) as stage, stage.node.open_mailbox() as stays:
        puppet, other = await stage.puppet(), await stage.puppet()
        async with stage.node.open_mailbox() as box:
            box.link(puppet.pid)
        stays.link(other.pid)
        await other.end(NORMAL)
        await puppet.run("ok")
        await all_undone(stage, stays)
        assert not stays.ended


async def test_a_link_to_the_dead_comes_back_as_noproc(erlang: Erlang) -> None:
    async with open_stage(erlang) as stage:
        dead, puppet = await stage.dead(), await stage.puppet(trap_exit=True)
        async with stage.node.open_mailbox(trap_exits=True) as box:
            box.link(dead)
            assert await received(box) == Exit(dead, NOPROC)
        await puppet.run("link(B)", B=box.pid)
        assert await puppet.got(1) == [(EXIT, box.pid, NOPROC)]


async def test_an_unlink_is_acknowledged_both_ways(erlang: Erlang) -> None:
    async with open_stage(erlang) as stage:
        puppet = await stage.puppet(trap_exit=True)
        async with stage.node.open_mailbox() as box:
            process = stage.node._processes._table.by_pid[box.pid]
            for _ in range(3):
                box.link(puppet.pid)
                assert await links_there(puppet) == {box.pid}
                box.unlink(puppet.pid)
                assert await links_there(puppet) == set()
                assert process.links == {}, "their acknowledgement was read"
                await puppet.run("link(B)", B=box.pid)
                assert links(stage, box) == {puppet.pid}
                await puppet.run("unlink(B)", B=box.pid)
                assert process.links == {}
                # The acknowledgement comes when they are linked once more: it means the older link.
                box.link(puppet.pid)
                box.unlink(puppet.pid)
                box.link(puppet.pid)
                assert await links_there(puppet) == {box.pid}
                assert links(stage, box) == {puppet.pid}
                await puppet.run("unlink(B)", B=box.pid)
        assert await puppet.got() == []


async def test_both_sides_agree_however_links_and_unlinks_race(erlang: Erlang) -> None:
    async with open_stage(erlang) as stage:
        puppet = await stage.puppet(trap_exit=True)
        async with stage.node.open_mailbox(trap_exits=True) as box:
            linked = set()
            for seed in range(40):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_link_and_unlink, puppet, box, seed)
                    chance = random.Random(seed)
                    for _ in range(20):
                        if chance.random() < 0.5:
                            box.link(puppet.pid)
                        else:
                            box.unlink(puppet.pid)
                        await trio.sleep(chance.random() / 2000)
                there = box.pid in await links_there(puppet)
                assert there == (puppet.pid in links(stage, box)), seed
                linked.add(there)
            assert linked == {True, False}, "both ends were seen"
            assert len(box) == 0
        expected = [(EXIT, box.pid, NORMAL)] if there else []
        assert await puppet.got() == expected


async def _link_and_unlink(puppet: Puppet, box: Mailbox, seed: int) -> None:
    storm = """
        _ = rand:seed(exsss, N),
        [begin
           case rand:uniform(2) of 1 -> link(B); 2 -> unlink(B) end,
           [erlang:yield() || _ <- lists:seq(1, rand:uniform(300))]
         end || _ <- lists:seq(1, 20)], ok
    """
    await puppet.run(storm, N=seed, B=box.pid)


async def test_an_unlink_that_crosses_the_end_of_the_other_side(erlang: Erlang) -> None:
    """Whoever is dead acknowledges; and the one that lives hears of an end at most once."""
    async with open_stage(erlang) as stage:
        async with stage.node.open_mailbox() as box:
            for _ in range(10):
                puppet = await stage.puppet()
                box.link(puppet.pid)
                stage.node.send_nowait(puppet.pid, (Atom("$end"), Atom("bad")))
                box.unlink(puppet.pid)  # the puppet's end was not heard yet
                await all_undone(stage, box)
            assert not box.ended
        puppet = await stage.puppet(trap_exit=True)
        for _ in range(10):
            async with stage.node.open_mailbox() as box, trio.open_nursery() as nursery:
                box.link(puppet.pid)
                nursery.start_soon(partial(puppet.run, "unlink(B)", B=box.pid))
                await trio.lowlevel.checkpoint()
                stage.node._processes.close(box._inbox)
            assert await links_there(puppet) == set()
            assert await puppet.got() in ([], [(EXIT, box.pid, NORMAL)])


# -- exit signals --------------------------------------------------------------------------------


async def test_exit_and_kill_from_a_beam_process(erlang: Erlang) -> None:
    async with open_stage(erlang) as stage:
        puppet = await stage.puppet()
        for reason, becomes in [(Atom("kill"), Atom("killed")), ([b"why"], [b"why"])]:
            async with stage.node.open_mailbox() as box:
                ref = await puppet.run("put(r, monitor(process, B)), get(r)", B=box.pid)
                await puppet.run("exit(B, normal)", B=box.pid)
                assert not box.ended
                await puppet.run("exit(B, R)", B=box.pid, R=reason)
                with pytest.raises(ProcessExit) as caught:
                    await received(box)
                assert caught.value.reason == becomes
                assert box.exit_reason == becomes
            assert await puppet.got(1) == [(DOWN, ref, PROCESS, box.pid, becomes)]


async def test_a_kill_is_not_trapped_and_other_exits_are(erlang: Erlang) -> None:
    async with open_stage(erlang) as stage:
        puppet = await stage.puppet(trap_exit=True)
        async with stage.node.open_mailbox(trap_exits=True) as box:
            await puppet.run("link(B), exit(B, normal), exit(B, other)", B=box.pid)
            assert await received(box) == Exit(puppet.pid, NORMAL)
            assert await received(box) == Exit(puppet.pid, Atom("other"))
            await puppet.run("exit(B, kill)", B=box.pid)
            with pytest.raises(ProcessExit, match="killed"):
                await received(box)
        assert await puppet.got(1) == [(EXIT, box.pid, Atom("killed"))]
