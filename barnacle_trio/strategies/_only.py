"""A choice among what another strategy discovers."""

from __future__ import annotations

from collections.abc import Iterable

from barnacle_trio._errors import DiscoveryError
from barnacle_trio._names import Match, NodeName
from barnacle_trio._strategy import Strategy
from barnacle_trio.strategies._parts import (
    Composite,
    ask,
    checked,
    checked_match,
    choose,
    describe,
    kept,
)


def only(strategy: Strategy, match: Match | Iterable[Match] | None) -> Strategy:
    """Discover what ``strategy`` names and ``match`` accepts.

    A partial answer stays partial, a failed one failed. What is no node name is passed on, so that
    it is reported as if ``strategy`` had been asked itself.

    Args:
      strategy: the strategy to ask.
      match: a glob (``"my_app@*"``; without an ``@`` for the base name), a predicate, or several
        of these, of which one must accept.

    Raises:
      ConfigurationError: not a strategy, or not a match.
    """
    return _Only(*checked([strategy], of="only"), match=match)


class _Only(Composite):
    def __init__(self, strategy: Strategy, *, match: Match | Iterable[Match] | None) -> None:
        super().__init__(strategy)
        self._match = kept(match)
        self._wanted = checked_match(self._match)

    def __repr__(self) -> str:
        return f"only({describe(self._parts[0])}, {self._match!r})"

    async def __call__(self, local: NodeName) -> list[str]:
        answer = await ask(self._parts[0], local)
        chosen = None if answer.names is None else choose(answer.names, self._wanted)
        if answer.error is not None:
            raise DiscoveryError(answer.error.reason, partial=chosen) from answer.error
        return chosen or []
