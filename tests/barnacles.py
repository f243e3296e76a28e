"""What many tests of the barnacle need."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from barnacle_trio._barnacle import Barnacle
from barnacle_trio._running import open_barnacle
from barnacle_trio.testing import EventRecorder, FakeTransport, ScriptedStrategy

A, B, C = "a@10.0.0.1", "b@10.0.0.2", "c@10.0.0.3"


@dataclass
class World:
    """A barnacle in a world without a network."""

    strategy: ScriptedStrategy
    transport: FakeTransport
    recorder: EventRecorder
    barnacle: Barnacle


@asynccontextmanager
async def open_world(
    *names: str,
    strategy: Any = None,
    transport: FakeTransport | None = None,
    **options: Any,
) -> AsyncIterator[World]:
    """Open a barnacle whose strategy names the nodes, all of which are reachable."""
    strategy = strategy or ScriptedStrategy(names)
    transport = transport or FakeTransport(reachable=names)
    recorder = EventRecorder()
    async with open_barnacle(strategy, transport, listener=recorder.send, **options) as barnacle:
        yield World(strategy, transport, recorder, barnacle)


async def settle() -> None:
    """Let everything that can run now run."""
    await trio.testing.wait_all_tasks_blocked()
