"""One round without any polling, e.g. for a program of your own rhythm.

Nobody is disconnected by it, unless it is told to: ``prune="all"``.

    $ python examples/run_once.py
    connected: friend@127.0.0.1
    absent@127.0.0.1: PeerUnreachable
    nothing to do: friend@127.0.0.1 is connected
"""

import trio

from barnacle_trio import epmd, open_node, run_once

NODES = ["my_app@127.0.0.1", "friend@127.0.0.1", "absent@127.0.0.1"]  # one's own may be in it


async def main() -> None:
    async with (
        open_node("my_app@127.0.0.1", cookie="my_cookie") as node,
        open_node("friend@127.0.0.1", cookie="my_cookie"),
    ):
        result = await run_once(epmd(NODES), node)
        print("connected:", *result.connected)
        for name, error in result.failed.items():
            print(f"{name}: {type(error).__name__}")

        result = await run_once(epmd(NODES), node)
        if not result.connected:
            print("nothing to do:", *result.nodes, "is connected")


if __name__ == "__main__":
    trio.run(main)
