"""What is served on nodes, and asked of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

from barnacle_trio._errors import ProcessDown
from barnacle_trio.distribution._node import Node
from barnacle_trio.etf import Atom, Pid

NORMAL, KILLED, SHUTDOWN, NOPROC = map(Atom, ("normal", "killed", "shutdown", "noproc"))
GEN_CALL, GEN_CAST, PYTHON_ERROR = map(Atom, ("$gen_call", "$gen_cast", "python_error"))


@asynccontextmanager
async def serving(
    node: Node, handler: Any, name: str | None = "server", **options: Any
) -> AsyncIterator[Pid]:
    async with trio.open_nursery() as nursery:
        yield await nursery.start(partial(node.serve_process, name, handler, **options))
        nursery.cancel_scope.cancel()


async def down(node: Node, dest: Any, request: Any) -> Any:
    """The reason for which a call fails."""
    with pytest.raises(ProcessDown) as caught:
        await node.call(dest, request)
    return caught.value.reason


async def echo(request: Any) -> Any:
    await trio.lowlevel.checkpoint()
    return request


ZERO_DIVISION = (
    PYTHON_ERROR,
    b"ZeroDivisionError",
    b"integer division or modulo by zero",
)


class Recorder:
    """Keeps what it is sent; answers with all of it."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def call(self, request: Any, sender: Pid) -> Any:
        await trio.lowlevel.checkpoint()
        self.seen.append(("call", request, sender.node.name))
        return [each[:2] for each in self.seen]

    async def cast(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.seen.append(("cast", message))

    async def info(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.seen.append(("info", message))
