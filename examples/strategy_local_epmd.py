"""Find the nodes of this machine by its port mapper.

The port mapper lists whatever runs here, so choose: by a glob, by several, or by a predicate.

    $ python examples/strategy_local_epmd.py
    found: worker_1@127.0.0.1 worker_2@127.0.0.1
    not wanted, so not connected: stranger@127.0.0.1
"""

import trio

from barnacle_trio import local_epmd, open_barnacle, open_node


async def main() -> None:
    async with (
        open_node("my_app@127.0.0.1", cookie="my_cookie") as node,
        open_node("worker_1@127.0.0.1", cookie="my_cookie"),
        open_node("worker_2@127.0.0.1", cookie="my_cookie"),
        open_node("stranger@127.0.0.1", cookie="my_cookie") as stranger,
        open_barnacle(local_epmd(match="worker_*"), node) as barnacle,
    ):
        print("found:", *sorted(await barnacle.wait_for_nodes(2)))
        if stranger.name not in node.nodes.value:
            print("not wanted, so not connected:", stranger.name)


if __name__ == "__main__":
    trio.run(main)
