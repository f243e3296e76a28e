"""Messages between processes, as users send them: to a pid, a name or an alias, and calls."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import trio

from barnacle_trio._errors import ConnectError, PeerUnreachable, ProcessDown, ProcessExit
from barnacle_trio._names import NodeName
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution._gen import ALIAS, GEN_CALL, GEN_CAST, reply_to
from barnacle_trio.distribution._inbox import MAX_MAILBOX, NORMAL, Inbox
from barnacle_trio.distribution._links import NOCONNECTION
from barnacle_trio.distribution._mailbox import Mailbox, Process
from barnacle_trio.distribution._outbound import Outbound
from barnacle_trio.distribution._processes import Processes
from barnacle_trio.distribution._routes import Dest, Route, Routes, locate
from barnacle_trio.etf import Atom, DecodeError, ImproperList, Pid, Reference, decode, encode
from barnacle_trio.etf._decode import decode_bare
from barnacle_trio.etf._encode import Pieces, encode_bare

logger = logging.getLogger("barnacle_trio.messages")

SEND_YIELD_EVERY = 128
"""Messages after which a sender that never has to wait lets other tasks run (about 0.5 ms)."""

SHUTDOWN = Atom("shutdown")
_CANCELLED = (trio.Cancelled, GeneratorExit)


class Messaging:
    """Sends, calls and opens mailboxes for a node.

    Args:
      local: the node's name.
      pid: who sends what no mailbox sends.
      processes: the table of processes.
      outbound: the way to other nodes.
    """

    def __init__(self, local: NodeName, pid: Pid, processes: Processes, outbound: Outbound) -> None:
        self._local = local
        self._pid = pid
        self._processes = processes
        self._outbound = outbound
        self._routes = Routes(pid)
        self._limits = outbound.limits
        self._sent = 0
        self.work = processes.work

    @property
    def left(self) -> bool:
        """Whether the node was left."""
        return self._processes.left

    @asynccontextmanager
    async def open_mailbox(
        self,
        name: str | None = None,
        *,
        trap_exits: bool = False,
        max_length: int = MAX_MAILBOX,
    ) -> AsyncIterator[Mailbox]:
        """See `Node.open_mailbox`."""
        async with self.open_inbox(name, trap_exits=trap_exits, max_length=max_length) as inbox:
            yield Mailbox(self._processes, inbox)

    @asynccontextmanager
    async def open_inbox(
        self, name: str | None, *, trap_exits: bool = False, max_length: int
    ) -> AsyncIterator[Inbox]:
        """Be a process until the block is left, which ends it with what it raised as the reason."""
        inbox = self._processes.open(name=name, trap_exits=trap_exits, max_length=max_length)
        reason: Any = NORMAL
        try:
            await trio.lowlevel.checkpoint()
            yield inbox
        except BaseException as error:
            reason = exit_reason(error)
            raise
        finally:
            self._processes.close(inbox, reason)

    def process(self, inbox: Inbox) -> Process:
        """A process as who acts in its name holds it."""
        return Process(self._processes, inbox)

    async def send(self, dest: Dest, term: Any) -> None:
        """See `Node.send`."""
        self._sent += 1
        if self._sent % SEND_YIELD_EVERY:
            # Cancellation is heeded each time; other tasks get their turn every so often.
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        route = self._routes.find(dest)
        encoded = encode_bare(term, limits=self._limits)
        connection = self._outbound.get(route.peer)
        if connection is None:
            if route.peer == self._local:
                self._post_here(route, encoded)
                return
            connection = await self._outbound.reach(route.peer)
        head = route.head(connection.agreed_bits)
        while not connection.offer(head, encoded, route.parties):
            await connection.wait_writable(len(head) + len(encoded), route.parties)
            if connection.reason is not None:
                raise PeerUnreachable(f"{route.peer} was lost before the message was sent")

    def send_nowait(self, dest: Dest, term: Any) -> None:
        """See `Node.send_nowait`."""
        route = self._routes.find(dest)
        encoded = encode_bare(term, limits=self._limits)
        if route.peer == self._local:
            self._post_here(route, encoded)
            return
        connection = self._outbound.get(route.peer)
        if connection is None or not connection.offer(
            route.head(connection.agreed_bits), encoded, route.parties
        ):
            raise trio.WouldBlock

    def _post_here(self, route: Route, encoded: bytes | Pieces) -> None:
        """To a process of our own, as if it had been to another node and back."""
        self._processes.emit(
            self._local,
            self._message(route.dest, decode_bare(bytes(encoded), limits=self._limits)[0]),
        )

    async def cast(self, dest: Dest, message: Any) -> None:
        """See `Node.cast`."""
        await self.send(dest, (GEN_CAST, message))

    async def call(self, dest: Dest, request: Any) -> Any:
        """See `Node.call`."""
        peer, target = locate(dest)
        await self._processes.signals.reach(peer)
        ref = self._processes.identifiers.make_reference()
        outcome = _Outcome()
        tag = ImproperList((ALIAS,), ref)
        message = self._message(target, (GEN_CALL, (self._pid, tag), request))
        if peer == self._local:
            message = self._copied(message)
        self._processes.add_alias(ref, lambda reply: outcome.reply(reply, ref))
        try:
            self._processes.monitors.add(ref, peer, target, self._pid, outcome.down)
            if peer == self._local:
                self._processes.emit(peer, message)
            elif not await self._outbound.offer(peer, message):
                outcome.down(NOCONNECTION)
            await outcome.over.wait()
        finally:
            self._processes.remove_alias(ref)
            self._processes.monitors.demonitor(ref)
        return outcome.get()

    async def reply(self, sender: Pid, caller: Pid, tag: Any, reply: Any) -> None:
        """Answer a call, if the caller's node is connected still; see `reply_to`.

        Waits while the caller's node has much to read.

        Raises:
          EncodeError: the reply has no encoding.
        """
        message = reply_to(sender, caller, tag, reply)
        try:
            peer = NodeName(message.to.node.name)
        except ValueError:  # made up by the caller, and no place that we could be connected to
            await trio.lowlevel.checkpoint()
            return
        if peer == self._local:
            await trio.lowlevel.checkpoint_if_cancelled()
            self._processes.emit(peer, self._copied(message))
        else:
            await self._outbound.offer(peer, message)

    async def broadcast(
        self, name: str, term: Any, nodes: Iterable[str]
    ) -> dict[NodeName, Exception]:
        """See `Node.broadcast`."""
        errors: dict[NodeName, Exception] = {}

        async def send_one(node: NodeName) -> None:
            await trio.lowlevel.checkpoint()
            try:
                await self.send((name, node), term)
            except ConnectError as error:
                errors[node] = error

        names = {NodeName(node) for node in nodes}
        encode(term, limits=self._limits)  # what cannot be sent is the caller's fault, not a node's
        async with trio.open_nursery() as nursery:
            for each in names:
                nursery.start_soon(send_one, each)
        return errors

    def _message(self, dest: Pid | Atom | Reference, payload: Any) -> control.Message:
        if isinstance(dest, Reference):
            return control.AliasSend(self._pid, dest, payload)
        if isinstance(dest, Pid):
            return control.Send(self._pid, dest, payload)
        return control.RegSend(self._pid, dest, payload)

    def _copied(self, message: Any) -> Any:
        """A message to a process of our own, as if it had been to another node and back."""
        encoded = encode(message.payload, limits=self._limits)
        payload = decode(encoded, limits=self._limits)
        return type(message)(message.sender, message.to, payload)


class _Outcome:
    """What a call came to: the first of a reply and the end of who was called."""

    def __init__(self) -> None:
        self.over = trio.Event()
        self._reply: Any = None
        self._down: Any = None
        self._is_down = False
        self._unread: control.Unread | None = None

    def reply(self, message: Any, ref: Reference) -> None:
        match message:
            case (ImproperList(tail=tail), reply) if tail == ref and not self.over.is_set():
                self._reply = reply
                self.over.set()
            case control.Unread() if not self.over.is_set():
                self._unread = message
                self.over.set()

    def down(self, reason: Any) -> None:
        if not self.over.is_set():
            self._is_down, self._down = True, reason
            self.over.set()

    def get(self) -> Any:
        if self._unread is not None:
            raise DecodeError(f"the reply is {self._unread.why}")
        if self._is_down:
            raise ProcessDown(self._down)
        return self._reply


def exit_reason(error: BaseException) -> Any:
    """The term that stands for a Python exception, where a process ends of it.

    One that is alone in a group stands for the group.
    """
    while isinstance(error, BaseExceptionGroup):
        failed = error.split(_CANCELLED)[1]
        if failed is None:
            return SHUTDOWN
        if len(failed.exceptions) > 1:
            break
        error = failed.exceptions[0]
    if isinstance(error, _CANCELLED):
        return SHUTDOWN
    if isinstance(error, ProcessExit):
        try:
            return decode(encode(error.reason))  # as others see it
        except Exception as fault:
            error = fault
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ != "builtins":
        name = f"{kind.__module__}.{name}"
    try:
        text = str(error)
    except Exception:
        text = "its text cannot be had"
    return (Atom("python_error"), name.encode(), text[:1000].encode("utf-8", "replace"))
