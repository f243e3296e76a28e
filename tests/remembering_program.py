"""A Python node in a process of its own that is found by a DNS server, and remembers the others.

It is told what to be by one JSON object, and tells what it sees as `tests.cluster_program` does.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import trio

from barnacle_trio import FixedPort, NodeDown, NodeUp, dns, open_barnacle, open_node, remember
from tests.cluster_program import tell
from tests.dns_server import resolver_for


async def be(spec: dict[str, Any]) -> None:
    source = dns(spec["query"], resolver=resolver_for(spec["dns_port"]), timeout=0.5)
    async with (
        open_node(spec["name"], cookie=spec["cookie"], epmd=FixedPort(spec["port"])) as node,
        open_barnacle(remember(source, spec["memory"]), node, poll_interval=0.2) as barnacle,
    ):
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
