"""A cluster without any port mapper: every node listens on the port that all agreed on.

One node for each address, then, as in containers. A BEAM node joins with the flags
``-start_epmd false -erl_epmd_port 9100``.

    $ python examples/fixed_port.py
    up: friend@127.0.0.2
"""

import sys

import trio

from barnacle_trio import FixedPort, epmd, open_barnacle, open_node

NODES = ["my_app@127.0.0.1", "friend@127.0.0.2"]


async def main(port: int) -> None:
    agreed = FixedPort(port)
    async with (
        open_node("my_app@127.0.0.1", cookie="my_cookie", epmd=agreed) as node,
        open_node("friend@127.0.0.2", cookie="my_cookie", epmd=agreed),
        open_barnacle(epmd(NODES), node) as barnacle,
    ):
        print("up:", *await barnacle.wait_for_nodes(1))


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 9100)
