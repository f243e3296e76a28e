"""A source that can fail, a file of nodes, and a clock on the wall."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import trio

from barnacle_trio._errors import DiscoveryError
from barnacle_trio._names import NodeName
from barnacle_trio._strategy import Discovery, Strategy, discover
from barnacle_trio.strategies._memory_file import parse_memory

LOCAL = NodeName("my_app@10.0.0.1")
A, B, C = (NodeName(name) for name in ("a@10.0.0.2", "b@10.0.0.3", "c@10.0.0.4"))
DOWN = DiscoveryError("the DNS is down")


class Source:
    """A strategy that answers as it is told."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    async def __call__(self, local: NodeName) -> Iterable[str]:
        await trio.lowlevel.checkpoint()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[return-value]

    def __repr__(self) -> str:
        return "Source()"


async def ask(strategy: Strategy) -> Discovery:
    with trio.fail_after(10):
        return await discover(strategy, LOCAL)


def told(answer: Discovery) -> tuple[str, set[str]]:
    return answer.kind, set(answer.nodes)


def kept(file: Path) -> set[str]:
    return set(parse_memory(file.read_bytes()))


def names_beside(file: Path) -> list[str]:
    return [entry.name for entry in file.parent.iterdir()]


class Clock:
    """The wall clock, as `remember` sees it."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.5

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now
