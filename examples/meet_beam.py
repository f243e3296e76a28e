"""Meet nodes that are not Python: Erlang, Elixir, Gleam.

Start one, with the same cookie, in another terminal:

    erl -name my_erlang@127.0.0.1 -setcookie my_cookie
    iex --name my_elixir@127.0.0.1 --cookie my_cookie
    ERL_FLAGS="-name my_gleam@127.0.0.1 -setcookie my_cookie" gleam run

and this program until you end it by Ctrl-C. Give names of nodes, or none for all on this machine:

    $ python examples/meet_beam.py my_erlang@127.0.0.1
    py@127.0.0.1 looks for my_erlang@127.0.0.1
    up: my_erlang@127.0.0.1, it answers
    down: my_erlang@127.0.0.1, lost
    bye
"""

import signal
import sys

import trio

from barnacle_trio import Barnacle, Node, NodeDown, NodeUp, epmd, local_epmd, open_barnacle
from barnacle_trio import open_node as become_node


async def main(*names: str) -> None:
    strategy = epmd(names) if names else local_epmd()
    async with (
        become_node("py@127.0.0.1", cookie="my_cookie") as node,
        open_barnacle(strategy, node, poll_interval=1) as barnacle,
        trio.open_nursery() as nursery,
    ):
        print(f"{node.name} looks for", *(names or ["every node of this machine"]), flush=True)
        nursery.start_soon(tell, node, barnacle)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _signal in signals:
                break
        nursery.cancel_scope.cancel("asked to end")
    print("bye")


async def tell(node: Node, barnacle: Barnacle) -> None:
    with barnacle.open_listener() as events:
        async for event in events:
            match event:
                case NodeUp(node=peer):
                    answers = "it answers" if await node.ping(peer) else "it does not answer"
                    print(f"up: {peer}, {answers}", flush=True)
                case NodeDown(node=peer, reason=reason):
                    print(f"down: {peer}, {reason}", flush=True)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
