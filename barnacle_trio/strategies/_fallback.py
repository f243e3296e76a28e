"""Other sources of nodes, for when the first one has none to tell."""

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


def fallback(*strategies: Strategy) -> Strategy:
    """Discover what the first of ``strategies`` names; ask the next only where it cannot answer.

    They are asked in order until one answers completely. If that is the first, its answer is
    complete. If it is another, the answer is partial: a stand-in finds nodes, yet on its word
    nobody is pruned whom the first one named before it failed, which a short list of seeds would
    do to a whole cluster while the DNS is down. What those before it knew in part is kept. If all
    fail, it fails.

    Each gets an equal share of the time until the caller's deadline, so that one that hangs
    leaves time for the next. A bug in one is raised as it is.

    Raises:
      ConfigurationError: no strategy is given, or something that is none.
    """
    return _Fallback(*checked(strategies, of="fallback"))


class _Fallback(Composite):
    def __repr__(self) -> str:
        return f"fallback({', '.join(map(describe, self._parts))})"

    async def __call__(self, local: NodeName) -> list[str]:
        await trio.lowlevel.checkpoint()
        answers: list[tuple[Strategy, Answer]] = []
        for index, part in enumerate(self._parts):
            answer = too_late()
            with trio.move_on_after(time_to_answer(len(self._parts) - index)):
                answer = await ask(part, local)
            answers.append((part, answer))
            if answer.error is None:
                break
        return conclude(answers)
