"""Weeks of a cluster under faults at random, in virtual time; and many lives of single nodes.

    python -m tests.soak --seed 7 --days 14     # 20 nodes in memory; takes some minutes
    python -m tests.soak --cycles 1000          # starts and stops, cuts and heals

The same seed gives the same faults. A run goes in episodes: one to three faults at once
(partitions, pairs cut, nodes cut off from all, restarts with and without a goodbye, the whole
process standing still, strategies that fail, hang, tell half of it or crash), then all is mended.
After each episode

- everybody is connected with everybody again, in bounded time;
- ups and downs alternated, and no down came between two nodes that nothing was done to;
- each peer that was in no other trouble saw one down and one up for each restart;
- tasks and wires are as many as they were in the beginning.

In the end objects and memory are what they were after the first quarter. ``--pace`` makes the nodes
that many times more patient (ticks, probes, time-outs, rounds): what a day then costs is its
faults, and not the ticks between them.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time

from tests.soak.lives import CYCLES, cycle, run_apart
from tests.soak.story import soak


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.soak", description="See the module's head.")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--days", type=float, default=14.0, help="of virtual time")
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--pace", type=float, default=60.0)
    parser.add_argument("--cycles", type=int, help="this instead, so many of each kind")
    parser.add_argument("--kind", choices=CYCLES, help="of cycles; all if none is named")
    options = parser.parse_args()
    logging.disable()  # every fault is told, by every node
    began = time.monotonic()
    if options.cycles is None:
        print(f"seed {options.seed}")
        print(soak(options.seed, days=options.days, size=options.nodes, pace=options.pace))
    elif options.kind is None:
        for kind in CYCLES:
            print(kind, *run_apart(kind, options.cycles).splitlines()[:1], flush=True)
    else:
        samples = cycle(options.kind, options.cycles)
        print(f"{len(samples)} cycles: {samples[len(samples) // 4]}, in the end {samples[-1]}")
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
