"""A Python node in a process of its own, with a barnacle: see `tests.cluster_lab.open_peer`.

It is told what to be by one JSON object, and prints one for each thing that happens: first that it
is ready, then each
connection and the ups and downs of its barnacle. It ends with its standard input.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import trio

from barnacle_trio import (
    NodeDown,
    NodeUp,
    PeerChange,
    PeerUp,
    epmd,
    local_epmd,
    open_barnacle,
    open_node,
)


def tell(**fields: object) -> None:
    # Linux's monotonic clock is the same for all processes.
    print(json.dumps({"at": time.monotonic(), **fields}), flush=True)


def tell_connection(change: PeerChange) -> None:
    if isinstance(change, PeerUp):
        tell(what="Connected", node=change.node)


async def be(spec: dict[str, Any]) -> None:
    discover = spec["discover"]
    strategy = local_epmd() if discover == "local_epmd" else epmd(discover)
    async with (
        open_node(
            spec["name"], cookie=spec["cookie"], failure_timeout=spec["failure_timeout"]
        ) as node,
        open_barnacle(
            strategy, node, poll_interval=spec["poll_interval"], prune_after=spec["prune_after"]
        ) as barnacle,
    ):
        node.subscribe(tell_connection)
        for peer in await node.list_nodes():
            tell(what="Connected", node=peer)
        tell(what="Ready")
        with barnacle.open_listener(1000) as events:
            async for event in events:
                if isinstance(event, NodeUp):
                    tell(what="NodeUp", node=event.node)
                elif isinstance(event, NodeDown):
                    tell(what="NodeDown", node=event.node, reason=event.reason)


async def main(spec: dict[str, Any]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(be, spec)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        nursery.cancel_scope.cancel("the standard input ended")


if __name__ == "__main__":
    trio.run(main, json.loads(sys.argv[1]))
