"""The table of this node's processes: by pid, by name, and what each holds or is held by."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import trio

from barnacle_trio.distribution._inbox import Inbox
from barnacle_trio.etf import Atom, Pid, Reference

Watch: TypeAlias = tuple[Pid, Reference]
"""Who monitors, and by which reference. A reference alone is only its maker's word."""


@dataclass(slots=True)
class Link:
    """One side of a link. While an unlink is not acknowledged, nothing that comes of it counts."""

    ours: bool = False
    """Whether a process of this node asked for it. A peer may make any number, one after another;
    so their ends take up room as messages do, while the end of one of ours is always told."""
    active: bool = False
    unlink_id: int | None = None


@dataclass(slots=True)
class Entry:
    """One process, what others hold on it, and it on them."""

    inbox: Inbox
    links: dict[Pid, Link] = field(default_factory=dict)
    watchers: dict[Watch, Pid | Atom] = field(default_factory=dict)
    """What each of those who monitor it has named it by."""
    monitors: set[Reference] = field(default_factory=set)


class Table:
    """Who is there."""

    def __init__(self) -> None:
        self.by_pid: dict[Pid, Entry] = {}
        self.by_name: dict[Atom, Entry] = {}

    def add(self, inbox: Inbox) -> None:
        """Enter a process."""
        entry = self.by_pid[inbox.pid] = Entry(inbox)
        if inbox.name is not None:
            self.by_name[Atom(inbox.name)] = entry

    def remove(self, inbox: Inbox) -> Entry | None:
        """Take a process out. None: it was not there any more."""
        entry = self.by_pid.pop(inbox.pid, None)
        if entry is not None and inbox.name is not None:
            del self.by_name[Atom(inbox.name)]
        return entry

    def find(self, target: Pid | Atom) -> Entry | None:
        """The process of a pid or name."""
        return self.by_pid.get(target) if isinstance(target, Pid) else self.by_name.get(target)

    def living(self, inbox: Inbox) -> Entry:
        """The process of that inbox.

        Raises:
          trio.ClosedResourceError: it has ended.
        """
        entry = self.by_pid.get(inbox.pid)
        if entry is None:
            raise trio.ClosedResourceError("the mailbox was closed")
        return entry
