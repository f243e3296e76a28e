"""``python -m tests.lab [SCENARIO] [--seed N] [name=value ...]``: run scenarios, print figures."""

from __future__ import annotations

import argparse
import inspect
import sys
from functools import partial

import trio

from tests.lab.network import missing
from tests.lab.scenarios import SCENARIOS, Result


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    parser.add_argument("scenario", nargs="?", choices=sorted(SCENARIOS), metavar="SCENARIO")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--history", action="store_true", help="print all that happened")
    parser.add_argument("options", nargs="*", metavar="name=value", help="numbers; see the list")
    given = parser.parse_intermixed_args()
    if given.scenario is None:
        for name, function in SCENARIOS.items():
            print(f"{name:18} {inspect.getdoc(function)}")
            print(f"{'':18} {inspect.signature(function)}")
        return 0
    if (why := missing()) is not None:
        print(why, file=sys.stderr)
        return 2
    options = dict(each.split("=", 1) for each in given.options)
    numbers = {
        name: float(value) if "." in value else int(value) for name, value in options.items()
    }
    result: Result = trio.run(partial(SCENARIOS[given.scenario], given.seed, **numbers))
    if given.history:
        print(result.history)
    print(f"{result.scenario}, seed {result.seed}")
    for what, (value, goal) in result.figures.items():
        print(f"  {what:42} {value:8.2f}   goal {goal:6.2f}   {'' if value <= goal else 'MISSED'}")
    return 1 if result.late(1) else 0


if __name__ == "__main__":
    sys.exit(main())
