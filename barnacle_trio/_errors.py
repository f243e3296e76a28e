"""What can go wrong, sorted by what the reader can do about it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable


class BarnacleError(Exception):
    """The root of everything that this library raises on its own account."""


class ConfigurationError(BarnacleError, ValueError):
    """A call or a setting cannot work as written. Retrying will not help; fix the call."""


class DiscoveryError(BarnacleError):
    """A strategy could not give a complete answer. The barnacle tries again.

    Args:
      reason: one line for people.
      partial: the nodes that are known all the same. None means that the answer failed as a
        whole; an iterable, even an empty one, makes it a partial answer: its nodes are dialled
        and nobody is pruned because of it.
    """

    def __init__(self, reason: str, *, partial: Iterable[str] | None = None) -> None:
        if isinstance(partial, str):
            raise TypeError("partial is an iterable of node names, not one name")
        super().__init__(reason)
        self.reason = reason
        self.partial: frozenset[str] | None = None if partial is None else frozenset(partial)


class ConnectError(BarnacleError):
    """A peer could not be connected. See the two kinds below."""


class PeerUnreachable(ConnectError):
    """No port mapper, no such name, nobody listening, no answer in time. Worth a retry.

    To who sends a message it also stands for a peer that answers, but not as a node does.
    """


class HandshakeRefused(ConnectError):
    """The peer, or this node, declined the connection. Retrying does not mend it.

    ``location`` is what would change if the peer were set up anew (its port, say), where the
    transport knows it: a quarantine ends when it changes.
    """

    def __init__(self, reason: str, *, location: Hashable = None) -> None:
        super().__init__(reason)
        self.location = location


class CookieRejected(HandshakeRefused):
    """The two nodes do not share a cookie. The message never holds one."""


class NameTakenError(HandshakeRefused):
    """Another live node bears the name. Give one of the two another one."""


class DisconnectError(BarnacleError):
    """A connection could not be closed as asked."""


class RemoteProtocolError(BarnacleError):
    """A peer sent what the protocol does not allow. Its connection is closed."""


class ProcessDown(BarnacleError):
    """A process that was called does not exist, or ended before it answered.

    ``reason`` is an Erlang term: ``noproc``, ``noconnection``, or what it ended with.
    """

    def __init__(self, reason: object) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the process is down: {self.reason!r}"


class ProcessExit(BarnacleError):
    """This process was made to end, by a link or by another process; ``reason`` says why.

    Raised by a handler or a mailbox's block it ends the process with that reason.
    """

    def __init__(self, reason: object) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the process exits: {self.reason!r}"


class RemoteError(BarnacleError):
    """A remote call raised.

    ``kind`` is its class, ``"error"``, ``"exit"`` or ``"throw"``; ``reason`` an Erlang term;
    ``stack`` the remote stack (a list of terms), empty where there is none.
    """

    def __init__(self, kind: str, reason: object, stack: object = ()) -> None:
        super().__init__(kind, reason, stack)
        self.kind = kind
        self.reason = reason
        self.stack = stack

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason!r}"


class BarnaclePaused(BarnacleError):
    """The round that was waited for was cancelled by `Barnacle.pause`."""


class BarnacleCrashed(BarnacleError):
    """A supervised task failed more often than its restart policy allows; the cause is inside."""


class NodeCrashed(BarnacleError):
    """A background task of a node failed for good; the cause is inside."""
