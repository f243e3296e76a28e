"""Run benchmarks by name and print their tables: see README.md beside this file."""

from __future__ import annotations

import argparse
import importlib
import logging
import os

import trio

from tests.ports import free_port

USUAL = ("dial", "mesh", "heal", "messages")
"""What runs when nothing is named."""
LONG = ("absence",)
"""What runs only when it is named."""


def main() -> None:
    """Run what the command line names, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"of {', '.join((*USUAL, *LONG))}")
    chosen = parser.parse_args().name or USUAL
    unknown = set(chosen) - {*USUAL, *LONG}
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    logging.getLogger("barnacle_trio").setLevel(
        logging.CRITICAL
    )  # what fails here fails on purpose
    # Neither the machine's own port mapper nor its nodes have a part in this.
    os.environ["ERL_EPMD_PORT"] = str(free_port())
    for name in chosen:
        trio.run(importlib.import_module(f"tests.benchmarks.{name}").main)


if __name__ == "__main__":
    main()
