"""A node of an app on Fly.io: it meets the other machines of its app, and those of other apps.

    CLUSTER_APPS    apps whose machines are wanted, parted by commas; by default this one alone
    RELEASE_COOKIE  the cookie; Elixir's releases read it under this name, too

Fly.io sets the rest. See README.md beside this file.
"""

import os
import signal

import trio

from barnacle_trio import Barnacle, NodeDown, NodeUp, fly, open_barnacle, open_node


async def main() -> None:
    app = os.environ["FLY_APP_NAME"]
    strategy = fly(
        os.environ.get("CLUSTER_APPS", app).split(","),
        match=lambda node: not node.basename.startswith("rem-"),  # consoles of Elixir's releases
    )
    async with (
        open_node(
            f"{app}@{os.environ['FLY_PRIVATE_IP']}", cookie=os.environ["RELEASE_COOKIE"]
        ) as node,
        open_barnacle(strategy, node) as barnacle,
    ):
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            print(f"{node.name} looks for {strategy!r}", flush=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work, barnacle)
                async for _number in signals:
                    break
                await barnacle.drain(grace=20)  # fly.toml grants 30 seconds
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
