"""A barnacle that keeps this program connected: the form to begin with.

The second node lives in this program too, so that there is somebody to meet.

    $ python examples/supervised.py
    up: friend@127.0.0.1
    the friend has left
    the friend is back
"""

import trio

from barnacle_trio import local_epmd, open_barnacle, open_node


async def main() -> None:
    async with (
        open_node("my_app@127.0.0.1", cookie="my_cookie") as node,
        open_barnacle(local_epmd(match="friend"), node, poll_interval=1) as barnacle,
    ):
        async with open_node("friend@127.0.0.1", cookie="my_cookie"):
            nodes = await barnacle.wait_for_nodes(1)
            print("up:", *nodes)

        await barnacle.nodes.wait_value(frozenset())
        print("the friend has left")

        async with open_node("friend@127.0.0.1", cookie="my_cookie"):
            await barnacle.wait_for_nodes(1)
            print("the friend is back")


if __name__ == "__main__":
    trio.run(main)
