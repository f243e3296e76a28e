"""Several sources of nodes at once."""

from __future__ import annotations

import trio

from barnacle_trio._names import NodeName
from barnacle_trio._strategy import Strategy
from barnacle_trio.strategies._parts import (
    Answer,
    Composite,
    ask,
    checked,
    conclude,
    describe,
    too_late,
)
from barnacle_trio.strategies._time import time_to_answer


def merge(*strategies: Strategy) -> Strategy:
    """Discover the union of what all ``strategies`` name, asked at once.

    One that fails makes the answer partial: it is never smaller without saying so. If all fail,
    it fails. One that hangs is given up shortly before the caller's deadline and counts as failed.
    A bug in one is raised as it is, and the others are cancelled.

    Raises:
      ConfigurationError: no strategy is given, or something that is none.
    """
    return _Merge(*checked(strategies, of="merge"))


class _Merge(Composite):
    def __repr__(self) -> str:
        return f"merge({', '.join(map(describe, self._parts))})"

    async def __call__(self, local: NodeName) -> list[str]:
        await trio.lowlevel.checkpoint()
        answers: list[Answer] = [too_late() for _ in self._parts]
        bugs: list[Exception] = []

        async def ask_part(index: int, part: Strategy) -> None:
            await trio.lowlevel.checkpoint()
            try:
                answers[index] = await ask(part, local)
            except Exception as bug:
                bugs.append(bug)
                nursery.cancel_scope.cancel(f"a bug in {describe(part)}")

        # Ends early rather than late: what the parts have answered by then is kept.
        with trio.move_on_after(time_to_answer()):
            async with trio.open_nursery() as nursery:
                for index, part in enumerate(self._parts):
                    nursery.start_soon(ask_part, index, part)
        if bugs:
            raise bugs[0]
        return conclude(zip(self._parts, answers, strict=True))
