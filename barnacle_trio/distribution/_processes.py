"""The processes of this node: names, links, monitors and aliases, and the signals among them.

Everything here is synchronous but for what may have to dial first. A signal to a process of this
node takes the same way as one to another node, without the network in between. Source of the rules:
OTP's "Distribution Protocol" (links: "Link Protocol") and "Processes" in the reference manual.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import trio

from barnacle_trio._errors import ConfigurationError
from barnacle_trio._logs import RateLimited
from barnacle_trio._names import NodeName, shorten
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution._groups import Groups
from barnacle_trio.distribution._held import Held
from barnacle_trio.distribution._identifiers import Identifiers
from barnacle_trio.distribution._mailbox import KILL, KILLED, NORMAL, Down, Exit, Mailbox
from barnacle_trio.distribution._outbound import Outbound
from barnacle_trio.distribution._routes import Dest, locate
from barnacle_trio.etf import Atom, Pid, Reference

logger = logging.getLogger("barnacle_trio.messages")

NOPROC = Atom("noproc")
NOCONNECTION = Atom("noconnection")
OnDown = Callable[[Any], None]
Service = Callable[[NodeName, Any], None]
"""Takes each message to a pid or name that is the node's own, with the node it came from."""


@dataclass(slots=True)
class _Link:
    """One side of a link. While an unlink is not acknowledged, nothing that comes of it counts."""

    active: bool = False
    unlink_id: int | None = None


@dataclass(slots=True)
class _Process:
    """What others hold on one of our processes, and it on them."""

    mailbox: Mailbox
    links: dict[Pid, _Link] = field(default_factory=dict)
    watchers: dict[Reference, tuple[Pid, Pid | Atom]] = field(default_factory=dict)
    monitors: set[Reference] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Monitor:
    """A monitor that we hold."""

    peer: NodeName
    target: Pid | Atom
    on_down: OnDown
    owner: Pid


class Processes:
    """The table of them.

    Args:
      identifiers: makes pids and references.
      outbound: sends to other nodes.
      exists: whether a name or pid is one of those that the node itself answers for.
    """

    def __init__(
        self, identifiers: Identifiers, outbound: Outbound, exists: Callable[[Any], bool]
    ) -> None:
        self.identifiers = identifiers
        self._local = NodeName(identifiers.node.name)
        self._outbound = outbound
        self._exists = exists
        self._by_pid: dict[Pid, _Process] = {}
        self._by_name: dict[Atom, _Process] = {}
        self._aliases: dict[Reference, Callable[[Any], None]] = {}
        self._services: dict[Pid | Atom, Service] = {}
        self._actions: dict[type, Callable[[NodeName, Any], None]] = {}
        self._monitors: dict[Reference, _Monitor] = {}
        self._held = Held()
        self._unlinks = itertools.count(1)
        self._log = RateLimited(logger)
        self._queue: deque[control.Message] = deque()
        self._draining = False
        self.generation = 0
        """Grows when a process comes or goes."""
        self.unhandled: Callable[[control.Message], None] = lambda _message: None
        """Takes messages of our own processes to what the node itself answers for."""
        self.groups = Groups(self)

    # -- the table --------------------------------------------------------------------------------

    def open(
        self, *, name: str | None = None, trap_exits: bool = False, max_length: int
    ) -> Mailbox:
        """Make a process.

        Raises:
          ConfigurationError: the name is taken.
        """
        mailbox = Mailbox(
            self,
            self.identifiers.make_pid(),
            name=name,
            trap_exits=trap_exits,
            max_length=max_length,
        )
        self.add(mailbox)
        return mailbox

    def add(self, mailbox: Mailbox) -> None:
        """Have a mailbox be a process.

        Raises:
          ConfigurationError: its name is taken.
        """
        registered = None if mailbox.name is None else Atom(mailbox.name)
        if registered is not None and self.exists(registered):
            raise ConfigurationError(f"a process is registered as {mailbox.name!r} already")
        process = _Process(mailbox)
        self.generation += 1
        self._by_pid[mailbox.pid] = process
        if registered is not None:
            self._by_name[registered] = process

    def close(self, mailbox: Mailbox, reason: Any = NORMAL) -> None:
        """End a process: links and monitors on it fire with the reason, its own are undone."""
        mailbox.close()
        process = self._by_pid.pop(mailbox.pid, None)
        if process is None:
            return
        self.generation += 1
        if mailbox.name is not None:
            del self._by_name[Atom(mailbox.name)]
        for ref in tuple(process.monitors):
            self.demonitor(ref)
        for ref, (watcher, target) in process.watchers.items():
            self._held.discard(watcher.node.name, mailbox.pid, ref)
            self._emit(watcher, control.MonitorExit(target, watcher, ref, reason))
        for pid, link in process.links.items():
            self._held.discard(pid.node.name, mailbox.pid, pid)
            if link.active:
                self._emit(pid, control.Exit(mailbox.pid, pid, reason))
        self._drain()

    def whereis(self, name: str) -> Mailbox | None:
        """The process that is registered under a name."""
        process = self._by_name.get(Atom(name))
        return None if process is None else process.mailbox

    def receiver(self, message: control.Message) -> Callable[[Any, int], None] | None:
        """What delivers a plain message, if its receiver is a living process."""
        match message:
            case control.Send(to=to):
                process = self._by_pid.get(to)
            case control.RegSend(to=name):
                process = self._by_name.get(name)
            case _:
                return None
        return None if process is None else process.mailbox.deliver

    def exists(self, target: Any) -> bool:
        """Whether a pid or registered name is a living process of this node."""
        table: dict[Any, _Process] = self._by_pid if isinstance(target, Pid) else self._by_name
        return target in table or self._is_own(target)

    def _is_own(self, target: Any) -> bool:
        return target in self._services or self._exists(target)

    def serve(self, target: Pid | Atom, service: Service) -> None:
        """Answer for a pid or name as the node itself: no signal ends it, no monitor of it fires.

        ``service`` must not block; a `RemoteProtocolError` of its closes the connection.
        """
        self._services[target] = service

    def act_on(self, signal: type[Any], act: Callable[[NodeName, Any], None]) -> None:
        """Have another part of the node act on a kind of signal; it must not block either."""
        self._actions[signal] = act

    # -- aliases and monitors of our own ----------------------------------------------------------

    def add_alias(self, ref: Reference, deliver: Callable[[Any], None]) -> None:
        """Have what is sent to an alias given to ``deliver``."""
        self._aliases[ref] = deliver

    def remove_alias(self, ref: Reference) -> None:
        """Drop what is sent to an alias from now on."""
        self._aliases.pop(ref, None)

    def monitor(self, mailbox: Mailbox, dest: Dest) -> Reference:
        """See `Mailbox.monitor`."""
        process = self._living(mailbox)
        peer, target = locate(dest)
        ref = self.identifiers.make_reference()
        process.monitors.add(ref)
        self._monitors[ref] = _Monitor(
            peer, target, lambda reason: mailbox.tell(Down(ref, dest, reason)), mailbox.pid
        )
        self._when_reached(peer, lambda: self._begin_monitor(ref))
        return ref

    def add_monitor(
        self, ref: Reference, peer: NodeName, target: Pid | Atom, owner: Pid, on_down: OnDown
    ) -> None:
        """Monitor a process at a node that is connected; ``on_down`` is called once at most."""
        self._monitors[ref] = _Monitor(peer, target, on_down, owner)
        self._begin_monitor(ref)

    def _begin_monitor(self, ref: Reference) -> None:
        monitor = self._monitors.get(ref)
        if monitor is None:
            return  # undone while its node was dialled
        if not self._emit_to(monitor.peer, control.Monitor(monitor.owner, monitor.target, ref)):
            self._fire(ref, NOCONNECTION)
        self._drain()

    def demonitor(self, ref: Reference) -> None:
        """End a monitor, if it has not fired."""
        monitor = self._forget_monitor(ref)
        if monitor is not None:
            self._emit_to(monitor.peer, control.Demonitor(monitor.owner, monitor.target, ref))
            self._drain()

    def _forget_monitor(self, ref: Reference) -> _Monitor | None:
        monitor = self._monitors.pop(ref, None)
        if monitor is not None and (owner := self._by_pid.get(monitor.owner)) is not None:
            owner.monitors.discard(ref)
        return monitor

    def _fire(self, ref: Reference, reason: Any) -> None:
        monitor = self._forget_monitor(ref)
        if monitor is not None:
            monitor.on_down(reason)

    # -- spawning across nodes --------------------------------------------------------------------

    def expect_down(self, ref: Reference, peer: NodeName, owner: Pid, on_down: OnDown) -> None:
        """Await the end of a process that a spawn request asks for, with option ``monitor``."""
        self._monitors[ref] = _Monitor(peer, owner, on_down, owner)

    def forget_down(self, ref: Reference) -> None:
        """No longer await it. What comes of it is dropped."""
        self._forget_monitor(ref)

    def spawned(
        self, peer: NodeName, request: control.SpawnRequest, pid: Pid, *, link: bool, monitor: bool
    ) -> None:
        """Tell a peer that a process of ours was made as it had asked."""
        process = self._by_pid[pid]
        flags = 0
        if link:
            self._add_link(process, request.sender).active = True
            flags |= control.SPAWNED_LINKED
        if monitor:
            self._add_watcher(process, request.ref, request.sender, pid)
            flags |= control.SPAWNED_MONITORED
        self._emit_to(peer, control.SpawnReply(request.ref, request.sender, flags, pid))

    # -- links of our own -------------------------------------------------------------------------

    def link(self, mailbox: Mailbox, pid: Pid) -> None:
        """See `Mailbox.link`."""
        process = self._living(mailbox)
        if pid == mailbox.pid:
            return
        peer = NodeName(pid.node.name)
        link = process.links.get(pid) or self._add_link(process, pid)
        if link.active:
            return
        link.active, link.unlink_id = True, None
        self._when_reached(peer, lambda: self._begin_link(mailbox.pid, pid))

    def _begin_link(self, ours: Pid, pid: Pid) -> None:
        process, link = self._find_link(ours, pid)
        if process is None or link is None or not link.active:
            return  # undone while its node was dialled
        if not self._emit(pid, control.Link(ours, pid)):
            self._remove_link(process, pid)
            self._exit_signal(process, pid, NOCONNECTION)
        self._drain()

    def unlink(self, mailbox: Mailbox, pid: Pid) -> None:
        """See `Mailbox.unlink`."""
        process = self._by_pid.get(mailbox.pid)
        link = None if process is None else process.links.get(pid)
        if process is None or link is None or not link.active:
            return
        link.active, link.unlink_id = False, next(self._unlinks)
        if not self._emit(pid, control.Unlink(link.unlink_id, mailbox.pid, pid)):
            self._remove_link(process, pid)
        self._drain()

    # -- signals ----------------------------------------------------------------------------------

    def handle(self, peer: NodeName, message: control.Message, size: int = 0) -> bool:
        """Act on a signal that came from a peer. False: it is none for a process here.

        ``size`` is in how many bytes it came.
        """
        match message:
            case control.Send(to=to, payload=payload):
                process = self._by_pid.get(to)
                if process is not None:
                    process.mailbox.deliver(payload, size)
                elif not self._serve(peer, to, payload):
                    return False
            case control.RegSend(to=name, payload=payload):
                process = self._by_name.get(name)
                if process is not None:
                    process.mailbox.deliver(payload, size)
                elif not self._serve(peer, name, payload):
                    return False
            case control.AliasSend(to=ref, payload=payload):
                deliver = self._aliases.get(ref)
                if deliver is not None:
                    deliver(payload)
            case control.SpawnRequest(sender=sender) if not self._is_from(peer, sender):
                pass
            case control.SpawnRequest() | control.SpawnReply():
                act = self._actions.get(type(message))
                if act is None:
                    return False
                act(peer, message)
            case control.GroupLeader() | control.Unknown():
                return False
            case _:
                self._handle_signal(peer, message)
        self._drain()
        return True

    def _serve(self, peer: NodeName, target: Pid | Atom, payload: Any) -> bool:
        service = self._services.get(target)
        if service is not None:
            service(peer, payload)
        return service is not None

    def _handle_signal(self, peer: NodeName, message: control.Message) -> None:
        match message:
            case control.MonitorExit(ref=ref, reason=reason):
                monitor = self._monitors.get(ref)
                if monitor is not None and monitor.peer == peer:
                    self._fire(ref, reason)
                return
            case (
                control.Monitor()
                | control.Demonitor()
                | control.Link()
                | control.Unlink()
                | control.OldUnlink()
                | control.UnlinkAck()
                | control.Exit()
                | control.Exit2()
            ) if not self._is_from(peer, message.sender):
                return
            case control.Monitor(sender=watcher, target=target, ref=ref):
                self._be_monitored(peer, watcher, target, ref)
            case control.Demonitor(sender=watcher, target=target, ref=ref):
                process = self._find(target)
                if process is not None and process.watchers.get(ref, (None,))[0] == watcher:
                    del process.watchers[ref]
                    self._held.discard(peer, process.mailbox.pid, ref)
            case control.Link(sender=sender, to=to):
                self._be_linked(peer, sender, to)
            case control.Unlink(id=unlink_id, sender=sender, to=to):
                self._be_unlinked(sender, to)
                self._emit(sender, control.UnlinkAck(unlink_id, to, sender))
            case control.OldUnlink(sender=sender, to=to):
                self._be_unlinked(sender, to)
            case control.UnlinkAck(id=unlink_id, sender=sender, to=to):
                process, link = self._find_link(to, sender)
                if process is not None and link is not None and link.unlink_id == unlink_id:
                    link.unlink_id = None
                    if not link.active:
                        self._remove_link(process, sender)
            case control.Exit(sender=sender, to=to, reason=reason):
                process, link = self._find_link(to, sender)
                if process is not None and link is not None and link.active:
                    self._remove_link(process, sender)
                    self._exit_signal(process, sender, reason)
            case control.Exit2(sender=sender, to=to, reason=reason):
                process = self._by_pid.get(to)
                if process is not None:
                    self._exit_signal(process, sender, reason, asked=True)

    def _is_from(self, peer: NodeName, sender: Pid) -> bool:
        """Whether a signal is from a process of the node that sent it: nobody speaks for others."""
        if sender.node.name == peer:
            return True
        name = shorten(sender.node.name)
        self._log.warning("[%s] sent a signal of a process of %s: ignored", peer, name)
        return False

    def peer_up(self, peer: NodeName) -> None:
        """A peer was connected: what waited for that goes out before anything else."""
        self._outbound.go_on(peer)

    def peer_gone(self, peer: NodeName) -> None:
        """The connection to a peer is lost: what was held across it fires, once."""
        for ref, monitor in tuple(self._monitors.items()):
            if monitor.peer == peer:
                self._fire(ref, NOCONNECTION)
        for ours, what in self._held.lose(peer):
            process = self._by_pid.get(ours)
            if process is None:
                continue  # it ended of what came before in this loop
            if isinstance(what, Reference):
                process.watchers.pop(what, None)
                continue
            link = process.links.pop(what, None)
            if link is not None and link.active:
                self._exit_signal(process, what, NOCONNECTION)
        self._drain()

    def _be_monitored(
        self, peer: NodeName, watcher: Pid, target: Pid | Atom, ref: Reference
    ) -> None:
        process = self._find(target)
        if process is None:
            if not self._is_own(target):
                self._emit(watcher, control.MonitorExit(target, watcher, ref, NOPROC))
        elif ref not in process.watchers:
            self._held.check_room(peer)
            self._add_watcher(process, ref, watcher, target)

    def _be_linked(self, peer: NodeName, sender: Pid, to: Pid) -> None:
        process, link = self._find_link(to, sender)
        if process is None:
            if not self._is_own(to):
                self._emit(sender, control.Exit(to, sender, NOPROC))
        elif link is None:
            self._held.check_room(peer)
            self._add_link(process, sender).active = True
        elif link.unlink_id is None:
            link.active = True

    def _be_unlinked(self, sender: Pid, to: Pid) -> None:
        process, link = self._find_link(to, sender)
        if process is not None and link is not None and link.active:
            self._remove_link(process, sender)

    def _find_link(self, ours: Pid, theirs: Pid) -> tuple[_Process | None, _Link | None]:
        process = self._by_pid.get(ours)
        return process, None if process is None else process.links.get(theirs)

    def _add_link(self, process: _Process, pid: Pid) -> _Link:
        link = process.links[pid] = _Link()
        if pid.node is not self.identifiers.node:
            self._held.add(pid.node.name, process.mailbox.pid, pid)
        return link

    def _remove_link(self, process: _Process, pid: Pid) -> None:
        process.links.pop(pid, None)
        self._held.discard(pid.node.name, process.mailbox.pid, pid)

    def _add_watcher(
        self, process: _Process, ref: Reference, watcher: Pid, target: Pid | Atom
    ) -> None:
        process.watchers[ref] = (watcher, target)
        if watcher.node is not self.identifiers.node:
            self._held.add(watcher.node.name, process.mailbox.pid, ref)

    def _exit_signal(
        self, process: _Process, sender: Pid, reason: Any, *, asked: bool = False
    ) -> None:
        mailbox = process.mailbox
        if asked and reason is KILL:
            self._exit(mailbox, KILLED)
        elif mailbox.trap_exits:
            (mailbox.deliver if asked else mailbox.tell)(Exit(sender, reason))
        elif reason is not NORMAL:
            self._exit(mailbox, reason)

    def _exit(self, mailbox: Mailbox, reason: Any) -> None:
        mailbox.exit(reason)
        self.close(mailbox, reason)

    # -- ways out ---------------------------------------------------------------------------------

    async def reach(self, peer: NodeName) -> None:
        """Connect a peer, unless it is this node.

        Raises:
          ConnectError: it cannot be connected.
        """
        if peer == self._local:
            await trio.lowlevel.checkpoint()
        else:
            await self._outbound.reach(peer)

    def _when_reached(self, peer: NodeName, then: Callable[[], None]) -> None:
        """Go on at once where a node is connected, else after it was dialled, with what result."""
        if peer == self._local or self._outbound.get(peer) is not None:
            then()
        else:
            self._outbound.reach_soon(peer, then)

    def emit(self, peer: NodeName, message: control.Message) -> bool:
        """Send a signal to a node. False: there is no connection to it."""
        sent = self._emit_to(peer, message)
        self._drain()
        return sent

    def _emit(self, to: Pid, message: control.Message) -> bool:
        return self._emit_to(NodeName(to.node.name), message)

    def _emit_to(self, peer: NodeName, message: control.Message) -> bool:
        if peer == self._local:
            self._queue.append(message)
            return True
        return self._outbound.send(peer, message)

    def _drain(self) -> None:
        """Act on signals among our own processes, in order and without recursion."""
        if self._draining:
            return
        self._draining = True
        try:
            while self._queue:
                message = self._queue.popleft()
                if not self.handle(self._local, message):
                    self.unhandled(message)
        finally:
            self._draining = False

    def _find(self, target: Pid | Atom) -> _Process | None:
        return self._by_pid.get(target) if isinstance(target, Pid) else self._by_name.get(target)

    def _living(self, mailbox: Mailbox) -> _Process:
        process = self._by_pid.get(mailbox.pid)
        if process is None:
            raise trio.ClosedResourceError("the mailbox was closed")
        return process
