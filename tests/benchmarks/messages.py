"""Messages: how far from the floor, and from the goals? All take turns in one run.

    python -m tests.benchmarks messages

Ours is between two nodes in two processes. The floor is bare Trio sockets that carry as many bytes,
without a term in them; beside it stand C's ``ei`` and a pair of BEAM nodes, where they are here.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

from barnacle_trio.etf import Atom, decode, encode
from tests.benchmarks.messages_players import (
    SMALL,
    Beams,
    Ours,
    Player,
    open_beams,
    open_ei,
    open_floor,
    open_ours,
)
from tests.benchmarks.tables import median, percentile, print_table

ROUNDS = 5
DIALS = 20
TRIPS = 400
FLOOD = 20_000
BURST = 8_000
"""Less than 1 MiB of small messages, above which a sender goes at the pace of the receiver."""
BULK = 32 * 1024 * 1024
BESIDE = 64 * 1024 * 1024

OURS, FLOOR, EI, BEAM = PLAYERS = ("ours", "floor", "ei", "BEAM")


@dataclass
class Figure:
    """One row: what each measured, by round, and what is to be reached.

    ``goal`` says it; ``reached`` tells from ours, the floor's and BEAM's figure (NaN: not here).
    """

    name: str
    unit: str
    goal: str
    reached: Callable[[float, float, float], bool]
    taken: dict[str, list[float]] = field(default_factory=dict)

    def add(self, player: str, value: float) -> None:
        """Note a figure of one round."""
        if not math.isnan(value):
            self.taken.setdefault(player, []).append(value)

    def of(self, player: str) -> float:
        """The round in the middle; NaN where there was none."""
        values = self.taken.get(player)
        return median(values) if values else math.nan

    def row(self) -> list[object]:
        """For the table."""
        ours, floor, _, beam = values = [self.of(player) for player in PLAYERS]
        ratios = [_ratio(ours, each) for each in values[1:]]
        verdict = "yes" if self.reached(ours, floor, beam) else "no"
        shown = ["-" if math.isnan(each) else each for each in values]
        return [f"{self.name}, {self.unit}", *shown, *ratios, self.goal, verdict]


def _ratio(ours: float, other: float) -> str:
    return "-" if math.isnan(ours) or math.isnan(other) else f"{ours / other:.2f}"


def _at_most(limit: float, *, floors: float = 0, beams: float = 0) -> Callable[..., bool]:
    """Below a limit, or as near to the floor (to BEAM) as that many times."""
    return lambda ours, floor, beam: ours <= limit or ours <= floors * floor or ours <= beams * beam


def _at_least(
    limit: float, *, floors: float = math.inf, beams: float = math.inf
) -> Callable[..., bool]:
    return lambda ours, floor, beam: ours >= limit or ours >= floors * floor or ours >= beams * beam


FIGURES = {
    "dial_known": Figure(
        "connect and handshake, port known", "ms", "0.8, or 1.35x floor", _at_most(0.8, floors=1.35)
    ),
    "dial": Figure(
        "connect and handshake, with look-up",
        "ms",
        "1.5, or 1.35x floor",
        _at_most(1.5, floors=1.35),
    ),
    "p50_64": Figure("round trip 64 B, p50", "us", "1.10x floor", _at_most(0, floors=1.10)),
    "p99_64": Figure("round trip 64 B, p99", "us", "1.3x floor", _at_most(0, floors=1.3)),
    "p50_1024": Figure("round trip 1 KiB, p50", "us", "1.10x floor", _at_most(0, floors=1.10)),
    "p99_1024": Figure("round trip 1 KiB, p99", "us", "1.3x floor", _at_most(0, floors=1.3)),
    "out": Figure("one way out, small", "k/s", "300, or 0.9x BEAM", _at_least(300, beams=0.9)),
    "into": Figure("one way in, decoded", "k/s", "200", _at_least(200)),
    "bulk_in": Figure("32 MiB binary in", "MB/s", "250, or 0.8x floor", _at_least(250, floors=0.8)),
    "bulk_out": Figure(
        "32 MiB binary out", "MB/s", "700, or 0.54x floor", _at_least(700, floors=0.54)
    ),
    "beside": Figure("small one beside 64 MiB", "ms", "20", _at_most(20)),
    "drain": Figure("10,000 wait, beside 100", "x as fast", "0.8", _at_least(0.8)),
}
"""What players measure. Goals in seconds are for an idle machine, ratios for any."""


async def play(who: str, player: Player) -> None:
    """One turn of one player."""
    for known, key in ((True, "dial_known"), (False, "dial")):
        dials = [await player.connect(known=known) for _ in range(DIALS)]
        FIGURES[key].add(who, median(dials) / 1000)
    for size in (64, 1024):
        taken = await player.trips(size, TRIPS)
        for share in (50, 99):
            FIGURES[f"p{share}_{size}"].add(who, percentile(taken, share / 100))
    FIGURES["out"].add(who, BURST / await player.out(BURST) * 1000)
    FIGURES["into"].add(who, FLOOD / await player.into(FLOOD) * 1000)
    FIGURES["bulk_in"].add(who, BULK / await player.bulk_in(BULK))
    FIGURES["bulk_out"].add(who, BULK / await player.bulk_out(BULK))
    if isinstance(player, Ours):
        FIGURES["beside"].add(who, await player.beside(BESIDE) / 1000)
        FIGURES["drain"].add(who, await player.drain(100) / await player.drain(10_000))


# -- the codec ------------------------------------------------------------------------------------

MAPS = [
    {Atom("id"): i, Atom("name"): b"n17", Atom("on"): True, Atom("x"): 1.5} for i in range(1000)
]
JSON = {
    "small": ["event", 17, {"kind": "up", "value": 42}],
    "maps": [{"id": i, "name": "n17", "on": True, "x": 1.5} for i in range(1000)],
}
CODEC = {
    "small": (SMALL, 5000, "us", 1, ((2.5, 1.67), (3.0, 2.5))),
    "maps": (MAPS, 5, "ms", 1000, ((1.9, 2.47), (3.4, 6.54))),
    "binary": (bytes(1 << 20), 100, "us", 1, ((25.0, 1.1), (25.0, 1.1))),
}
"""Term, calls in a series, unit and its microseconds, and goals: so much, or so often the floor."""
_SHOWN = {"small": "small", "maps": "1000 maps", "binary": "1 MiB"}


def _codec_figure(what: str, way: str, unit: str, limit: float, floors: float) -> Figure:
    goal = f"{limit:g}, or {floors}x floor"
    return Figure(f"{way} {_SHOWN[what]}", unit, goal, _at_most(limit, floors=floors))


CODEC_FIGURES = {
    (what, way): _codec_figure(what, way, unit, *goal)
    for what, (_, _, unit, _, goals) in CODEC.items()
    for way, goal in zip(("encode", "decode"), goals, strict=True)
}


async def play_codec(beams: Beams | None) -> None:
    """One turn of the codec: ours, Python's own ``json`` (written in C) or one copy, and BEAM's."""
    for what, (term, times, _, scale, _) in CODEC.items():
        data: Any = encode(term)
        floors: list[Callable[[], object]]
        works: list[Callable[[], object]]
        if what in JSON:
            text = json.dumps(JSON[what])
            floors = [partial(json.dumps, JSON[what]), partial(json.loads, text)]
        else:
            floors = [partial(bytearray, data), partial(bytearray, data)]
        works = [partial(encode, term), partial(decode, data)]
        for way, work, floor in zip(("encode", "decode"), works, floors, strict=True):
            figure = CODEC_FIGURES[what, way]
            figure.add(OURS, _best(work, times) / scale)
            figure.add(FLOOR, _best(floor, times) / scale)
            if beams is not None:
                figure.add(BEAM, await beams.codec(what, f"{way[:-1]}ing", times) / scale)


def _best(work: Callable[[], object], times: int) -> float:
    """Microseconds of one call, in the best of three series."""

    def series() -> float:
        began = perf_counter()
        for _ in range(times):
            work()
        return (perf_counter() - began) / times * 1e6

    return min(series() for _ in range(3))


# -- all of it ------------------------------------------------------------------------------------


async def main() -> None:
    """Let all take turns, and print the tables."""
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(open_ours())
        floor = await stack.enter_async_context(open_floor(int(os.environ["ERL_EPMD_PORT"])))
        ei = await stack.enter_async_context(open_ei())
        beams = await stack.enter_async_context(open_beams())
        players: dict[str, Player | None] = {OURS: ours, FLOOR: floor, EI: ei, BEAM: beams}
        turns: list[Callable[[], Awaitable[None]]] = [
            partial(play, who, player) for who, player in players.items() if player is not None
        ]
        for _ in range(ROUNDS):
            for turn in turns:
                await turn()
            await play_codec(beams)
        mixed: list[float] = []
        if beams is not None:
            await ours.node.connect(beams.peer)
            mixed = await Ours(ours.node, beams.peer).trips(64, TRIPS * ROUNDS)
    head = ("", *PLAYERS, *(f"/{each}" for each in PLAYERS[1:]), "goal", "reached")
    title = f"messages: {ROUNDS} turns each; the turn in the middle"
    print_table(title, head, [figure.row() for figure in FIGURES.values()])
    _say_who(players, beams, mixed)
    title = "codec: the floor is Python's json, for the binary one copy"
    print_table(title, head, [figure.row() for figure in CODEC_FIGURES.values()])


def _say_who(
    players: dict[str, Player | None], beams: Beams | None, mixed: Sequence[float]
) -> None:
    for name, player in players.items():
        if player is None:
            print(f"  {name}: not here")
    if beams is not None:
        trip = f"{median(mixed):.0f} us p50, {percentile(mixed, 0.99):.0f} us p99"
        print(f"  BEAM: OTP {beams.version}; a round trip of 64 B with ours: {trip}")
