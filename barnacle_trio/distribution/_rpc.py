"""Calls of functions on other nodes, by OTP's ``erpc``.

A call is a spawn request for ``erpc:execute_call/4`` with option ``monitor``; the process that
comes of it ends with what the function came to as the reason (the table of such reasons is that of
the "erpc" module of OTP).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import trio

from barnacle_trio._errors import ProcessDown, RemoteError
from barnacle_trio._names import NodeName
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution._flags import Flag
from barnacle_trio.distribution._inbox import KILL
from barnacle_trio.distribution._links import NOCONNECTION
from barnacle_trio.distribution._outbound import Outbound
from barnacle_trio.distribution._processes import Processes
from barnacle_trio.etf import Atom, Pid, Reference, decode, encode

ERPC = Atom("erpc")
EXECUTE_CALL = Atom("execute_call")
MONITOR = Atom("monitor")
NOTSUP = Atom("notsup")


class Calls:
    """Calls functions on other nodes.

    Args:
      local: the node's name.
      pid: who calls, as the other nodes see it.
      group_leader: what the called code prints to.
      processes: the table of processes.
      outbound: the way to other nodes.
    """

    def __init__(
        self,
        local: NodeName,
        pid: Pid,
        group_leader: Pid,
        processes: Processes,
        outbound: Outbound,
    ) -> None:
        self._local = local
        self._pid = pid
        self._group_leader = group_leader
        self._processes = processes
        self._outbound = outbound
        self._requests: dict[Reference, _Request] = {}
        processes.act_on(control.SpawnReply, self._on_spawn_reply)

    def __len__(self) -> int:
        """How many calls are under way, those given up included until their ends are known."""
        return len(self._requests)

    async def call(self, node: str, module: str | Atom, function: str | Atom, args: Any) -> Any:
        """See `Node.rpc`."""
        peer = NodeName(node)
        names = (_atom(module), _atom(function))
        result = self._processes.identifiers.make_reference()
        arguments = [result, *names, list(args)]
        if peer == self._local:
            limits = self._outbound.limits  # as if they had been to another node
            arguments = decode(encode(arguments, limits=limits), limits=limits)
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await self._make_room(peer, arguments)
        request = self._request(peer, arguments)
        try:
            await request.over.wait()
        finally:
            self._give_up(request)
        return _value(request, result)

    async def _make_room(self, peer: NodeName, arguments: list[Any]) -> None:
        """Wait until a peer can be sent more; it is dialled if need be."""
        size = len(encode(arguments, limits=self._outbound.limits))
        connection = await self._outbound.reach(peer)
        if Flag.SPAWN not in connection.agreed:
            raise RemoteError("error", (ERPC, NOTSUP))
        between = (self._pid, self._pid)  # nobody waits for a process that is not there yet
        if not connection.writable(size, between):
            await connection.wait_writable(size, between)

    def _request(self, peer: NodeName, arguments: list[Any]) -> _Request:
        request = _Request(self._processes.identifiers.make_reference(), peer)
        message = control.SpawnRequest(
            ref=request.ref,
            sender=self._pid,
            group_leader=self._group_leader,
            module=ERPC,
            function=EXECUTE_CALL,
            arguments=arguments,
            options=[MONITOR],
        )
        self._requests[request.ref] = request
        self._processes.monitors.expect(
            request.ref, peer, self._pid, lambda reason: self._end(request, reason)
        )
        try:
            if not self._processes.emit(peer, message):
                self._end(request, NOCONNECTION)
        except BaseException:
            self._forget(request)  # it has no encoding, and was not sent
            raise
        return request

    def _on_spawn_reply(self, peer: NodeName, reply: control.SpawnReply) -> None:
        request = self._requests.get(reply.ref)
        if request is None or request.peer != peer:
            return
        if isinstance(reply.result, Pid):
            request.pid = reply.result
            if request.given_up:
                self._kill(request, reply.result)
        else:
            request.refused = True
            self._end(request, reply.result)

    def _end(self, request: _Request, reason: Any) -> None:
        self._forget(request)
        request.reason = reason
        request.over.set()

    def _forget(self, request: _Request) -> None:
        self._requests.pop(request.ref, None)
        self._processes.monitors.forget(request.ref)

    def _give_up(self, request: _Request) -> None:
        """Leave no process behind: kill it now, or as soon as it is known which one it is."""
        if request.over.is_set():
            return
        request.given_up = True
        if request.pid is not None:
            self._kill(request, request.pid)

    def _kill(self, request: _Request, pid: Pid) -> None:
        self._forget(request)
        self._processes.emit(request.peer, control.Exit2(self._pid, pid, KILL))


class _Request:
    """A spawn request of ours and what came of it."""

    __slots__ = ("given_up", "over", "peer", "pid", "reason", "ref", "refused")

    def __init__(self, ref: Reference, peer: NodeName) -> None:
        self.ref = ref
        self.peer = peer
        self.pid: Pid | None = None
        self.over = trio.Event()
        self.refused = False
        self.reason: Any = None
        self.given_up = False


def _value(request: _Request, result: Reference) -> Any:
    """What the function returned; else what became of it is raised."""
    if request.refused:
        raise RemoteError("error", (ERPC, request.reason))
    match _tagged(request.reason, result):
        case (Atom("return"), value):
            return value
        case (Atom("throw"), value):
            raise RemoteError("throw", value)
        case (Atom("exit"), reason):
            raise RemoteError("exit", reason)
        case (Atom("error"), reason):
            raise RemoteError("error", reason)
        case (Atom("error"), reason, stack):
            raise RemoteError("error", reason, stack)
    raise ProcessDown(request.reason)


def _tagged(reason: Any, result: Reference) -> Sequence[Any]:
    """What follows in a reason that begins with the reference of this very call."""
    if isinstance(reason, tuple) and reason and reason[0] == result:
        return reason[1:]
    return ()


def _atom(name: str | Atom) -> Atom:
    return name if isinstance(name, Atom) else Atom(name)
