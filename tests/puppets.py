"""Processes of real BEAM nodes that do as they are told, and say what they received."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from barnacle_trio.distribution import Node, open_node
from barnacle_trio.distribution._mailbox import Mailbox
from barnacle_trio.etf import Atom, Pid, Reference
from tests.beam import COOKIE, Beam, open_beam, unique
from tests.erlang import Erlang

PATIENCE = 10
"""Seconds for anything that should come at once."""

# A puppet runs what it is told, ends when it is told, and keeps whatever else it receives until it
# is asked for so much of it.
_MAKER = r"""
register(maker, spawn(fun() ->
  Puppet = fun Puppet(Got, Want) ->
    case Want of
      {Asker, Ref, N} when length(Got) >= N ->
        Asker ! {Ref, lists:reverse(Got)},
        Puppet([], none);
      _ ->
        receive
          {'$run', Boss, Ref, Code, Bindings} ->
            Value =
              try
                {ok, Tokens, _} = erl_scan:string(binary_to_list(Code)),
                {ok, Parsed} = erl_parse:parse_exprs(Tokens),
                {value, V, _} = erl_eval:exprs(Parsed, maps:to_list(Bindings)),
                {ok, V}
              catch Class:Reason -> {Class, Reason}
              end,
            Boss ! {Ref, Value},
            Puppet(Got, Want);
          {'$give', Boss, Ref, N} -> Puppet(Got, {Boss, Ref, N});
          {'$end', Reason} -> exit(Reason);
          Other -> Puppet([Other | Got], Want)
        end
    end
  end,
  (fun Make() ->
    receive
      {make, Boss, Ref, Trap} ->
        spawn(fun() ->
          process_flag(trap_exit, Trap),
          Boss ! {Ref, self()},
          Puppet([], none)
        end),
        Make()
    end
  end)()
end)).
"""


class Puppet:
    """One process of a BEAM node."""

    def __init__(self, stage: Stage, pid: Pid) -> None:
        self.pid = pid
        self._stage = stage

    async def run(self, code: str, **bindings: Any) -> Any:
        """Have it evaluate Erlang expressions, with variables bound to terms; their value.

        What they said to our node arrived before this returns.
        """
        names = {Atom(name): value for name, value in bindings.items()}
        text = code.rstrip(".") + "."
        kind, value = await self._stage.ask(self.pid, Atom("$run"), text, names)
        assert kind is Atom("ok"), f"{kind}: {value}"
        return value

    async def got(self, count: int = 0) -> list[Any]:
        """All that it received since the last time, once there is so much of it."""
        received: list[Any] = await self._stage.ask(self.pid, Atom("$give"), count)
        return received

    async def end(self, reason: Any) -> None:
        """Have it end with a reason."""
        await self._stage.node.send(self.pid, (Atom("$end"), reason))


class Stage:
    """A node of ours and a BEAM node, and puppets on that."""

    def __init__(self, node: Node, beam: Beam, desk: Mailbox) -> None:
        self.node = node
        self.beam = beam
        self._desk = desk

    async def puppet(self, *, trap_exit: bool = False) -> Puppet:
        """Make one."""
        pid = await self.ask(("maker", self.beam.name), Atom("make"), trap_exit)
        return Puppet(self, pid)

    async def dead(self) -> Pid:
        """A process that ended."""
        code = "{P, R} = spawn_monitor(fun() -> ok end), receive {'DOWN', R, _, _, _} -> P end"
        pid: Pid = await (await self.puppet()).run(code)
        return pid

    async def ask(self, dest: Any, what: Atom, *rest: Any) -> Any:
        """Send ``{What, Asker, Ref, ...}`` and wait for ``{Ref, Answer}``."""
        ref = self.node._identifiers.make_reference()
        await self.node.send(dest, (what, self._desk.pid, ref, *rest))
        with trio.fail_after(PATIENCE):
            return (await self._desk.receive(lambda message: _is_answer(message, ref)))[1]


def _is_answer(message: Any, ref: Reference) -> bool:
    return type(message) is tuple and message[0] == ref


@asynccontextmanager
async def open_stage(
    erlang: Erlang,
    *,
    name: str | None = None,
    beam_name: str | None = None,
    hidden: bool = False,
    **options: Any,
) -> AsyncIterator[Stage]:
    """Open a node of ours and a BEAM node, and connect them."""
    async with (
        open_node(name or unique("py"), cookie=COOKIE, hidden=hidden, **options) as node,
        open_beam(erlang, beam_name) as beam,
        open_on(node, beam) as stage,
    ):
        yield stage


@asynccontextmanager
async def open_on(node: Node, beam: Beam) -> AsyncIterator[Stage]:
    """A stage of nodes that are there already."""
    await beam.eval(_MAKER.strip().rstrip("."))
    await node.connect(beam.name)
    async with node.open_mailbox() as desk:
        yield Stage(node, beam, desk)


async def received(box: Mailbox) -> Any:
    """The next message, which should come at once."""
    with trio.fail_after(PATIENCE):
        return await box.receive()
