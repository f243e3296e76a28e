"""What strategies made of other strategies share: asking, serving and leaving their parts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import trio

from barnacle_trio._errors import ConfigurationError, DiscoveryError
from barnacle_trio._names import Match, NodeName, matcher, shorten, show
from barnacle_trio._strategy import (
    MAX_NAMES,
    LeavingStrategy,
    ServedStrategy,
    Strategy,
    discover,
    sift,
)
from barnacle_trio.strategies._time import time_to_answer

logger = logging.getLogger("barnacle_trio.strategies")

RESTART_AFTER = 0.1
"""Seconds until a part that crashed is served again; doubled for each crash in a row."""
RESTART_AFTER_AT_MOST = 5.0
HEALTHY_AFTER = 30.0
"""Seconds of service after which earlier crashes are forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a strategy answered, names unchecked: the barnacle reports those that are none.

    ``error`` is None for a complete answer; ``names`` is None for one that failed as a whole.
    """

    names: Sequence[str] | None
    error: DiscoveryError | None = None


async def ask(strategy: Strategy, local: NodeName) -> Answer:
    """Ask a strategy once. A bug in it is raised as it is."""
    given: list[str] = []

    async def remembering(local: NodeName) -> Iterable[str]:
        nonlocal given
        answer: Any = await strategy(local)  # junk is for `discover` to complain of
        if isinstance(answer, Iterable) and not isinstance(answer, (str, bytes)):
            answer = given = list(islice(answer, MAX_NAMES + 1))
        return answer  # type: ignore[no-any-return]  # junk included

    discovery = await discover(remembering, local)
    if discovery.error is None:
        return Answer(names=given)
    partial = discovery.error.partial
    return Answer(names=None if partial is None else list(partial), error=discovery.error)


def too_late() -> Answer:
    """The answer of a part that was not waited for any longer."""
    return Answer(names=None, error=DiscoveryError("no answer in time"))


def conclude(answers: Iterable[tuple[Strategy, Answer]]) -> list[str]:
    """Join answers: complete if all are, failed if all are, partial otherwise.

    Raises:
      DiscoveryError: not all of them are complete.
    """
    names: list[str] = []
    errors: list[DiscoveryError] = []
    reasons: list[str] = []
    answered = False
    for strategy, answer in answers:
        if answer.names is not None:
            answered = True
            names += answer.names
        if answer.error is not None:
            errors.append(answer.error)
            reasons.append(f"{describe(strategy)}: {answer.error.reason}")
    if not errors:
        return names
    raise DiscoveryError(
        "; ".join(reasons), partial=_hashable(names) if answered else None
    ) from because_of(errors)


def because_of(errors: Sequence[Exception]) -> Exception:
    """One cause for several errors."""
    return errors[0] if len(errors) == 1 else ExceptionGroup("several sources failed", errors)


def _hashable(names: Iterable[object]) -> Iterator[str]:
    # A complete answer may hold anything, and the barnacle says so; an error's names are a set.
    return (name for name in names if isinstance(name, str))


def choose(names: Iterable[str], wanted: Callable[[NodeName], bool]) -> list[str]:
    """The names that are wanted, and what is no node name, for the barnacle to report."""
    chosen: list[str] = []
    for name in names:
        nodes, _ = sift([name])
        if not nodes or wanted(*nodes):
            chosen.append(name)
    return chosen


def checked(strategies: Iterable[Strategy], *, of: str) -> tuple[Strategy, ...]:
    """Refuse an empty list and what cannot be called."""
    parts = tuple(strategies)
    if not parts:
        raise ConfigurationError(f"{of}() needs at least one strategy")
    for part in parts:
        if not callable(part):
            raise ConfigurationError(f"{of}() takes strategies, not {show(part)}")
    return parts


def kept(match: Match | Iterable[Match] | None) -> Match | tuple[Match, ...] | None:
    """A match that can be read more than once, for the repr too."""
    if match is None or isinstance(match, str) or not isinstance(match, Iterable):
        return match
    return tuple(match)


def checked_match(match: Match | Iterable[Match] | None) -> Callable[[NodeName], bool]:
    """`matcher`, for what users pass."""
    try:
        return matcher(match)
    except TypeError as error:
        raise ConfigurationError(
            f"match is a glob, a predicate or several of them, not {show(match)}"
        ) from error


def describe(strategy: Strategy) -> str:
    """A short name for logs and reasons."""
    name = getattr(strategy, "__qualname__", None)
    return name if isinstance(name, str) else repr(strategy)


class Composite:
    """A strategy made of others: it serves them and says goodbye through them."""

    def __init__(self, *parts: Strategy) -> None:
        self._parts = parts

    async def serve(
        self,
        local: NodeName,
        *,
        changed: Callable[[], None],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve the parts beside one another until cancelled.

        Started is said once every part has started, or has failed to: one that cannot does not
        keep the others from their work. One that crashes is served again after a pause; one that
        returns has nothing more to do.
        """
        async with trio.open_nursery() as nursery:
            starting: list[trio.Event] = []
            for part in self._parts:
                if isinstance(part, ServedStrategy):
                    first = _FirstStart()
                    starting.append(first.tried)
                    nursery.start_soon(_keep_serving, part, local, changed, first)
            with trio.move_on_after(time_to_answer()):
                await trio.lowlevel.checkpoint()
                for tried in starting:
                    await tried.wait()
            task_status.started()
            await trio.sleep_forever()

    async def leave(self, local: NodeName) -> None:
        """Say goodbye through every part that can; one that fails is logged, the others go on."""
        async with trio.open_nursery() as nursery:
            for part in self._parts:
                if isinstance(part, LeavingStrategy):
                    nursery.start_soon(_leave, part, local)


class _FirstStart:
    """A task status that tells that a service was tried, and takes any number of starts."""

    def __init__(self) -> None:
        self.tried = trio.Event()

    def started(self, value: None = None) -> None:
        self.tried.set()


async def _keep_serving(
    part: ServedStrategy, local: NodeName, changed: Callable[[], None], first: _FirstStart
) -> None:
    pause = RESTART_AFTER
    known: set[type[Exception]] = set()
    while True:
        since = trio.current_time()
        try:
            await part.serve(local, changed=changed, task_status=first)
        except Exception as error:
            if trio.current_time() - since >= HEALTHY_AFTER:
                pause = RESTART_AFTER
            logger.warning(
                "serving %s crashed: %s: %s; again in %.1f s",
                describe(part),
                type(error).__name__,
                shorten(error),
                pause,
                exc_info=None if type(error) in known else error,
            )
            known.add(type(error))
            first.tried.set()
        else:
            first.tried.set()
            return
        await trio.sleep(pause)
        pause = min(2 * pause, RESTART_AFTER_AT_MOST)


async def _leave(part: LeavingStrategy, local: NodeName) -> None:
    await trio.lowlevel.checkpoint()
    try:
        await part.leave(local)
    except Exception as error:
        logger.warning("no goodbye by %r: %s", part, shorten(error), exc_info=error)
