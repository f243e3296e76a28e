"""What scopes of OTP's ``pg`` tell each other, and tables of who is in which group. Sans-IO.

Source: the exchange protocol described at the head of OTP's ``pg``. Anything else that is sent to a
scope process of OTP crashes it, so nothing but what `discover`, `sync`, `join` and `leave` make is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from barnacle_trio.etf import Atom, EncodeError, Pid, decode, encode
from barnacle_trio.etf._encode import canonical

MAX_MEMBERSHIPS = 100_000
"""Memberships of all processes of one node in the groups of one scope."""
MAX_NAMES = 16 * 1024 * 1024
"""Bytes that the names of one node's groups in one scope may take."""
MAX_PORTION = 64 * 1024
"""Bytes of groups' names, about, in one message."""

GEN_CAST = Atom("$gen_cast")
DISCOVER, SYNC, JOIN, LEAVE = (Atom(name) for name in ("discover", "sync", "join", "leave"))

Key: TypeAlias = bytes
"""A group's name, any term, in the one form that tells terms apart as Erlang does."""


@dataclass(frozen=True, slots=True)
class Discover:
    """``scope`` asks who else is there. It is owed a sync."""

    scope: Pid


@dataclass(frozen=True, slots=True)
class Sync:
    """All that are members at the node of ``scope``."""

    scope: Pid
    groups: list[tuple[Key, list[Pid]]]


@dataclass(frozen=True, slots=True)
class Join:
    """More members at the node of ``scope``."""

    scope: Pid
    group: Key
    pids: list[Pid]


@dataclass(frozen=True, slots=True)
class Leave:
    """Each process leaves each group once; a group may stand there several times."""

    scope: Pid
    pids: list[Pid]
    groups: list[Key]


Message: TypeAlias = Discover | Sync | Join | Leave
_NOBODY = Pid(node=Atom("nobody@nowhere"), id=0, serial=0, creation=0)


def parse(message: Any) -> Message | None:
    """What a scope of another node said; None: junk, which is to be ignored whole."""
    try:
        match message:
            # The third element is a version, which nodes since OTP 26 take and may come to send.
            case (Atom("discover"), Pid() as scope) | (Atom("discover"), Pid() as scope, _):
                return Discover(scope)
            case (Atom("$gen_cast"), (Atom("sync"), Pid() as scope, list() as groups)):
                return Sync(scope, [(canonical(name), _pids(scope, of)) for name, of in groups])
            case (Atom("join"), Pid() as scope, group, pids):
                return Join(scope, canonical(group), _pids(scope, pids))
            case (Atom("leave"), Pid() as scope, pids, list() as groups):
                return Leave(scope, _pids(scope, pids), [canonical(group) for group in groups])
    except (EncodeError, TypeError, ValueError):
        pass
    return None


def _pids(scope: Pid, one_or_more: Any) -> list[Pid]:
    pids: list[Pid] = one_or_more if type(one_or_more) is list else [one_or_more]
    for pid in pids:
        if type(pid) is not Pid or pid.node is not scope.node:
            raise ValueError("only processes of its own node join by a scope")
    return pids


def named(group: Any) -> tuple[Key, Any]:
    """A group's name as a key, and as a term that nobody changes any more.

    Raises:
      EncodeError: it is no term, or one too large or deep for a message about it.
    """
    term = decode(encode(sync(_NOBODY, [(group, [_NOBODY])])))[1][2][0][0]
    return canonical(term), term


def discover(scope: Pid) -> Any:
    """See `Discover`."""
    return (DISCOVER, scope)


def sync(scope: Pid, groups: Iterable[tuple[Any, list[Pid]]]) -> Any:
    """See `Sync`. Groups stand there once each, by their names, and none is empty."""
    return (GEN_CAST, (SYNC, scope, list(groups)))


def join(scope: Pid, group: Any, pid: Pid) -> Any:
    """See `Join`."""
    return (JOIN, scope, group, pid)


def leave(scope: Pid, pid: Pid, groups: list[Any]) -> Any:
    """See `Leave`. Only for groups of which the receiver was told by a sync or join."""
    return (LEAVE, scope, pid, groups)


def portions(groups: Iterable[Key]) -> Iterator[list[Key]]:
    """Names for one `leave` each, of a size that can be encoded."""
    portion: list[Key] = []
    size = 0
    for key in groups:
        if portion and size + len(key) > MAX_PORTION:
            yield portion
            portion, size = [], 0
        portion.append(key)
        size += len(key)
    if portion:
        yield portion


class Table:
    """Who is in which group at one node: each process as often as it joined."""

    def __init__(self) -> None:
        self._groups: dict[Key, dict[Pid, int]] = {}
        self._memberships = 0
        self._names = 0

    def join(self, group: Key, pid: Pid) -> bool:
        """Add one membership. False: there is no room for it."""
        members = self._groups.get(group)
        names = self._names + (len(group) if members is None else 0)
        if self._memberships >= MAX_MEMBERSHIPS or names > MAX_NAMES:
            return False
        if members is None:
            members = self._groups[group] = {}
        members[pid] = members.get(pid, 0) + 1
        self._memberships += 1
        self._names = names
        return True

    def leave(self, group: Key, pid: Pid) -> bool:
        """Take one membership away. False: there was none."""
        members = self._groups.get(group)
        if members is None or pid not in members:
            return False
        members[pid] -= 1
        if not members[pid]:
            del members[pid]
        if not members:
            del self._groups[group]
            self._names -= len(group)
        self._memberships -= 1
        return True

    def __contains__(self, group: Key) -> bool:
        return group in self._groups

    def members(self, group: Key) -> list[Pid]:
        """The members of one group."""
        members: Mapping[Pid, int] = self._groups.get(group, {})
        return [pid for pid, times in members.items() for _ in range(times)]

    def groups(self) -> Iterable[Key]:
        """The groups that have members."""
        return self._groups.keys()
