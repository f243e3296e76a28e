"""Links between our processes and others, and the exits that run along them.

Source: OTP's "Distribution Protocol", section "Link Protocol": who unlinks hears nothing of that
link any more until the unlinking was acknowledged.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from barnacle_trio._names import NodeName
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution._held import Held
from barnacle_trio.distribution._inbox import KILL, KILLED, NORMAL, Exit, Inbox
from barnacle_trio.distribution._signals import Signals
from barnacle_trio.distribution._table import Entry, Link, Table
from barnacle_trio.etf import Atom, Pid

NOPROC = Atom("noproc")
NOCONNECTION = Atom("noconnection")


class Links:
    """The links of our processes.

    Args:
      table: of those.
      signals: how others are told.
      held: what is held across connections.
      is_own: whether a pid is one that the node itself answers for.
      close: takes a process that was made to exit out of the table.
    """

    def __init__(
        self,
        table: Table,
        signals: Signals,
        held: Held,
        *,
        is_own: Callable[[Any], bool],
        close: Callable[[Inbox, Any], None],
    ) -> None:
        self._table = table
        self._signals = signals
        self._held = held
        self._is_own = is_own
        self._close = close
        self._ids = itertools.count(1)

    def link(self, inbox: Inbox, pid: Pid) -> None:
        """See `Process.link`."""
        entry = self._table.living(inbox)
        if pid == inbox.pid:
            return
        peer = NodeName(pid.node.name)
        link = entry.links.get(pid) or self.add(entry, pid)
        link.ours = True  # whoever made it: from now on somebody here relies on it
        if link.active:
            return
        link.active, link.unlink_id = True, None
        self._signals.when_reached(peer, lambda: self._begin(inbox.pid, pid))

    def _begin(self, ours: Pid, pid: Pid) -> None:
        entry, link = self._find(ours, pid)
        if entry is None or link is None or not link.active:
            return  # undone while its node was dialled
        if not self._signals.put_to(pid, control.Link(ours, pid)):
            self._remove(entry, pid)
            self._exit_signal(entry, pid, NOCONNECTION)
        self._signals.drain()

    def unlink(self, inbox: Inbox, pid: Pid) -> None:
        """See `Process.unlink`."""
        entry, link = self._find(inbox.pid, pid)
        if entry is None or link is None or not link.active:
            return
        link.active, link.unlink_id = False, next(self._ids)
        message = control.Unlink(link.unlink_id, inbox.pid, pid)
        if not self._signals.put_to_living(pid, message):
            self._remove(entry, pid)
        self._signals.drain()

    def add(self, entry: Entry, pid: Pid) -> Link:
        """Make one that is not active yet."""
        link = entry.links[pid] = Link()
        if pid.node is not entry.inbox.pid.node:
            self._held.add(entry.inbox.pid, pid)
        return link

    # -- what others say --------------------------------------------------------------------------

    def handle(self, peer: NodeName, message: control.Message, size: int = 0) -> None:
        """Act on a signal of a link, or an exit. Its sender is a process of that peer.

        ``size`` is in how many bytes it came.
        """
        match message:
            case control.Link(sender=sender, to=to):
                self._be_linked(peer, sender, to)
            case control.Unlink(id=unlink_id, sender=sender, to=to):
                self._be_unlinked(sender, to)
                self._signals.put_to(sender, control.UnlinkAck(unlink_id, to, sender))
            case control.OldUnlink(sender=sender, to=to):
                self._be_unlinked(sender, to)
            case control.UnlinkAck(id=unlink_id, sender=sender, to=to):
                entry, link = self._find(to, sender)
                if entry is not None and link is not None and link.unlink_id == unlink_id:
                    link.unlink_id = None
                    if not link.active:
                        self._remove(entry, sender)
            case control.Exit(sender=sender, to=to, reason=reason):
                entry, link = self._find(to, sender)
                if entry is not None and link is not None and link.active:
                    self._remove(entry, sender)
                    self._exit_signal(entry, sender, reason, size, told=link.ours)
            case control.Exit2(sender=sender, to=to, reason=reason):
                entry = self._table.by_pid.get(to)
                if entry is not None:
                    self._exit2_signal(entry, sender, reason, size)

    def lose(self, ours: Pid, theirs: Pid) -> None:
        """The connection across which one was held is lost."""
        entry = self._table.by_pid.get(ours)
        link = None if entry is None else entry.links.pop(theirs, None)
        if entry is not None and link is not None and link.active:
            self._exit_signal(entry, theirs, NOCONNECTION, told=link.ours)

    def fire(self, entry: Entry, reason: Any) -> None:
        """A process ended: tell those that are linked to it."""
        ours = entry.inbox.pid
        for pid, link in entry.links.items():
            self._held.discard(ours, pid)
            if link.active:
                self._signals.put_to_living(pid, control.Exit(ours, pid, reason))

    def _be_linked(self, peer: NodeName, sender: Pid, to: Pid) -> None:
        entry, link = self._find(to, sender)
        if entry is None:
            if not self._is_own(to):
                self._signals.put_to(sender, control.Exit(to, sender, NOPROC))
        elif link is None:
            self._held.check_room(peer)
            link = self.add(entry, sender)
            link.active, link.ours = True, sender.node is to.node
        elif link.unlink_id is None:
            link.active = True

    def _be_unlinked(self, sender: Pid, to: Pid) -> None:
        entry, link = self._find(to, sender)
        if entry is not None and link is not None and link.active:
            self._remove(entry, sender)

    def _exit2_signal(self, entry: Entry, sender: Pid, reason: Any, size: int) -> None:
        if reason is KILL:
            self._exit(entry.inbox, KILLED)
        else:
            self._exit_signal(entry, sender, reason, size, told=False)

    def _exit_signal(
        self, entry: Entry, sender: Pid, reason: Any, size: int = 0, *, told: bool = True
    ) -> None:
        """Act on an exit. ``told``: it comes once, and so is told however full the mailbox is."""
        inbox = entry.inbox
        if not inbox.trap_exits:
            if reason is not NORMAL:
                self._exit(inbox, reason)
        elif told:
            inbox.tell(Exit(sender, reason))
        else:
            inbox.deliver(Exit(sender, reason), size)

    def _exit(self, inbox: Inbox, reason: Any) -> None:
        inbox.exit(reason)
        self._close(inbox, reason)

    def _find(self, ours: Pid, theirs: Pid) -> tuple[Entry | None, Link | None]:
        entry = self._table.by_pid.get(ours)
        return entry, None if entry is None else entry.links.get(theirs)

    def _remove(self, entry: Entry, pid: Pid) -> None:
        entry.links.pop(pid, None)
        self._held.discard(entry.inbox.pid, pid)
