"""Faulty frames, thrown at a real BEAM node by a peer that knows the cookie, and at a node of ours.

A BEAM node closes such a connection or ignores the frame, and nobody else is the worse for it; and
what it makes of a frame is what ours makes of it, but for what `tests.frame_tables` explains. With
``BARNACLE_TRIO_LONG=1`` a hundred thousand frames are thrown at each runtime, else some thousands,
with the same faults each time. That frames of ours are never faulty is the matter of
`tests.test_frames_of_ours_erlang`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
import trio

from barnacle_trio.distribution import Node, open_node
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution._flags import OUR_FLAGS, PLAIN, Flag
from barnacle_trio.distribution._frames import TICK, frame
from barnacle_trio.etf import Atom
from tests.beam import COOKIE, Beam, open_beam
from tests.erlang import Erlang
from tests.frame_cases import Cases, faulty_term, to_otp
from tests.frame_judges import SETUP, open_beam_judge, open_our_judge
from tests.frame_tables import Case, Killers, control_term, judged
from tests.fuzz.mutation import mutated
from tests.puppets import PATIENCE
from tests.scale import scaled
from tests.terms import same

pytestmark = pytest.mark.usefixtures("epmd_port")

CASES = scaled(700, 50_000)
STREAMS = scaled(150, 10_000)
GARBAGE = scaled(300, 20_000)
ASKED_EVERY = 50
"""Frames after which the BEAM node must answer somebody else."""

REGISTERED = "[{Name, whereis(Name)} || Name <- registered(), Name =/= target]"


class Witness:
    """A node of ours whose connection to the BEAM node is in good order, and stays."""

    def __init__(self, node: Node, beam: Beam) -> None:
        self.node = node
        self.beam = beam
        self._changes: list[object] = []

    async def begin(self) -> None:
        await self.node.connect(self.beam.name)
        self.node.subscribe(self._changes.append)
        await self.beam.eval(f"persistent_term:put(before, {REGISTERED})")

    async def check(self) -> None:
        with trio.fail_after(PATIENCE):
            assert await self.node.ping(self.beam.name)
        assert self._changes == []

    async def end(self) -> None:
        """The processes that were there at the beginning are there still, the very same."""
        await self.check()
        assert await self.beam.eval(f"persistent_term:get(before) -- {REGISTERED}") == "[]"
        fell = [line for line in self.beam.log if "SUPERVISOR" in line or "CRASH" in line]
        assert fell == []


@asynccontextmanager
async def open_witness(erlang: Erlang) -> AsyncIterator[Witness]:
    async with (
        open_node("witness@127.0.0.1", cookie=COOKIE) as node,
        open_beam(erlang, "judge@127.0.0.1", env={"ERL_CRASH_DUMP_BYTES": "0"}) as beam,
    ):
        assert await beam.eval(SETUP.strip()) == "true"
        witness = Witness(node, beam)
        await witness.begin()
        yield witness
        await witness.end()


@pytest.mark.parametrize("agreed", [OUR_FLAGS, PLAIN], ids=["headed", "plain"])
async def test_a_beam_node_and_ours_judge_frames_alike(erlang: Erlang, agreed: Flag) -> None:
    tally: Counter[str] = Counter()
    unexplained: list[str] = []
    async with (
        open_witness(erlang) as witness,
        open_beam_judge(witness.beam, agreed) as theirs,
        open_our_judge(witness.beam, agreed) as ours,
    ):
        ours.stand_for(theirs)
        cases, killers = Cases(25, headed=theirs.headed), Killers()
        for number in range(CASES):
            place = theirs.place
            bodies = cases.next(place)
            why = killers.why(bodies, place)
            if why is not None:
                tally[f"deadly: {why}"] += 1
                continue
            verdict = ours.judge(bodies)
            try:
                with trio.fail_after(PATIENCE):
                    case = Case(place, control_term(bodies[0]), verdict, await theirs.judge(bodies))
                    found = judged(case, alike(case))
                    if found != "both accept":
                        await theirs.dial()
                        ours.stand_for(theirs)
                        killers = Killers()
                    elif verdict.killed:
                        await theirs.renew()
                        ours.renew(theirs.place)
                if number % ASKED_EVERY == 0:
                    await witness.check()
            except Exception as error:
                error.add_note(f"it was given {bodies}")
                raise
            tally[found or "unexplained"] += 1
            if found is None:
                unexplained.append(f"{bodies}: {case}")
        print(erlang, f"{theirs.dials} dials", *sorted(tally.items()), *unexplained, sep="\n")
        assert unexplained == []
    assert tally["both accept"] > CASES // 20
    assert tally["both close"] > CASES // 10


def alike(case: Case) -> bool:
    """Whether the same came of it, for those that were there."""
    ours, theirs = case.ours, case.theirs
    if ours.killed or theirs.killed:
        return ours.killed == theirs.killed
    return (
        len(ours.got) == len(theirs.got)
        and all(map(same, ours.got, theirs.got))
        and Counter(map(repr, ours.said)) == Counter(map(repr, theirs.said))
    )


async def test_a_beam_node_survives_streams_of_faulty_frames(erlang: Erlang) -> None:
    """Lengths that are none, ticks anywhere, and frames after faulty ones."""
    rng = Random(26)
    tally: Counter[str] = Counter()
    async with open_witness(erlang) as witness, open_beam_judge(witness.beam, OUR_FLAGS) as theirs:
        cases = Cases(26, headed=True)
        for number in range(STREAMS):
            bodies = [body for _ in range(rng.randrange(1, 6)) for body in cases.next(theirs.place)]
            frames = [rng.choice((b"", b"", TICK)) + frame(body) for body in bodies]
            data = mutated(b"".join(frames), rng, frames) if number % 2 else b"".join(frames)
            why = Killers().why(cut(data), theirs.place)
            if why is None:
                try:
                    with trio.fail_after(PATIENCE):
                        await theirs.drown(data)
                        await theirs.dial()
                    if number % (ASKED_EVERY // 5) == 0:
                        await witness.check()
                except Exception as error:
                    error.add_note(f"it was given {data!r}")
                    raise
            tally[f"deadly: {why}" if why else "survived"] += 1
        print(erlang, *sorted(tally.items()), sep="\n")
    assert tally["survived"] > STREAMS // 2


def cut(data: bytes) -> list[bytes]:
    """The bodies of the frames in a stream, as far as they are whole, however long they are."""
    bodies: list[bytes] = []
    while len(data) >= 4 and len(data) >= 4 + (size := int.from_bytes(data[:4])):
        bodies.append(data[4 : 4 + size])
        data = data[4 + size :]
    return bodies


@pytest.mark.parametrize("name", to_otp)
async def test_processes_of_otp_to_which_we_talk_bear_faults(erlang: Erlang, name: str) -> None:
    """Those that do: not `net_kernel`, with whom the whole node falls, nor `rex`, nor `pg`.

    To these, as one sees, nobody may say anything but what they know. What we say is built in one
    place each, and what others make us say there is checked.
    """
    rng = Random(27)
    async with open_witness(erlang) as witness, open_beam_judge(witness.beam, OUR_FLAGS) as theirs:
        for number in range(GARBAGE):
            place = theirs.place
            term: Any = faulty_term(to_otp[name](place), rng, place)
            with trio.fail_after(PATIENCE):
                said = control.reg_send(place.one, Atom(name), term, OUR_FLAGS)
                verdict = await theirs.judge([said])
                if verdict.closed is not None:  # over a pid of its own that cannot be, say
                    await theirs.dial()
            if number % ASKED_EVERY == 0:
                await witness.check()
