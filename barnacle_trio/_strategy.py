"""What a strategy is, and how its answer is read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from inspect import isawaitable
from itertools import islice
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import trio

from barnacle_trio._errors import DiscoveryError
from barnacle_trio._names import NodeName, shorten
from barnacle_trio._scopes import users_code

MAX_NAMES = 100_000
"""How many names of one answer are read; a longer one counts as partial."""

_MAX_SHOWN = 80  # characters of a bad name

Strategy: TypeAlias = Callable[[NodeName], Awaitable[Iterable[str]]]
"""How nodes are discovered: an async callable that is given the local node's name.

Returning an iterable of node names is a complete answer. `DiscoveryError`, `OSError`,
`trio.TooSlowError` or a group of only such errors is a failed one (`DiscoveryError` with
``partial``: a partial one). Any other exception is a bug, and so is junk (None, a bare `str`).
"""


@runtime_checkable
class ServedStrategy(Protocol):
    """A strategy with a background task of its own: a socket, a watch."""

    async def __call__(self, local: NodeName, /) -> Iterable[str]:
        """Discover nodes, as any strategy."""
        ...

    async def serve(
        self,
        local: NodeName,
        *,
        changed: Callable[[], None],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run beside the poller; call ``changed()`` when a new answer is worth asking for."""
        ...


class NotAllYet(DiscoveryError):
    """A partial answer of a source that has only begun: a matter of seconds, and nobody's fault."""


def asked_once() -> None:
    """What ``serve`` is given as ``changed`` where nobody will ask a second time, by `run_once`.

    A strategy that learns of nodes one by one may give its single answer more time then.
    """


def asked_by_nobody() -> None:
    """What ``serve`` is given as ``changed`` where no node bears the local name: a mere question.

    A strategy must not tell others of that name then. They would dial it.
    """


@runtime_checkable
class LeavingStrategy(Protocol):
    """A strategy that can say goodbye to the others."""

    async def leave(self, local: NodeName) -> None:
        """Tell the others that this node is about to go."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """One answer of a strategy: complete, partial or failed.

    ``error`` is None for a complete answer and the reason otherwise. ``rejected`` maps what was in
    the answer but is no node name (escaped and shortened if need be) to the reason. A failed
    answer has no nodes.
    """

    kind: Literal["complete", "partial", "failed"]
    nodes: frozenset[NodeName] = frozenset()
    error: DiscoveryError | None = None
    rejected: Mapping[str, Exception] = field(default_factory=dict)


async def discover(strategy: Strategy, local: NodeName) -> Discovery:
    """Ask a strategy once and sort its answer into complete, partial and failed.

    Raises:
      TypeError: the answer is junk: None, a bare `str` or another thing that is no iterable.
      Exception: whatever the strategy raised that is not an expected failure, i.e. a bug in it.
    """
    await trio.lowlevel.checkpoint()  # not every strategy has one
    try:
        asked = strategy(local)
        if not isawaitable(asked):
            raise TypeError(
                f"the strategy gave {type(asked).__name__} where an async function gives something "
                "to await; if it makes strategies, call it first"
            )
        with users_code("the strategy"):
            answer = await asked
        if isinstance(answer, (str, bytes)) or not isinstance(answer, Iterable):
            raise TypeError(
                f"the strategy returned {type(answer).__name__}, not an iterable of node names"
            )
        given = list(islice(answer, MAX_NAMES + 1))
    except DiscoveryError as error:
        return _incomplete(error)
    except (OSError, trio.TooSlowError) as error:
        return _incomplete(_translated(error))
    except ExceptionGroup as group:
        expected, others = group.split((DiscoveryError, OSError, trio.TooSlowError))
        if others is not None or expected is None:
            raise
        return _incomplete(_translated(expected))
    if len(given) > MAX_NAMES:
        return _incomplete(
            DiscoveryError(
                f"more than {MAX_NAMES} names in one answer, the rest was not read",
                partial=given[:MAX_NAMES],
            )
        )
    nodes, rejected = sift(given)
    return Discovery(kind="complete", nodes=nodes, rejected=rejected)


def sift(given: Iterable[object]) -> tuple[frozenset[NodeName], dict[str, Exception]]:
    """Part good node names from bad ones; the latter come with the reason, their text shortened."""
    nodes: set[NodeName] = set()
    rejected: dict[str, Exception] = {}
    for name in given:
        try:
            nodes.add(NodeName(name))  # type: ignore[arg-type]  # what users return is checked here
        except (TypeError, ValueError) as error:
            plain = isinstance(name, str) and name.isprintable() and len(name) <= _MAX_SHOWN
            rejected[str(name) if plain else shorten(name)] = error
    return frozenset(nodes), rejected


def _translated(error: Exception) -> DiscoveryError:
    leaves = list(_leaves(error))
    reason = "; ".join(dict.fromkeys(str(leaf) or type(leaf).__name__ for leaf in leaves))
    translated = DiscoveryError(reason)
    translated.__cause__ = error
    return translated


def _leaves(error: Exception) -> Iterable[Exception]:
    if isinstance(error, ExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def _incomplete(error: DiscoveryError) -> Discovery:
    if error.partial is None:
        return Discovery(kind="failed", error=error)
    nodes, rejected = sift(error.partial)
    return Discovery(kind="partial", nodes=nodes, error=error, rejected=rejected)
