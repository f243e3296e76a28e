"""A desk that answers in its own time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

from barnacle_trio import Node, ProcessDown
from barnacle_trio._errors import RemoteError
from barnacle_trio._names import NodeName

A, B, C = NodeName("a@memory"), NodeName("b@memory"), NodeName("c@memory")


class Desk:
    """Answers a request when a test lets it."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.let_go = trio.Event()

    async def call(self, request: Any, _sender: object) -> Any:
        self.begun.append(request)
        await self.let_go.wait()
        return request


Ask = Callable[[Node, Any], Awaitable[Any]]


async def ask_process(asker: Node, request: Any) -> Any:
    return await asker.call(("desk", B), request)


async def ask_function(asker: Node, request: Any) -> Any:
    return await asker.rpc(B, "desk", "ask", request)


async def serve(nursery: trio.Nursery, node: Node, desk: Desk, how: Ask, width: int = 1) -> None:
    """Have a node answer in one of the two ways."""

    async def ask(request: Any) -> Any:
        return await desk.call(request, None)

    async def expose(task_status: trio.TaskStatus[None]) -> None:
        with node.expose({("desk", "ask"): ask}):
            task_status.started()
            await trio.sleep_forever()

    if how is ask_function:
        await nursery.start(expose)
    else:
        await nursery.start(partial(node.serve_process, "desk", desk, max_concurrent=width))


async def asks(ask: Ask, node: Node, request: Any, answers: list[Any]) -> None:
    try:
        answers.append(await ask(node, request))
    except (ProcessDown, RemoteError) as error:
        answers.append(error)
