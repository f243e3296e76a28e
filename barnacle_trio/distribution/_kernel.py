"""What a node owes its peers: the answers of the processes that every BEAM node has.

Sans-IO: a control message in, frames out. A visible node that stays silent where a BEAM node would
answer leaves callers hanging on every peer (``global:sync``, ``rpc:multicall``, ``net_adm:ping``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from barnacle_trio._names import NodeName
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution._flags import PLAIN, Flag
from barnacle_trio.distribution._gen import GEN_CALL, GEN_CAST, reply_to
from barnacle_trio.distribution._identifiers import Identifiers
from barnacle_trio.etf import Atom, Pid, Reference

NET_KERNEL = Atom("net_kernel")
GLOBAL_NAME_SERVER = Atom("global_name_server")
GOODBYE_NAME = Atom("barnacle_trio")
"""The registered name to which a leaving node says so; a BEAM node drops such a message."""
LEAVING = Atom("leaving")
IS_AUTH = Atom("is_auth")
YES = Atom("yes")
NOTSUP = Atom("notsup")

_MAX_WAITING = 100_000
"""Answers that are waited for at once."""

# They exist as far as monitors and links can tell; anything else is `noproc`.
_REGISTERED = frozenset({NET_KERNEL, GLOBAL_NAME_SERVER, GOODBYE_NAME})


class Kernel:
    """Speaks for the node itself.

    Args:
      identifiers: of the node's incarnation; what is meant for another one is dropped.
    """

    def __init__(self, identifiers: Identifiers) -> None:
        self.node = identifiers.node
        self.pid = identifiers.make_pid()
        self._waiting: dict[Reference, Callable[[], None]] = {}
        self._synced: set[NodeName] = set()

    def ask_is_auth(
        self, reference: Reference, answered: Callable[[], None], agreed: Flag = PLAIN
    ) -> bytes:
        """The question that ``net_adm:ping`` asks; ``answered`` is called for each answer.

        `forget` ends the waiting.
        """
        if len(self._waiting) < _MAX_WAITING:
            self._waiting[reference] = answered
        question = (GEN_CALL, (self.pid, reference), (IS_AUTH, self.node))
        return control.reg_send(self.pid, NET_KERNEL, question, agreed)

    def forget(self, reference: Reference) -> None:
        """No longer wait for the answer to a question."""
        self._waiting.pop(reference, None)

    def goodbye(self, agreed: Flag = PLAIN) -> bytes:
        """Tell a peer that this node is leaving."""
        return control.reg_send(self.pid, GOODBYE_NAME, (LEAVING, self.node), agreed)

    def answer(self, peer: NodeName, message: control.Message, agreed: Flag = PLAIN) -> list[bytes]:
        """What is owed for one message, as bodies for the connection that it came on.

        ``agreed`` is what both ends of that connection can do.
        """
        match message:
            case control.RegSend(to=name, payload=payload):
                return self._to_name(peer, name, payload, agreed)
            case control.Send(to=to, payload=payload):
                self._to_pid(to, payload)
                return []
        return []

    def exists(self, target: object) -> bool:
        """Whether a pid or a registered name is one that the node answers for itself."""
        return target == self.pid or (isinstance(target, Atom) and target in _REGISTERED)

    def _to_pid(self, to: object, payload: Any) -> None:
        if to != self.pid:
            return  # another incarnation's, or nobody's: a message to a dead process is dropped
        match payload:
            case (Reference() as reference, Atom("yes")) if reference in self._waiting:
                self._waiting[reference]()

    def _to_name(self, peer: NodeName, name: Atom, payload: Any, agreed: Flag) -> list[bytes]:
        match payload:
            case (Atom("$gen_call"), (Pid() as caller, tag), request):
                reply = self._call(name, request)
                return [] if reply is None else [_reply(self.pid, caller, tag, reply, agreed)]
            case (Atom("$gen_cast"), request) if name == GLOBAL_NAME_SERVER:
                return self._cast_to_global(peer, request, agreed)
        return []

    def _call(self, name: Atom, request: Any) -> Any:
        if name == NET_KERNEL:
            match request:
                case (Atom("is_auth"), _):
                    return YES
            return (Atom("error"), NOTSUP)
        if name == GLOBAL_NAME_SERVER:
            match request:
                # We know no names and hold no locks, so nobody's lock is ever in our way.
                case (Atom("set_lock" | "del_lock"), *_):
                    return True
            return Atom("ok")
        return None  # who calls a name that does not exist has learnt so from its monitor

    def _cast_to_global(self, peer: NodeName, request: Any, agreed: Flag) -> list[bytes]:
        # `in_sync` is all that `global:sync` waits for. It makes us no part of the peers' name
        # tables, so their overlapping partitions' watch never counts us ("global", OTP).
        match request:
            case (Atom("init_connect"), *_):
                pass
            case (Atom("in_sync"), Atom(), _) if peer not in self._synced:
                pass
            case _:
                return []
        self._synced.add(peer)
        return [
            control.reg_send(
                self.pid,
                GLOBAL_NAME_SERVER,
                (GEN_CAST, (Atom("in_sync"), self.node, True)),
                agreed,
            )
        ]

    def peer_gone(self, peer: NodeName) -> None:
        """Forget what was agreed with a peer whose connection ended."""
        self._synced.discard(peer)


def _reply(sender: Pid, caller: Pid, tag: Any, reply: Any, agreed: Flag) -> bytes:
    answer = reply_to(sender, caller, tag, reply)
    if isinstance(answer, control.AliasSend):
        return control.alias_send(sender, answer.to, answer.payload, agreed)
    return control.send(sender, caller, answer.payload, agreed)
