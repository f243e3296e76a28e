"""``rex``, the server by which ``rpc`` called before there was ``erpc``.

``rpc:block_call``, ``rpc:sbcast``, ``erl_call``, C nodes and Jinterface speak to it still. It calls
what is exposed, and answers whatever OTP's own would answer (module "rpc"): a name that is there
but silent would leave callers hanging.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from barnacle_trio._names import NodeName
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution._exposed import NOTSUP, Exposed, Refused, Wanted
from barnacle_trio.distribution._gen import reply_to
from barnacle_trio.distribution._links import NOCONNECTION
from barnacle_trio.distribution._outcome import as_rex, badrpc
from barnacle_trio.distribution._processes import Processes
from barnacle_trio.etf import Atom, Pid

REX = Atom("rex")
ERPC = Atom("erpc")
NODEDOWN = Atom("nodedown")
FEATURES_REPLY = Atom("features_reply")
NONEXISTING_NAME = Atom("nonexisting_name")


class Rex:
    """Serves the name.

    Args:
      pid: who answers, as the callers see it.
      processes: the table of processes.
      exposed: what may be called.
    """

    def __init__(self, pid: Pid, processes: Processes, exposed: Exposed) -> None:
        self._pid = pid
        self._node = processes.identifiers.node
        self._processes = processes
        self._exposed = exposed
        processes.serve_sized(REX, self._receive)

    def _receive(self, peer: NodeName, message: Any, size: int) -> None:
        match message:
            case (Atom("$gen_call"), (Pid() as caller, tag), request) if caller.node.name == peer:
                self._call(peer, request, partial(self._reply, peer, caller, tag))
            case (Atom("$gen_cast"), (Atom("cast"), module, function, arguments, _)):
                self._begin(peer, Wanted(module, function, arguments), lambda _: None)
            case (Pid() as caller, request) if caller.node.name == peer:
                self._answer(peer, caller, request, size)

    def _answer(self, peer: NodeName, caller: Pid, request: Any, size: int) -> None:
        """Answer what is no call of a gen_server: of a C node, or to many nodes at once."""
        tell = partial(self._send, peer, caller)
        match request:
            case (Atom("call"), *_):
                self._call(peer, request, lambda reply: tell((REX, reply)))
            case (Atom("sbcast"), Atom() as name, message):
                delivered = self._deliver(name, message, size)
                tell((REX, self._node, self._node if delivered else (NONEXISTING_NAME, name)))
            case (Atom("send"), Atom() as name, message):
                if not self._deliver(name, (caller, message), size):
                    tell((REX, self._node, (NONEXISTING_NAME, name)))
            case Atom("features_request"):
                tell((FEATURES_REPLY, self._node, [ERPC]))

    def _call(self, peer: NodeName, request: Any, answer: Callable[[Any], None]) -> None:
        match request:
            case (Atom("call" | "block_call"), module, function, arguments, _):
                wanted = Wanted(module, function, arguments, as_rex, attended=True)
                self._begin(peer, wanted, answer)
            case _:
                answer(badrpc(NOTSUP))

    def _begin(self, peer: NodeName, wanted: Wanted, answer: Callable[[Any], None]) -> None:
        try:
            self._exposed.begin(peer, wanted, answer)
        except Refused as refusal:
            answer(badrpc(NODEDOWN if refusal.why is NOCONNECTION else refusal.why))

    def _deliver(self, name: Atom, message: Any, size: int) -> bool:
        inbox = self._processes.whereis(name.name)
        if inbox is not None:
            inbox.deliver(message, size)
        return inbox is not None

    def _reply(self, peer: NodeName, caller: Pid, tag: Any, reply: Any) -> None:
        self._processes.emit(peer, reply_to(self._pid, caller, tag, reply))

    def _send(self, peer: NodeName, to: Pid, message: Any) -> None:
        self._processes.emit(peer, control.Send(self._pid, to, message))
