"""Hear what happens, in two ways: by a channel that you give, and by one that you ask for.

The friend leaves the first time, and is disconnected the second time.

    $ python examples/events.py
    given: NodeUp friend@127.0.0.1
    given: NodeDown friend@127.0.0.1, left
    given: ShutDown
    given: the channel has ended
    asked: NodeUp friend@127.0.0.1
    asked: NodeDown friend@127.0.0.1, closed_by_us
"""

import trio

from barnacle_trio import (
    Event,
    Node,
    NodeDown,
    NodeUp,
    ShutDown,
    local_epmd,
    open_barnacle,
    open_node,
)

FRIENDS = local_epmd(match="friend")


async def main() -> None:
    async with open_node("my_app@127.0.0.1", cookie="my_cookie") as node:
        await by_a_channel_that_is_given(node)
        await by_a_channel_that_is_asked_for(node)


async def by_a_channel_that_is_given(node: Node) -> None:
    # Given at the start, so nothing is missed. The buffer is a bound: the barnacle never waits for
    # a slow listener, it drops and counts what finds no room, and says so by `Missed`.
    send, receive = trio.open_memory_channel[Event](64)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear, "given", receive)
        # The barnacle works with a clone, and closes that one only. `with send` closes our own end:
        # once both are closed, `hear` ends, and so does the nursery.
        with send:
            async with open_barnacle(FRIENDS, node, poll_interval=1, listener=send) as barnacle:
                async with open_node("friend@127.0.0.1", cookie="my_cookie"):
                    await barnacle.wait_for_nodes(1)
                await barnacle.nodes.wait_value(frozenset())


async def by_a_channel_that_is_asked_for(node: Node) -> None:
    async with (
        open_node("friend@127.0.0.1", cookie="my_cookie") as friend,
        open_barnacle(FRIENDS, node, poll_interval=1) as barnacle,
    ):
        await barnacle.wait_for_nodes(1)
        # However late it is asked for: it begins with a NodeUp for each node that is up.
        with barnacle.open_listener() as events:
            await hear("asked", events, until=NodeUp)
            await node.disconnect(friend.name)
            await hear("asked", events, until=NodeDown)


async def hear(
    who: str, events: trio.MemoryReceiveChannel[Event], until: type[Event] | None = None
) -> None:
    async for event in events:
        match event:
            case NodeUp(node=node):
                print(f"{who}: NodeUp {node}")
            case NodeDown(node=node, reason=reason):
                print(f"{who}: NodeDown {node}, {reason}")
            case ShutDown():
                print(f"{who}: ShutDown")
        if until is not None and isinstance(event, until):
            return
    print(f"{who}: the channel has ended")


if __name__ == "__main__":
    trio.run(main)
