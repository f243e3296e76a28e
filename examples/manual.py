"""Take the helm: refresh, pause, resume, look, shut down.

All of these are methods of the barnacle; none takes a timeout, for a cancel scope is one.

    $ python examples/manual.py
    refresh: connected friend@127.0.0.1
    paused; still connected: friend@127.0.0.1
    resumed: running
    friend@127.0.0.1 is connected, has been down 0 times
    shut down: closed, 1 node still connected
"""

import trio

from barnacle_trio import local_epmd, open_barnacle, open_node


async def main() -> None:
    async with (
        open_node("my_app@127.0.0.1", cookie="my_cookie") as node,
        open_barnacle(local_epmd(match="friend"), node, poll_interval=15) as barnacle,
        open_node("friend@127.0.0.1", cookie="my_cookie"),
    ):
        # A round that starts now, and its dials. It raises DiscoveryError if discovery failed.
        # Where that takes too long we give up waiting; the round itself goes on.
        with trio.fail_after(10):
            result = await barnacle.refresh()
        print("refresh: connected", *result.connected)

        await barnacle.pause()  # no discovery, no dials; connections stay
        print("paused; still connected:", *barnacle.nodes.value)
        await barnacle.resume()  # refresh() would do as well
        print("resumed:", barnacle.status().state)

        await barnacle.wait_for_nodes(1, held_for=0.2)  # without a break for so many seconds
        for name, peer in barnacle.status().peers.items():
            print(f"{name} is {peer.state}, has been down {peer.flaps} times")

        await barnacle.shutdown()
        print(f"shut down: {barnacle.status().state}, {len(node.nodes.value)} node still connected")


if __name__ == "__main__":
    trio.run(main)
