"""A node in each pod: it meets the other pods of its service.

    NODE_NAME  the node's name: my_app@ADDRESS of the pod, or my_app@ its host name
    NODE_MODE  which of the two the others are called by: ip (default) or hostname
    COOKIE     the cookie
    NODE_PORT  the one port of all nodes, which then need no port mapper; by default there is one

The manifests set the first three. See README.md beside this file.
"""

import os
import signal

import trio

from barnacle_trio import (
    Barnacle,
    FixedPort,
    NodeDown,
    NodeUp,
    kubernetes,
    open_barnacle,
    open_node,
)


async def main() -> None:
    by_name = os.environ.get("NODE_MODE", "ip") == "hostname"
    strategy = kubernetes("app=my-app", mode="hostname" if by_name else "ip")
    port = os.environ.get("NODE_PORT")
    async with (
        open_node(
            os.environ["NODE_NAME"],
            cookie=os.environ["COOKIE"],
            epmd=None if port is None else FixedPort(int(port)),
        ) as node,
        open_barnacle(strategy, node) as barnacle,
    ):
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            print(f"{node.name} looks for {strategy!r}", flush=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work, barnacle)
                async for _number in signals:
                    break
                await barnacle.drain(grace=20)  # the manifests grant 30 seconds
    print("left", flush=True)


async def work(barnacle: Barnacle) -> None:
    """Your program; here it tells who comes and goes."""
    with barnacle.open_listener() as events:
        async for event in events:
            if isinstance(event, NodeUp):
                print("up:", event.node, flush=True)
            elif isinstance(event, NodeDown):
                print(f"down: {event.node} ({event.reason})", flush=True)


if __name__ == "__main__":
    trio.run(main)
