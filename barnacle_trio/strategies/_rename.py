"""The nodes of another strategy by other names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from barnacle_trio._errors import ConfigurationError, DiscoveryError
from barnacle_trio._names import NodeName, show
from barnacle_trio._strategy import Strategy, sift
from barnacle_trio.strategies._parts import Composite, ask, checked, describe

Renaming: TypeAlias = Callable[[NodeName], str | Iterable[str] | None]


def rename(strategy: Strategy, fn: Renaming) -> Strategy:
    """Discover what ``strategy`` names, under the names that ``fn`` makes of theirs.

    For sources that know hosts but not what the nodes there are called, or another network's
    addresses::

        rename(dns("my-app.internal"), lambda name: f"worker@{name.host}")
        rename(kubernetes("app=my_app"), lambda name: [f"blue@{name.host}", f"green@{name.host}"])

    A partial answer stays partial, a failed one failed. What is no node name is passed on as it is,
    so that it is reported as if ``strategy`` had been asked itself.

    Args:
      strategy: the strategy to ask.
      fn: is given each name, and returns the one to use, several, or None for none. What it raises
        is a bug, and so is anything else that it returns.

    Raises:
      ConfigurationError: not a strategy, or not a function.
    """
    return _Rename(*checked([strategy], of="rename"), fn=fn)


class _Rename(Composite):
    def __init__(self, strategy: Strategy, *, fn: Renaming) -> None:
        if not callable(fn):
            raise ConfigurationError(f"rename() takes a function, not {show(fn)}")
        super().__init__(strategy)
        self._fn = fn

    def __repr__(self) -> str:
        called = getattr(self._fn, "__qualname__", type(self._fn).__name__)
        return f"rename({describe(self._parts[0])}, {called})"

    async def __call__(self, local: NodeName) -> list[str]:
        answer = await ask(self._parts[0], local)
        renamed = None if answer.names is None else self._renamed(answer.names)
        if answer.error is not None:
            raise DiscoveryError(answer.error.reason, partial=renamed) from answer.error
        return renamed or []

    def _renamed(self, names: Iterable[str]) -> list[str]:
        renamed: list[str] = []
        for name in names:
            nodes, _ = sift([name])
            if not nodes:
                renamed.append(name)
                continue
            made = self._fn(*nodes)
            if made is None:
                continue
            if not isinstance(made, str) and not isinstance(made, Iterable):
                raise TypeError(
                    f"rename(): a name, several or None was due for {name}, "
                    f"not {type(made).__name__}"
                )
            renamed += [made] if isinstance(made, str) else made
        return renamed
