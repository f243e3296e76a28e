"""Find nodes by gossip: each says its name to a multicast group, and hears the others.

    $ python examples/strategy_gossip.py
    up: friend@127.0.0.1
    gone: friend@127.0.0.1

On machines of one network, Elixir nodes with libcluster's Gossip among them, the secret being the
same everywhere:

    GOSSIP_SECRET=... python examples/strategy_gossip.py my_app@10.0.0.7
"""

import os
import sys

import trio

from barnacle_trio import NodeDown, NodeUp, gossip, open_barnacle, open_node

SECRET = "a secret of this example's, known to all"  # noqa: S105


async def main() -> None:
    # Elixir does not know the sealed packets, which nobody without the secret can forge or repeat.
    strategy = gossip(secret=SECRET, wire="sealed", interface="127.0.0.1", port=45893)
    async with (
        open_node("my_app@127.0.0.1", cookie="my_cookie") as node,
        open_barnacle(strategy, node) as barnacle,
    ):
        async with (
            open_node("friend@127.0.0.1", cookie="my_cookie") as friend,
            open_barnacle(strategy, friend) as theirs,
        ):
            print("up:", *await barnacle.wait_for_nodes(1))
            await theirs.drain()  # says goodbye to the group, too
        await barnacle.nodes.wait_value(frozenset())
        print("gone:", friend.name)


async def main_on_a_network(name: str) -> None:
    strategy = gossip(secret=os.environ["GOSSIP_SECRET"])
    async with (
        open_node(name) as node,
        open_barnacle(strategy, node) as barnacle,
    ):
        with barnacle.open_listener() as events:
            async for event in events:
                if isinstance(event, NodeUp):
                    print("up:", event.node)
                elif isinstance(event, NodeDown):
                    print(f"{event.reason}:", event.node)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        trio.run(main_on_a_network, sys.argv[1])
    else:
        trio.run(main)
