"""How soon a peer is connected that can be reached again after a whole minute. Takes four minutes.

It is to be connected within one `poll_interval`, which is 5 s here.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import trio

from barnacle_trio import epmd, open_barnacle, open_node
from tests.beam import COOKIE, unique
from tests.benchmarks.tables import median, print_table
from tests.cluster_lab import Kept, Killable, heal, start_beam, start_peer
from tests.erlang import require_erlangs

ROUNDS = 3
ABSENCE = 60.0
POLL_INTERVAL = 5.0


async def main() -> None:
    """Print the table."""
    rows: list[tuple[object, ...]] = []

    async def measure(
        what: str, name: str, start: Callable[[], AbstractAsyncContextManager[Killable]]
    ) -> None:
        async with (
            open_node(unique("py"), cookie=COOKIE) as node,
            open_barnacle(epmd([name]), node, poll_interval=POLL_INTERVAL) as barnacle,
        ):
            observers = [Kept(barnacle)]
            rounds = await heal(start, name, observers, rounds=ROUNDS, absent=lambda: ABSENCE)
            times = [each for [each] in rounds]
            rows.append((what, median(times), max(times)))

    async with open_node(unique("mapper"), cookie=COOKIE), trio.open_nursery() as nursery:
        for erlang in require_erlangs():
            name = unique("beam")
            what = f"BEAM, OTP {erlang.version}"
            nursery.start_soon(measure, what, name, start_beam(erlang, name))
        name = unique("peer")
        nursery.start_soon(measure, "Python", name, start_peer(name))
    print_table(
        f"absence: seconds from reachable to connected after {ABSENCE:g} s, {ROUNDS} rounds each",
        ("peer", "median", "max"),
        sorted(rows),
    )
