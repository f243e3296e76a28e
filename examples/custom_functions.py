"""Connect nodes by something else than Distributed Erlang: functions of one's own.

Here a set stands for what you have. Give all of them and a name, or give a base (a `Node`, say) and
only what you want to do otherwise.

    $ python examples/custom_functions.py
    connected one@10.0.0.1
    connected two@10.0.0.2
    nodes: one@10.0.0.1 two@10.0.0.2
    ask before dialling friend@127.0.0.1
    nodes: friend@127.0.0.1
"""

import trio

from barnacle_trio import custom_transport, epmd, open_barnacle, open_node

connected: set[str] = set()


async def connect(name: str) -> None:
    await trio.sleep(0.1 if name.startswith("two") else 0)  # dial; raise what went wrong
    connected.add(name)
    print("connected", name)


async def disconnect(name: str) -> None:
    await trio.lowlevel.checkpoint()
    connected.discard(name)


async def list_nodes() -> set[str]:
    await trio.lowlevel.checkpoint()
    return connected


async def main() -> None:
    transport = custom_transport(
        name="my_app@10.0.0.7", connect=connect, disconnect=disconnect, list_nodes=list_nodes
    )
    strategy = epmd(["one@10.0.0.1", "two@10.0.0.2"])
    async with open_barnacle(strategy, transport) as barnacle:
        print("nodes:", *sorted(await barnacle.wait_for_nodes(2)))

    async with (
        open_node("my_app@127.0.0.1", cookie="my_cookie") as node,
        open_node("friend@127.0.0.1", cookie="my_cookie") as friend,
    ):

        async def ask_first(name: str) -> None:
            print("ask before dialling", name)
            await node.connect(name)

        transport = custom_transport(node, connect=ask_first)
        async with open_barnacle(epmd([friend.name]), transport) as barnacle:
            print("nodes:", *await barnacle.wait_for_nodes(1))


if __name__ == "__main__":
    trio.run(main)
