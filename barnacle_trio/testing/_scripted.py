"""A strategy that says what a test wants."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Final

import trio

from barnacle_trio._names import NodeName


class Hang:
    """The type of `HANG`."""

    def __repr__(self) -> str:
        return "HANG"


HANG: Final = Hang()
"""An answer, or a peer's behaviour: never comes to an end, until cancelled."""

Answer = Iterable[str] | BaseException | Callable[[NodeName], object] | Hang
"""Names; an exception to raise; a function (async or not) of the local name; or `HANG`."""


class ScriptedStrategy:
    """A strategy that gives answers one after the other, the last of them for ever.

    ``answer`` may be set at any time: it takes the place of all that are left. ``asked`` holds when
    (Trio's clock) it was asked, ``locals`` for whom.
    """

    def __init__(self, *answers: Answer) -> None:
        self._answers: list[Answer] = list(answers) or [()]
        self.asked: list[float] = []
        self.locals: list[NodeName] = []

    @property
    def answer(self) -> Answer:
        """The next answer."""
        return self._answers[0]

    @answer.setter
    def answer(self, answer: Answer) -> None:
        self._answers = [answer]

    @property
    def count(self) -> int:
        """How often it was asked."""
        return len(self.asked)

    async def __call__(self, local: NodeName) -> Iterable[str]:
        """Give the next answer."""
        self.asked.append(trio.current_time())
        self.locals.append(local)
        answer = self._answers[0] if len(self._answers) == 1 else self._answers.pop(0)
        await trio.lowlevel.checkpoint()
        if isinstance(answer, Hang):
            await trio.sleep_forever()
        if isinstance(answer, BaseException):
            raise answer.with_traceback(None)  # or it grows with each time
        result: Any = answer
        if callable(answer):
            result = answer(local)
            if inspect.isawaitable(result):
                result = await result
        return result  # type: ignore[no-any-return]  # junk included, for the caller to find
