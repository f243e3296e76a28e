"""The processes of this node: names, links, monitors and aliases, and the signals among them.

Everything here is synchronous but for what may have to dial first. A signal to a process of this
node takes the same way as one to another node, without the network in between. Source of the rules:
OTP's "Distribution Protocol" and "Processes" in the reference manual.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from barnacle_trio._errors import ConfigurationError
from barnacle_trio._logs import RateLimited
from barnacle_trio._names import NodeName, shorten
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution._groups import Groups
from barnacle_trio.distribution._held import Held
from barnacle_trio.distribution._identifiers import Identifiers
from barnacle_trio.distribution._inbox import NORMAL, Inbox
from barnacle_trio.distribution._links import Links
from barnacle_trio.distribution._monitors import Monitors
from barnacle_trio.distribution._outbound import Outbound
from barnacle_trio.distribution._signals import SYSTEM_LIMIT, Signals
from barnacle_trio.distribution._table import Entry, Table
from barnacle_trio.distribution._work import Work
from barnacle_trio.etf import Atom, Pid, Reference

logger = logging.getLogger("barnacle_trio.messages")

Service = Callable[[NodeName, Any], None]
"""Takes each message to a pid or name that is the node's own, with the node it came from."""
SizedService = Callable[[NodeName, Any, int], None]
"""As `Service`, and is given in how many bytes the message came as well."""


class Processes:
    """What the rest of the node knows of them.

    Args:
      identifiers: makes pids and references.
      outbound: sends to other nodes.
      exists: whether a name or pid is one of those that the node itself answers for.
      work: where calls are counted.
    """

    def __init__(
        self,
        identifiers: Identifiers,
        outbound: Outbound,
        exists: Callable[[Any], bool],
        work: Work,
    ) -> None:
        self.identifiers = identifiers
        self.work = work
        self._local = NodeName(identifiers.node.name)
        self._exists = exists
        self._aliases: dict[Reference, Callable[[Any], None]] = {}
        self._services: dict[Pid | Atom, SizedService] = {}
        self._actions: dict[type, Callable[[NodeName, Any], None]] = {}
        self._held = Held()
        self._log = RateLimited(logger)
        self._unread = RateLimited(logger)
        self._table = Table()
        self.left = False
        self.signals = Signals(self._local, outbound, self._act_here)
        self.links = Links(
            self._table, self.signals, self._held, is_own=self._is_own, close=self.close
        )
        self.monitors = Monitors(
            identifiers, self._table, self.signals, self._held, is_own=self._is_own
        )
        self.unhandled: Callable[[control.Message], None] = lambda _message: None
        """Takes messages of our own processes to what the node itself answers for."""
        self.groups = Groups(self)

    # -- the table --------------------------------------------------------------------------------

    def open(self, *, name: str | None = None, trap_exits: bool = False, max_length: int) -> Inbox:
        """Make a process.

        Raises:
          ConfigurationError: the name is taken.
        """
        inbox = Inbox(
            self.identifiers.make_pid(), name=name, trap_exits=trap_exits, max_length=max_length
        )
        self.add(inbox)
        if self.left:
            inbox.leave()
        return inbox

    def add(self, inbox: Inbox) -> None:
        """Have an inbox be a process.

        Raises:
          ConfigurationError: its name is taken.
        """
        if inbox.name is not None and self.exists(Atom(inbox.name)):
            raise ConfigurationError(f"a process is registered as {inbox.name!r} already")
        self._table.add(inbox)

    def close(self, inbox: Inbox, reason: Any = NORMAL) -> None:
        """End a process: links and monitors on it fire with the reason, its own are undone."""
        inbox.close()
        entry = self._table.remove(inbox)
        if entry is None:
            return
        for ref in tuple(entry.monitors):
            self.monitors.demonitor(ref)
        self.monitors.fire(entry, reason)
        self.links.fire(entry, reason)
        self.signals.drain()

    def leave(self) -> None:
        """The node was left: nothing comes to any process any more, nor to one that begins."""
        self.left = True
        for entry in self._table.by_pid.values():
            entry.inbox.leave()

    def whereis(self, name: str) -> Inbox | None:
        """The process that is registered under a name."""
        entry = self._table.by_name.get(Atom(name))
        return None if entry is None else entry.inbox

    def receiver(self, message: control.Message) -> Inbox | None:
        """Where a plain message goes, if its receiver is a process that takes some."""
        match message:
            case control.Send(to=to) | control.RegSend(to=to):
                entry = self._table.find(to)
                if entry is not None and entry.inbox.receives:
                    return entry.inbox
        return None

    def exists(self, target: Any) -> bool:
        """Whether a pid or registered name is a living process of this node."""
        return self._table.find(target) is not None or self._is_own(target)

    def _is_own(self, target: Any) -> bool:
        return target in self._services or self._exists(target)

    def serve(self, target: Pid | Atom, service: Service) -> None:
        """Answer for a pid or name as the node itself: no signal ends it, no monitor of it fires.

        ``service`` must not block; a `RemoteProtocolError` of its closes the connection.
        """
        self.serve_sized(target, lambda peer, message, _size: service(peer, message))

    def serve_sized(self, target: Pid | Atom, service: SizedService) -> None:
        """As `serve`, for a service that hands on what it is given."""
        self._services[target] = service

    def act_on(self, signal: type[Any], act: Callable[[NodeName, Any], None]) -> None:
        """Have another part of the node act on a kind of signal; it must not block either."""
        self._actions[signal] = act

    def add_alias(self, ref: Reference, deliver: Callable[[Any], None]) -> None:
        """Have what is sent to an alias given to ``deliver``."""
        self._aliases[ref] = deliver

    def remove_alias(self, ref: Reference) -> None:
        """Drop what is sent to an alias from now on."""
        self._aliases.pop(ref, None)

    def spawned(
        self, peer: NodeName, request: control.SpawnRequest, pid: Pid, *, link: bool, monitor: bool
    ) -> None:
        """Tell a peer that a process of ours was made as it had asked."""
        entry = self._table.by_pid[pid]
        flags = 0
        if link:
            self.links.add(entry, request.sender).active = True
            flags |= control.SPAWNED_LINKED
        if monitor:
            self.monitors.add_watcher(entry, request.sender, pid, request.ref)
            flags |= control.SPAWNED_MONITORED
        self.signals.put(peer, control.SpawnReply(request.ref, request.sender, flags, pid))

    # -- signals ----------------------------------------------------------------------------------

    def emit(self, peer: NodeName, message: control.Message) -> bool:
        """Send a signal to a node. False: there is no connection to it."""
        sent = self.signals.put(peer, message)
        self.signals.drain()
        return sent

    def handle(self, peer: NodeName, message: control.Message, size: int = 0) -> bool:
        """Act on a signal that came from a peer. False: it is none for a process here.

        ``size`` is in how many bytes it came.
        """
        match message:
            case control.Send(to=to, payload=payload) | control.RegSend(to=to, payload=payload):
                entry = self._table.find(to)
                if type(payload) is control.Unread:
                    self._refuse(peer, entry, payload)
                elif entry is not None:
                    entry.inbox.deliver(payload, size)
                elif not self._serve(peer, to, payload, size):
                    return False
            case control.AliasSend(to=ref, payload=payload):
                deliver = self._aliases.get(ref)
                if deliver is not None:
                    deliver(payload)
            case (
                control.MonitorExit(reason=control.Unread() as unread)
                | control.Exit(reason=control.Unread() as unread)
                | control.Exit2(reason=control.Unread() as unread)
            ):
                self._refuse(peer, None, unread)
                return self.handle(peer, replace(message, reason=SYSTEM_LIMIT))
            case control.MonitorExit():
                self.monitors.handle(peer, message)
            case control.SpawnReply():
                return self._act_on(peer, message)
            case control.GroupLeader() | control.Unknown():
                return False
            case _ if not self._is_from(peer, message.sender):
                pass
            case control.SpawnRequest():
                return self._act_on(peer, message)
            case control.Monitor() | control.Demonitor():
                self.monitors.handle(peer, message)
            case _:
                self.links.handle(peer, message, size)
        self.signals.drain()
        return True

    def _act_here(self, message: control.Message) -> None:
        if not self.handle(self._local, message):
            self.unhandled(message)

    def _act_on(self, peer: NodeName, message: control.SpawnRequest | control.SpawnReply) -> bool:
        act = self._actions.get(type(message))
        if act is None:
            return False
        act(peer, message)
        self.signals.drain()
        return True

    def _serve(self, peer: NodeName, target: Pid | Atom, payload: Any, size: int) -> bool:
        service = self._services.get(target)
        if service is not None:
            service(peer, payload, size)
        return service is not None

    def _refuse(self, peer: NodeName, entry: Entry | None, unread: control.Unread) -> None:
        """Tell of a payload that is not let in. The connection has done nothing wrong."""
        if entry is not None:
            entry.inbox.rejected += 1
        whose = "a process" if entry is None else repr(entry.inbox)
        self._unread.warning("[%s] sent %s %s: it was dropped", peer, whose, unread.why)

    def _is_from(self, peer: NodeName, sender: Pid) -> bool:
        """Whether a signal is from a process of the node that sent it: nobody speaks for others."""
        if sender.node.name == peer:
            return True
        name = shorten(sender.node.name)
        self._log.warning("[%s] sent a signal of a process of %s: ignored", peer, name)
        return False

    def peer_up(self, peer: NodeName) -> None:
        """A peer was connected: what waited for that goes out before anything else."""
        self.signals.go_on(peer)

    def peer_gone(self, peer: NodeName) -> None:
        """The connection to a peer is lost: what was held across it fires, once."""
        self.monitors.lose_all(peer)
        for ours, theirs, ref in self._held.lose(peer):
            if ref is None:
                self.links.lose(ours, theirs)
            else:
                self.monitors.lose(ours, theirs, ref)
        self.signals.drain()
