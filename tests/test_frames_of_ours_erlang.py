"""Whatever our operations write is taken by a BEAM node: any terms in any place, small and large.

That messages and terms arrive as they were sent is in `tests.test_messages_long`, and that terms
are spelt as Erlang reads them in `tests.test_etf_erlang`. Here it is what else holds terms and pids
of users: reasons, arguments, results, replies, groups, and links and monitors of whom there is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import trio

from barnacle_trio._errors import ProcessExit
from barnacle_trio.etf import Atom, Pid, Reference
from tests.erlang import Erlang
from tests.puppets import PATIENCE, Puppet, Stage, open_stage
from tests.scale import scaled
from tests.terms import random_terms

pytestmark = pytest.mark.usefixtures("epmd_port")

OPERATIONS = scaled(400, 20_000)
RENEWED_EVERY = 100
LARGE: list[Any] = [
    bytes(100_000),
    [bytes(1000), 2.5] * 80,
    {1: bytes(70_000), 2: (b"x" * 70_000,)},
]
"""Terms that go in pieces, wherever it is that they stand."""


class Speaker:
    """Says something to a BEAM node, of which it does not matter what it is."""

    def __init__(self, stage: Stage, rng: Random) -> None:
        self.node, self.beam, self.stage, self.rng = stage.node, stage.beam, stage, rng
        self._terms = [*random_terms(scaled(200, 5000)), *LARGE * 3]
        self._puppet: Puppet
        self._alias: Reference
        self._dead: Pid

    async def renew(self) -> None:
        """Talk to others from now on; what the old ones received is forgotten."""
        self._dead = await self.stage.dead()
        self._puppet = await self.stage.puppet(trap_exit=True)
        self._alias = await self._puppet.run(
            "catch unregister(puppet), register(puppet, self()), alias()"
        )

    def term(self) -> Any:
        return self.rng.choice(self._terms)

    def whom(self) -> Pid:
        """Somebody of that node: who is there, was there, or never was."""
        alive = self._puppet.pid
        return self.rng.choice(
            [
                alive,
                alive,
                self._dead,
                replace(alive, creation=alive.creation ^ 1),
                replace(alive, creation=1),
                replace(alive, id=alive.id + 5000),
            ]
        )

    async def message(self) -> None:
        name = (self.rng.choice(["puppet", "nobody"]), self.beam.name)
        for dest in (self.whom(), name, self._alias, replace(self._alias, ids=(1, 2, 3))):
            await self.node.send(dest, self.term())
        with suppress(trio.WouldBlock):
            self.node.send_nowait(self.whom(), self.term())

    async def links(self) -> None:
        """And an end, which is told to those that are linked."""
        with suppress(ProcessExit):
            async with self.node.open_mailbox(trap_exits=self.rng.random() < 0.5) as box:
                for _ in range(5):
                    with suppress(trio.ClosedResourceError):
                        self.rng.choice((box.link, box.link, box.unlink))(self.whom())
                if self.rng.random() < 0.5:
                    await self._puppet.run("link(B), monitor(process, B)", B=box.pid)
                raise ProcessExit(self.term())

    async def monitors(self) -> None:
        async with self.node.open_mailbox() as box:
            for _ in range(4):
                name = (self.rng.choice(["puppet", "nobody", "pg"]), self.beam.name)
                ref = box.monitor(self.rng.choice((self.whom(), name)))
                if self.rng.random() < 0.6:
                    box.demonitor(ref)
            with suppress(ProcessExit):
                async with self.node.open_mailbox("watched") as watched:
                    code = "monitor(process, B), monitor(process, {watched, N})"
                    await self._puppet.run(code, B=watched.pid, N=Atom(self.node.name))
                    raise ProcessExit(self.term())

    async def call_out(self) -> None:
        await self.node.rpc(self.beam.name, "erlang", "phash2", self.term())
        with trio.move_on_after(0):  # cancelled as soon as it was sent
            await self.node.rpc(self.beam.name, "erlang", "phash2", self.term())

    async def call_in(self) -> None:
        code = """
            [catch erpc:call(N, ours, F, [T]) || F <- [echo, fail, other]],
            catch gen_server:call({echoer, N}, T),
            catch gen_server:call({crasher, N}, T), ok
        """
        await self._puppet.run(code, N=Atom(self.node.name), T=self.term())

    async def groups(self) -> None:
        async with self.node.open_mailbox() as box:
            groups = [self.term() for _ in range(3)]
            for group in groups:
                box.join_group("pg", group)
            for group in groups[:2]:
                box.leave_group("pg", group)


async def echo(term: Any) -> Any:
    return term


async def fail(term: Any) -> None:
    raise ProcessExit(term)


async def test_a_beam_node_takes_whatever_we_write(erlang: Erlang) -> None:
    rng = Random(28)
    changes: list[object] = []
    tally: Counter[str] = Counter()
    async with open_stage(erlang) as stage, trio.open_nursery() as nursery:
        node, beam = stage.node, stage.beam
        await beam.eval("{ok, _} = pg:start(pg)")
        await nursery.start(node.serve_process, "echoer", echo)
        await nursery.start(node.serve_process, "crasher", fail)
        there = await beam.eval("lists:sort([{N, whereis(N)} || N <- registered(), N =/= puppet])")
        speaker = Speaker(stage, rng)
        says: list[Callable[[], Awaitable[None]]] = [
            speaker.message,
            speaker.links,
            speaker.monitors,
            speaker.call_out,
            speaker.call_in,
            speaker.groups,
        ]
        node.subscribe(changes.append)
        with node.expose({("ours", "echo"): echo, ("ours", "fail"): fail}):
            for number in range(OPERATIONS):
                if number % RENEWED_EVERY == 0:
                    await speaker.renew()
                say = rng.choice(says)
                with trio.fail_after(PATIENCE):
                    await say()
                tally[say.__name__] += 1
                assert changes == [], (say, number)
        assert await node.ping(beam.name)
        assert there == await beam.eval(
            "lists:sort([{N, whereis(N)} || N <- registered(), N =/= puppet])"
        )
        assert changes == []
        nursery.cancel_scope.cancel()
    print(erlang, dict(tally))
    assert beam.log == []
