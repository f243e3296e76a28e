"""Keep a known list of nodes connected.

Every node can be given the same list: its own name in it does no harm. Nodes that are down are
dialled again and again, with growing pauses, and do not hold up the others.

    $ python examples/strategy_epmd.py
    up: first@127.0.0.1
    second@127.0.0.1 is not up yet: PeerUnreachable
    up: first@127.0.0.1 second@127.0.0.1
"""

import trio

from barnacle_trio import NodeName, epmd, open_barnacle, open_node

NODES = ["my_app@127.0.0.1", "first@127.0.0.1", "second@127.0.0.1"]


async def main() -> None:
    async with (
        open_node("my_app@127.0.0.1", cookie="my_cookie") as node,
        open_node("first@127.0.0.1", cookie="my_cookie"),
        open_barnacle(epmd(NODES), node, poll_interval=1) as barnacle,
    ):
        result = await barnacle.refresh()
        print("up:", *result.nodes)
        second = NodeName("second@127.0.0.1")
        print(f"{second} is not up yet: {type(result.failed[second]).__name__}")

        async with open_node(second, cookie="my_cookie"):
            print("up:", *sorted(await barnacle.wait_for_nodes(2)))


if __name__ == "__main__":
    trio.run(main)
