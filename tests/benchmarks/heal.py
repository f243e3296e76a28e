"""How soon a peer that was killed is connected again once it can be reached.

In each round the peer is connected, killed with SIGKILL, started again after a while, and timed
from the moment at which the port mapper lists it (a node listens before it registers) to the moment
at which the observer has it connected. Three observers watch the same rounds: barnacles with a
`poll_interval` of 5 s that know it by name and by the port mapper, and, as the peer to beat, a BEAM
node that dials it every 5 s, as libcluster's polling strategies do.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from barnacle_trio import NodeName, epmd, local_epmd, open_barnacle, open_node
from tests.beam import COOKIE, Beam, open_beam, unique
from tests.benchmarks.tables import median, percentile, print_table
from tests.cluster_lab import Kept, Killable, heal, start_beam, start_peer, until
from tests.erlang import require_erlangs

ROUNDS = 10
POLL_INTERVAL = 5.0
ABSENT = (0.0, POLL_INTERVAL)
"""Seconds of absence, evenly spread, or the polls would always meet the same moment."""

OBSERVERS = ("barnacle, by name", "barnacle, by port mapper", "BEAM that dials every 5 s")


@dataclass(frozen=True)
class Polling:
    """A BEAM node that dials a peer every `POLL_INTERVAL`."""

    beam: Beam

    async def start(self, name: str) -> None:
        """Dial it from now on."""
        await self.beam.eval(
            f"spawn(fun() -> F = fun F() -> net_kernel:connect_node('{name}'),"
            f" timer:sleep({POLL_INTERVAL * 1000:.0f}), F() end, F() end)"
        )

    async def meet(self, name: str) -> None:
        """Connect it now, instead of at the next poll."""
        await self.beam.eval(f"net_kernel:connect_node('{name}')")
        await self.wait(name, up=True)

    async def wait(self, name: str, *, up: bool) -> None:
        """Wait until it is connected, or is not."""
        wanted = "true" if up else "false"

        async def same() -> bool:
            return await self.beam.eval(f"lists:member('{name}', nodes(connected))") == wanted

        await until(same, 60)


async def observed(
    start: Callable[[], AbstractAsyncContextManager[Killable]], name: str, polling: Polling
) -> list[float]:
    """One round: the seconds of each of `OBSERVERS`."""
    # Observers who do not know the peer yet: one that dies every few seconds is left alone longer.
    match = NodeName(name).basename
    async with (
        open_node(unique("py"), cookie=COOKIE) as one,
        open_node(unique("py"), cookie=COOKIE) as two,
        open_barnacle(epmd([name]), one, poll_interval=POLL_INTERVAL) as by_name,
        open_barnacle(local_epmd(match=match), two, poll_interval=POLL_INTERVAL) as by_mapper,
    ):
        observers = (Kept(by_name), Kept(by_mapper), polling)
        [times] = await heal(start, name, observers, absent=lambda: random.uniform(*ABSENT))
        return times


async def main() -> None:
    """Print the table."""
    starts: dict[str, tuple[str, Callable[[], AbstractAsyncContextManager[Killable]]]] = {}
    for erlang in require_erlangs():
        name = unique("beam")
        starts[f"BEAM, OTP {erlang.version}"] = name, start_beam(erlang, name)
    name = unique("peer")
    starts["Python"] = name, start_peer(name)
    rows: list[tuple[object, ...]] = []
    async with (
        open_node(unique("mapper"), cookie=COOKIE),  # serves the names throughout
        open_beam(require_erlangs()[0]) as beam,
    ):
        polling = Polling(beam)
        for what, (name, start) in starts.items():
            await polling.start(name)
            rounds = [await observed(start, name, polling) for _ in range(ROUNDS)]
            columns = list(zip(*rounds, strict=True))
            theirs = median(columns[-1])
            for observer, times in zip(OBSERVERS, columns, strict=True):
                middle = median(times)
                spread = (middle, percentile(times, 0.95), max(times))
                rows.append((f"{what} <- {observer}", *spread, f"{middle / theirs:.3f}"))
    print_table(
        f"heal: seconds from reachable to connected, {ROUNDS} rounds each",
        ("peer <- observer", "median", "p95", "max", "ratio"),
        rows,
    )
    print("  ratio: of the medians, to the BEAM that dials every 5 s")
