"""A Python node of the laboratory, in a process of its own; run by `tests.lab.cluster`.

It is told what to be by one JSON object and prints one for each thing that it sees. It drains when
told so by SIGTERM, counts what it holds at SIGUSR1, and ends with its standard input.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from contextlib import suppress
from typing import Any

import trio
from dns.asyncresolver import Resolver

from barnacle_trio import NodeDown, NodeUp, dns, epmd, open_barnacle, open_node
from tests.scale import descriptors, resident


def tell(what: str, **fields: object) -> None:
    # Linux's monotonic clock is the same for all processes.
    print(json.dumps({"what": what, "at": time.monotonic(), **fields}), flush=True)


async def be(spec: dict[str, Any]) -> None:
    async with (
        open_node(spec["name"], cookie=spec["cookie"], **spec["node"]) as node,
        open_barnacle(strategy_of(spec), node, **spec["barnacle"]) as barnacle,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(drain_on_sigterm, barnacle, nursery.cancel_scope)
        nursery.start_soon(count_on_sigusr1)
        if spec["chatter"]:
            nursery.start_soon(chat, node, barnacle, spec["chatter"])
        with barnacle.open_listener(10_000) as events:
            tell("start")
            async for event in events:
                if isinstance(event, NodeUp):
                    tell("up", peer=event.node)
                elif isinstance(event, NodeDown):
                    tell("down", peer=event.node, reason=event.reason)


def strategy_of(spec: dict[str, Any]) -> Any:
    if not spec["resolver"]:
        return epmd(spec["peers"])
    resolver = Resolver(configure=False)
    resolver.nameservers = [spec["resolver"]]
    return dns(spec["query"], resolver=resolver)


async def count_on_sigusr1() -> None:
    """Tell what this process holds: tasks, descriptors, bytes of memory."""
    with trio.open_signal_receiver(signal.SIGUSR1) as signals:
        async for _ in signals:
            tasks = trio.lowlevel.current_statistics().tasks_living
            tell("count", reason=f"{tasks} {descriptors()} {resident()}")


async def drain_on_sigterm(barnacle: Any, scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            await barnacle.drain(5)
            scope.cancel("drained")


async def chat(node: Any, barnacle: Any, size: int) -> None:
    """Say something of that many bytes to everybody, again and again."""
    while True:
        for peer in barnacle.nodes.value:
            with suppress(trio.WouldBlock):
                node.send_nowait(("nobody", peer), bytes(size))
        await trio.sleep(0.5)


async def main(spec: dict[str, Any]) -> None:
    async with trio.open_nursery() as nursery:

        async def be_and_end() -> None:
            await be(spec)
            nursery.cancel_scope.cancel("it left")

        nursery.start_soon(be_and_end)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        nursery.cancel_scope.cancel("the standard input ended")


if __name__ == "__main__":
    logging.basicConfig(format="%(relativeCreated)d %(name)s %(message)s", level=logging.INFO)
    trio.run(main, json.loads(sys.argv[1]))
