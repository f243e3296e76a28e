"""Monitors: those that we hold on processes anywhere, and those that others hold on ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from barnacle_trio._names import NodeName
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution._held import Held
from barnacle_trio.distribution._identifiers import Identifiers
from barnacle_trio.distribution._inbox import Down, Inbox
from barnacle_trio.distribution._links import NOCONNECTION, NOPROC
from barnacle_trio.distribution._routes import Dest, locate
from barnacle_trio.distribution._signals import Signals
from barnacle_trio.distribution._table import Entry, Table
from barnacle_trio.etf import Atom, Pid, Reference

OnDown: TypeAlias = Callable[[Any], None]
"""Is given the reason, once."""


@dataclass(frozen=True, slots=True)
class _Monitor:
    """A monitor that we hold."""

    peer: NodeName
    target: Pid | Atom
    on_down: OnDown
    owner: Pid


class Monitors:
    """The monitors in which our processes have a part.

    Args:
      identifiers: makes references.
      table: of our processes.
      signals: how others are told.
      held: what is held across connections.
      is_own: whether a pid or name is one that the node itself answers for.
    """

    def __init__(
        self,
        identifiers: Identifiers,
        table: Table,
        signals: Signals,
        held: Held,
        *,
        is_own: Callable[[Any], bool],
    ) -> None:
        self._identifiers = identifiers
        self._table = table
        self._signals = signals
        self._held = held
        self._is_own = is_own
        self._ours: dict[Reference, _Monitor] = {}

    def __len__(self) -> int:
        """How many we hold."""
        return len(self._ours)

    # -- those that we hold -----------------------------------------------------------------------

    def monitor(self, inbox: Inbox, dest: Dest) -> Reference:
        """See `Process.monitor`."""
        entry = self._table.living(inbox)
        peer, target = locate(dest)
        ref = self._identifiers.make_reference()
        entry.monitors.add(ref)
        self._ours[ref] = _Monitor(
            peer, target, lambda reason: inbox.tell(Down(ref, dest, reason)), inbox.pid
        )
        self._signals.when_reached(peer, lambda: self._begin(ref))
        return ref

    def add(
        self, ref: Reference, peer: NodeName, target: Pid | Atom, owner: Pid, on_down: OnDown
    ) -> None:
        """Monitor a process at a node that is connected; ``on_down`` is called once at most."""
        self._ours[ref] = _Monitor(peer, target, on_down, owner)
        self._begin(ref)

    def _begin(self, ref: Reference) -> None:
        monitor = self._ours.get(ref)
        if monitor is None:
            return  # undone while its node was dialled
        if not self._signals.put(monitor.peer, control.Monitor(monitor.owner, monitor.target, ref)):
            self._fire(ref, NOCONNECTION)
        self._signals.drain()

    def expect(self, ref: Reference, peer: NodeName, owner: Pid, on_down: OnDown) -> None:
        """Await the end of a process that a spawn request asks for, with option ``monitor``."""
        self._ours[ref] = _Monitor(peer, owner, on_down, owner)

    def demonitor(self, ref: Reference) -> None:
        """End a monitor, if it has not fired."""
        monitor = self.forget(ref)
        if monitor is not None:
            self._signals.put(monitor.peer, control.Demonitor(monitor.owner, monitor.target, ref))
            self._signals.drain()

    def forget(self, ref: Reference) -> _Monitor | None:
        """No longer await what comes of a monitor, without a word to the other side."""
        monitor = self._ours.pop(ref, None)
        if monitor is not None and (owner := self._table.by_pid.get(monitor.owner)) is not None:
            owner.monitors.discard(ref)
        return monitor

    def _fire(self, ref: Reference, reason: Any) -> None:
        monitor = self.forget(ref)
        if monitor is not None:
            monitor.on_down(reason)

    def lose_all(self, peer: NodeName) -> None:
        """The connection to a peer is lost: all that we held there fire."""
        for ref, monitor in tuple(self._ours.items()):
            if monitor.peer == peer:
                self._fire(ref, NOCONNECTION)

    # -- those that others hold -------------------------------------------------------------------

    def handle(self, peer: NodeName, message: control.Message) -> None:
        """Act on a signal of a monitor. Who monitors, if it says so, is a process of that peer."""
        match message:
            case control.MonitorExit(ref=ref, reason=reason):
                monitor = self._ours.get(ref)
                if monitor is not None and monitor.peer == peer:
                    self._fire(ref, reason)
            case control.Monitor(sender=watcher, target=target, ref=ref):
                self._be_monitored(peer, watcher, target, ref)
            case control.Demonitor(sender=watcher, target=target, ref=ref):
                entry = self._table.find(target)
                if entry is not None and entry.watchers.pop((watcher, ref), None) is not None:
                    self._held.discard(entry.inbox.pid, watcher, ref)

    def _be_monitored(
        self, peer: NodeName, watcher: Pid, target: Pid | Atom, ref: Reference
    ) -> None:
        entry = self._table.find(target)
        if entry is None:
            if not self._is_own(target):
                self._signals.put_to(watcher, control.MonitorExit(target, watcher, ref, NOPROC))
        elif (watcher, ref) not in entry.watchers:
            self._held.check_room(peer)
            self.add_watcher(entry, watcher, target, ref)

    def add_watcher(self, entry: Entry, watcher: Pid, target: Pid | Atom, ref: Reference) -> None:
        """Have the end of a process told to a watcher, who has named it as ``target``."""
        entry.watchers[watcher, ref] = target
        if watcher.node is not self._identifiers.node:
            self._held.add(entry.inbox.pid, watcher, ref)

    def lose(self, ours: Pid, watcher: Pid, ref: Reference) -> None:
        """The connection across which one was held is lost."""
        entry = self._table.by_pid.get(ours)
        if entry is not None:
            entry.watchers.pop((watcher, ref), None)

    def fire(self, entry: Entry, reason: Any) -> None:
        """A process ended: tell those that monitor it."""
        for (watcher, ref), target in entry.watchers.items():
            self._held.discard(entry.inbox.pid, watcher, ref)
            self._signals.put_to(watcher, control.MonitorExit(target, watcher, ref, reason))
