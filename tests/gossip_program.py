r"""Run inside a network namespace: a node and a barnacle for each way to gossip, and what they see.

    python -m tests.gossip_program \
        '{"label": {"name": ..., "gossip": {...}, "node": {...}, "barnacle": {...}}}'

Each line is a JSON list: the label, what happened, and its details. It ends with its input.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import trio

from barnacle_trio import NodeDown, NodeUp, Refreshed, gossip, open_barnacle, open_node
from tests.beam import COOKIE


def tell(*what: object) -> None:
    """One line for whoever watches."""
    print(json.dumps(what), flush=True)


class Telling(logging.Handler):
    """Tells what is logged, too."""

    def emit(self, record: logging.LogRecord) -> None:
        """Tell a record."""
        tell("log", record.levelname, record.getMessage())


async def take_part(label: str, setting: dict[str, Any]) -> None:
    """Gossip and tell who comes and goes."""
    if "interval" in setting["gossip"]:
        setting["gossip"]["interval"] = tuple(setting["gossip"]["interval"])
    strategy = gossip(**setting["gossip"])
    async with (
        open_node(setting["name"], cookie=COOKIE, **setting["node"]) as node,
        open_barnacle(strategy, node, name=label, **setting["barnacle"]) as barnacle,
    ):
        with barnacle.open_listener() as events:
            async for event in events:
                if isinstance(event, NodeUp):
                    tell(label, "up", event.node)
                elif isinstance(event, NodeDown):
                    tell(label, "down", event.node, event.reason)
                elif isinstance(event, Refreshed) and event.result.discovery_error is None:
                    tell(label, "complete")


async def main(settings: dict[str, dict[str, Any]]) -> None:
    """Take part in all ways at once."""
    async with trio.open_nursery() as nursery:
        for label, setting in settings.items():
            nursery.start_soon(take_part, label, setting)
        async with trio.lowlevel.FdStream(0) as stdin:
            async for _ in stdin:
                pass
        nursery.cancel_scope.cancel("nobody watches any more")


if __name__ == "__main__":
    logger = logging.getLogger("barnacle_trio")
    logger.setLevel(logging.INFO)
    logger.addHandler(Telling())
    trio.run(main, json.loads(sys.argv[1]))
