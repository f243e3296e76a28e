"""Process groups: the scopes of OTP's ``pg`` that this node takes part in.

A scope is a process, registered under the scope's name, that knows those of the same name on other
nodes. Its messages are acted on as they come in, in one go with the signals around them, so there
is no task and no queue behind it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from barnacle_trio._errors import ConfigurationError
from barnacle_trio._logs import RateLimited
from barnacle_trio._names import NodeName
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution import _pg as pg
from barnacle_trio.distribution._inbox import Inbox
from barnacle_trio.etf import Atom, EncodeError, Pid, Reference

if TYPE_CHECKING:
    from barnacle_trio.distribution._processes import Processes

logger = logging.getLogger("barnacle_trio.messages")


@dataclass(slots=True)
class _Member:
    """A process of ours that is in some group; ``groups`` has each as often as it joined."""

    monitor: Reference
    groups: list[pg.Key] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Peer:
    """The scope's process on another node, which was told of all our members."""

    node: NodeName
    scope: Pid
    monitor: Reference
    table: pg.Table = field(default_factory=pg.Table)


class Scope:
    """One scope of this node, there from its first use until the node ends.

    Raises:
      ConfigurationError: another process is registered under its name.
    """

    def __init__(self, name: str, processes: Processes, connected: Collection[NodeName]) -> None:
        self.name = name
        self._registered = Atom(name)
        if processes.exists(self._registered):
            raise ConfigurationError(f"a process is registered as {name!r} already")
        self.pid = processes.identifiers.make_pid()
        self._processes = processes
        self._here = NodeName(processes.identifiers.node.name)
        self._members: dict[Pid, _Member] = {}
        self._names: dict[pg.Key, Any] = {}
        self._table = pg.Table()
        self._peers: dict[NodeName, _Peer] = {}
        self._log = RateLimited(logger)
        self.junk = 0
        """Messages that were none of the protocol. Each spell of them is told in the log, too."""
        processes.serve(self.pid, self._on_message)
        processes.serve(self._registered, self._on_message)
        for node in tuple(connected):
            self.discover(node)

    # -- our members ------------------------------------------------------------------------------

    def join(self, pid: Pid, group: Any) -> None:
        """A process of ours joins.

        Raises:
          ConfigurationError: there is no room for more members.
          EncodeError: the group's name is no term.
        """
        key, name = pg.named(group)
        if not self._table.join(key, pid):
            raise ConfigurationError(f"no more processes can be members in scope {self.name}")
        self._names[key] = name
        member = self._members.get(pid)
        if member is None:
            member = self._members[pid] = _Member(self._processes.identifiers.make_reference())
            self._processes.monitors.add(
                member.monitor, self._here, pid, self.pid, partial(self._on_end, pid)
            )
        member.groups.append(key)
        self._tell_all(pg.join(self.pid, name, pid))

    def leave(self, pid: Pid, group: Any) -> bool:
        """A process of ours leaves, once. False: it is no member."""
        key, name = pg.named(group)
        if not self._leave_table(key, pid):
            return False
        member = self._members[pid]
        member.groups.remove(key)
        if not member.groups:
            del self._members[pid]
            self._processes.monitors.demonitor(member.monitor)
        self._tell_all(pg.leave(self.pid, pid, [name]))
        return True

    def _on_end(self, pid: Pid, _reason: Any) -> None:
        for keys in pg.portions(self._members.pop(pid).groups):
            names = [self._names[key] for key in keys]
            for key in keys:
                self._leave_table(key, pid)
            self._tell_all(pg.leave(self.pid, pid, names))

    def _leave_table(self, key: pg.Key, pid: Pid) -> bool:
        left = self._table.leave(key, pid)
        if key not in self._table:
            self._names.pop(key, None)
        return left

    # -- everybody's members ----------------------------------------------------------------------

    def local_members(self, group: Any) -> list[Pid]:
        """The members of a group at this node."""
        return self._table.members(pg.named(group)[0])

    def members(self, group: Any) -> list[Pid]:
        """The members of a group, our own first."""
        key, _ = pg.named(group)
        found = self._table.members(key)
        for peer in self._peers.values():
            found += peer.table.members(key)
        return found

    # -- other nodes ------------------------------------------------------------------------------

    def discover(self, node: NodeName) -> None:
        """Ask a node that is connected for its members; it drops that if it has no such scope."""
        question = pg.discover(self.pid)
        self._processes.emit(node, control.RegSend(self.pid, self._registered, question))

    def _on_message(self, node: NodeName, payload: Any) -> None:
        message = pg.parse(payload)
        if message is None or message.scope.node.name != node or node == self._here:
            self.junk += 1
            self._log.warning("[%s] sent junk to group scope %r: ignored", node, self.name)
            return
        peer = self._peers.get(node)
        if peer is not None and peer.scope != message.scope:
            peer = None
        fresh = peer is None
        if peer is None:
            if not isinstance(message, pg.Discover | pg.Sync):
                return  # OTP, too, drops joins and leaves of a scope that it has not met
            peer = self._meet(node, message.scope)
        match message:
            case pg.Discover() if fresh:  # it was told in meeting it; now it is for it to tell us
                self._tell(peer, pg.discover(self.pid))
            case pg.Discover():
                self._sync(peer)
            case pg.Sync(groups=groups):
                peer.table = pg.Table()
                for key, pids in groups:
                    self._join_at(peer, key, pids)
            case pg.Join(group=key, pids=pids):
                self._join_at(peer, key, pids)
            case pg.Leave(pids=pids, groups=keys):
                for key in keys:
                    for pid in pids:
                        peer.table.leave(key, pid)

    def _join_at(self, peer: _Peer, key: pg.Key, pids: list[Pid]) -> None:
        if not all(peer.table.join(key, pid) for pid in pids):
            self._log.warning(
                "[%s] has too many members in group scope %r: some are not seen here",
                peer.node,
                self.name,
            )

    def _meet(self, node: NodeName, scope: Pid) -> _Peer:
        """Enter the scope's process on another node, and tell it of our members: a `leave` of which
        it does not know the group would crash it.
        """
        old = self._peers.get(node)
        if old is not None:  # the scope was started again there
            self._drop(old)
        peer = _Peer(node, scope, self._processes.identifiers.make_reference())
        self._peers[node] = peer
        self._processes.monitors.add(
            peer.monitor, node, scope, self.pid, partial(self._on_lost, peer)
        )
        self._sync(peer)
        return peer

    def _on_lost(self, peer: _Peer, _reason: Any) -> None:
        if self._peers.get(peer.node) is peer:
            del self._peers[peer.node]

    def _drop(self, peer: _Peer) -> None:
        del self._peers[peer.node]
        self._processes.monitors.demonitor(peer.monitor)

    # -- ways out ---------------------------------------------------------------------------------

    def _sync(self, peer: _Peer) -> None:
        groups = ((self._names[key], self._table.members(key)) for key in self._table.groups())
        try:
            self._tell(peer, pg.sync(self.pid, groups))
        except EncodeError as error:
            logger.error(
                "[%s] cannot be told of our members in %r: %s", peer.node, self.name, error
            )
            self._drop(peer)

    def _tell(self, peer: _Peer, message: Any) -> None:
        self._processes.emit(peer.node, control.Send(self.pid, peer.scope, message))

    def _tell_all(self, message: Any) -> None:
        for peer in tuple(self._peers.values()):  # one that is lost in this leaves the table
            self._tell(peer, message)


class Groups:
    """The scopes of one node.

    Args:
      processes: among which the scopes' processes and their members are.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._connected: set[NodeName] = set()
        self._scopes: dict[str, Scope] = {}

    def scope(self, name: str) -> Scope:
        """A scope, which starts with its first use.

        Raises:
          ConfigurationError: another process is registered under its name.
        """
        scope = self._scopes.get(name)
        if scope is None:
            scope = self._scopes[name] = Scope(name, self._processes, self._connected)
        return scope

    def join(self, inbox: Inbox, scope: str, group: Any) -> None:
        """See `Mailbox.join_group`."""
        if inbox.ended:
            raise trio.ClosedResourceError("the mailbox was closed")
        self.scope(scope).join(inbox.pid, group)

    def leave(self, inbox: Inbox, scope: str, group: Any) -> bool:
        """See `Mailbox.leave_group`."""
        return scope in self._scopes and self._scopes[scope].leave(inbox.pid, group)

    def peer_up(self, node: NodeName) -> None:
        """A peer was connected: we ask first, for nobody looks for a hidden node."""
        self._connected.add(node)
        for scope in tuple(self._scopes.values()):
            scope.discover(node)

    def peer_gone(self, node: NodeName) -> None:
        """A peer's connection is lost; its members are gone by the monitors on its scopes."""
        self._connected.discard(node)
