"""Leave well when told to: SIGTERM, Ctrl-C.

It stays until then. Start it twice, under two names, and end one of them:

    $ python examples/drain.py
    my_app@127.0.0.1 is up, pid 4242
    SIGTERM: leaving
    left
"""

import os
import signal
import sys

import trio

from barnacle_trio import Barnacle, local_epmd, open_barnacle, open_node


async def main(name: str) -> None:
    async with (
        open_node(name, cookie="my_cookie") as node,
        open_barnacle(local_epmd(), node, poll_interval=1) as barnacle,
    ):
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            print(f"{node.name} is up, pid {os.getpid()}", flush=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work, barnacle)
                async for number in signals:
                    print(f"{signal.Signals(number).name}: leaving", flush=True)
                    break
                await barnacle.drain(grace=5)  # stops to dial; `work` ends with its last event
    # Leaving open_node says goodbye: the others see that this node `left`, not that it was lost.
    print("left")


async def work(barnacle: Barnacle) -> None:
    """Your program; here it tells what it hears on standard error."""
    with barnacle.open_listener() as events:
        async for event in events:
            print(event, file=sys.stderr)


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "my_app@127.0.0.1")
