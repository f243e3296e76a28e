"""What nodes at discovered hosts are called: by base names that are known, or by asking there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

import trio

from barnacle_trio._errors import (
    ConfigurationError,
    DiscoveryError,
    PeerUnreachable,
    RemoteProtocolError,
)
from barnacle_trio._names import Match, NodeName, shorten
from barnacle_trio._strategy import MAX_NAMES
from barnacle_trio.epmd._client import ask_names, mapper_port
from barnacle_trio.strategies._parts import because_of, checked_match, choose, kept
from barnacle_trio.strategies._time import time_to_answer

ASK_DEADLINE = 2.0
"""Seconds that the port mapper at one host has to list its nodes."""
MAX_ASKED_AT_ONCE = 256  # of the 1024 files that a process may have open by default
MAX_AT_ONE_HOST = 1000
"""How many of the nodes at one host are named; where there are more, the answer is partial."""

_TOLD = 3  # how many failures a reason spells out
_LONGEST_ADDRESS = ":".join(["ffff"] * 8)


class Ask(Enum):
    """The type of `ASK`."""

    ASK = "ASK"

    def __repr__(self) -> str:
        return self.name


ASK: Final = Ask.ASK
"""As a ``basename``: whatever the port mapper at each address lists.

So nodes are found whatever they are called: Python and Elixir nodes with base names of their own,
releases whose names change with every version. It lists whatever runs on its host, remote shells
too: choose by ``match``. The local node's own name is left out. Each port mapper is asked anew for
each answer, on the usual port (``ERL_EPMD_PORT``, 4369), with two seconds for each; one that does
not answer makes the answer partial, and if none does it is a failed one.
"""

Basename: TypeAlias = str | Iterable[str] | Ask | None
"""What stands before the ``@``: a name, several, `ASK`, or None for the local node's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """The nodes at some hosts, their names unchecked: the barnacle reports those that are none.

    ``errors`` says why there may be more; ``answered`` is false where no host could be asked;
    ``failing`` are the hosts that could not be, in the order in which to try them again.
    """

    names: Sequence[str]
    errors: Sequence[DiscoveryError] = ()
    answered: bool = True
    failing: Sequence[str] = ()


class Naming:
    """Makes names of nodes out of hosts (addresses or names), as a strategy's user wishes.

    Raises:
      ConfigurationError: not a base name, or not a match.
    """

    def __init__(
        self, basename: Basename = None, match: Match | Iterable[Match] | None = None
    ) -> None:
        self.steps = 2 if basename is ASK else 1
        """Steps of an answer: to find hosts, and with `ASK` to ask there; see `time_to_answer`."""
        self._basenames = _checked_basenames(basename)
        self._wanted = checked_match(kept(match))
        self._failing: Sequence[str] = ()

    async def names_at(self, hosts: Sequence[str], local: NodeName) -> Named:
        """Each base name at each host, or what the port mappers there list; by choice of match."""
        if self.steps == 2:
            named = await names_at(hosts, local, wanted=self._wanted, last=self._failing)
            self._failing = named.failing
            return named
        await trio.lowlevel.checkpoint()
        basenames = self._basenames or (local.basename,)
        names = [f"{basename}@{host}" for host in hosts for basename in basenames]
        return Named(names=choose(names, self._wanted))


async def names_at(
    hosts: Sequence[str],
    local: NodeName,
    *,
    wanted: Callable[[NodeName], bool],
    last: Sequence[str] = (),
) -> Named:
    """Ask the port mapper at each host for the nodes there, `MAX_ASKED_AT_ONCE` at once.

    Each has `ASK_DEADLINE` seconds, and all end a little before the caller's own deadline: what is
    known by then is kept, the others count as failed. Those that are to come ``last`` (they failed
    before) take no time from the others. A host that is a name is resolved as it is when it is
    dialled: by the system.

    Raises:
      ConfigurationError: ``ERL_EPMD_PORT`` is no port.
    """
    asking = _Asking(mapper_port())
    among = set(hosts)
    later = dict.fromkeys(host for host in last if host in among)
    with trio.move_on_after(time_to_answer()):
        await asking.ask([*(host for host in hosts if host not in later), *later])
    names: list[str] = []
    errors: list[DiscoveryError] = []
    for host in hosts:
        others = [f"{basename}@{host}" for basename in asking.listed.get(host, ())]
        names += choose([name for name in others if name != local], wanted)
        if host in asking.failed:
            errors.append(asking.failed[host])
        elif host not in asking.listed:
            text = f"the port mapper at {shorten(host)} gave no answer in time"
            errors.append(DiscoveryError(text))
    return Named(
        names=names,
        errors=errors,
        answered=bool(asking.listed) or not hosts,
        failing=[
            *(host for host in later if host not in asking.asked),
            *(host for host in asking.asked if host not in asking.listed),
        ],
    )


class _Asking:
    """One round of questions; its answers are those that came before it was cancelled."""

    def __init__(self, port: int) -> None:
        self.asked: dict[str, None] = {}  # in their order
        self.listed: dict[str, Sequence[str]] = {}
        self.failed: dict[str, DiscoveryError] = {}
        self._port = port
        self._room = MAX_NAMES

    async def ask(self, hosts: Sequence[str]) -> None:
        waiting = iter(hosts)
        async with trio.open_nursery() as nursery:
            for _ in hosts[:MAX_ASKED_AT_ONCE]:
                nursery.start_soon(self._ask_each, waiting)

    async def _ask_each(self, waiting: Iterator[str]) -> None:
        await trio.lowlevel.checkpoint()
        for host in waiting:
            self.asked[host] = None
            try:
                with trio.move_on_after(ASK_DEADLINE):
                    self._keep(host, (await ask_names(host, self._port)).names)
            except (PeerUnreachable, RemoteProtocolError) as error:
                self.failed[host] = DiscoveryError(str(error))
                self.failed[host].__cause__ = error

    def _keep(self, host: str, names: Collection[str]) -> None:
        """Remember what is listed at a host, so much of it as there is room for."""
        used = list(names)[: min(MAX_AT_ONE_HOST, self._room)]
        self._room -= len(used)
        self.listed[host] = used
        if len(names) > len(used):
            self.failed[host] = DiscoveryError(
                f"{len(names)} nodes at {shorten(host)}, {len(names) - len(used)} are left out"
            )


def settle(
    names: Iterable[str], errors: Sequence[DiscoveryError], *, answered: bool = True
) -> frozenset[str]:
    """Give a complete answer, or raise what makes it partial or (not ``answered``) failed.

    Raises:
      DiscoveryError: there are errors; it spells out a few and counts the others.
    """
    found = frozenset(names)
    if not errors:
        return found
    reason = "; ".join(error.reason for error in errors[:_TOLD])
    if len(errors) > _TOLD:
        reason += f"; and {len(errors) - _TOLD} more"
    raise DiscoveryError(reason, partial=found if answered else None) from because_of(errors)


def _checked_basenames(basename: Basename) -> tuple[str, ...] | None:
    if basename is None or basename is ASK:
        return None
    given = (basename,) if isinstance(basename, str) else tuple(basename)
    if not given:
        raise ConfigurationError("basename is empty; None is the local node's own")
    for each in given:
        try:
            NodeName(f"{each}@{_LONGEST_ADDRESS}")
        except ValueError as error:
            raise ConfigurationError(f"{shorten(each)} is not a base name: {error}") from error
    return given
