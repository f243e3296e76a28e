"""A barnacle in a nursery of one's own, which nobody starts again when it crashes.

By default a barnacle's poller survives any bug in a strategy. With ``max_restarts=0`` the first one
comes out of the nursery instead, as `BarnacleCrashed`.

    $ python examples/own_nursery.py
    up: friend@127.0.0.1
    shut down; still connected: friend@127.0.0.1
    crashed: ZeroDivisionError
"""

from functools import partial

import trio

from barnacle_trio import (
    Barnacle,
    BarnacleCrashed,
    NodeName,
    RestartPolicy,
    local_epmd,
    open_node,
    serve_barnacle,
)


async def faulty(local: NodeName) -> list[str]:
    await trio.sleep(0.1)
    return [f"node{1 // 0}@{local.host}"]


async def main() -> None:
    async with (
        open_node("my_app@127.0.0.1", cookie="my_cookie") as node,
        open_node("friend@127.0.0.1", cookie="my_cookie"),
    ):
        async with trio.open_nursery() as nursery:
            barnacle: Barnacle = await nursery.start(
                partial(serve_barnacle, local_epmd(match="friend"), node)
            )
            print("up:", *await barnacle.wait_for_nodes(1))
            await barnacle.shutdown()
        print("shut down; still connected:", *node.nodes.value)

        never = RestartPolicy(max_restarts=0)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(serve_barnacle, faulty, node, restart_policy=never))
                nursery.start_soon(trio.sleep_forever)  # your program
        except* BarnacleCrashed as group:
            print("crashed:", *(type(error.__cause__).__name__ for error in group.exceptions))


if __name__ == "__main__":
    trio.run(main)
