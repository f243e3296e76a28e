"""Other sources of nodes, for when the first one has none to tell."""

from __future__ import annotations

import logging
from collections.abc import Sequence

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

logger = logging.getLogger("barnacle_trio.strategies")


def fallback(*strategies: Strategy) -> Strategy:
    """Discover what the first of ``strategies`` that answers names.

    They are asked in order, each time anew. A stand-in's complete answer is complete, and what
    those before it named when they last answered stays in it: a short list of seeds finds nodes
    while the DNS is down, yet it prunes nobody whom the DNS had named. A partial answer is joined
    with what the next ones say and stays partial. If all fail, it fails.

    Each gets an equal share of the time until the caller's deadline, so that one that hangs
    leaves time for the next. A bug in one is raised as it is. The log tells when another one than
    before answers.

    Raises:
      ConfigurationError: no strategy is given, or something that is none.
    """
    return _Fallback(*checked(strategies, of="fallback"))


class _Fallback(Composite):
    def __init__(self, *parts: Strategy) -> None:
        super().__init__(*parts)
        self._last_named: dict[int, Sequence[str]] = {}
        self._answering = 0

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
                self._note(index, answers)
                break
        if answers[-1][1].error is None:
            answers = [self._stand_in(index, *each) for index, each in enumerate(answers)]
        return conclude(answers)

    def _stand_in(self, index: int, part: Strategy, answer: Answer) -> tuple[Strategy, Answer]:
        """For a part that failed where a later one answered: what it named when it last did."""
        if answer.names is None:
            return part, Answer(names=self._last_named.get(index, ()))
        if answer.error is None:
            self._last_named[index] = answer.names
        return part, answer

    def _note(self, index: int, answers: Sequence[tuple[Strategy, Answer]]) -> None:
        if index == self._answering:
            return
        self._answering = index
        answering = describe(self._parts[index])
        if index == 0:
            logger.info("%s answers again", answering)
            return
        failed, answer = answers[0]
        logger.warning("%s: %s; %s stands in", describe(failed), answer.error, answering)
