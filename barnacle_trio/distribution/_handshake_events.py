"""What comes out of a handshake: who the peer is, what is to be done, and what went wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from barnacle_trio._errors import ConnectError, HandshakeRefused, PeerUnreachable
from barnacle_trio._names import NodeName
from barnacle_trio.distribution._flags import Flag


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a node says it is. ``flags`` is its own word, with bits that nobody here knows."""

    name: NodeName
    flags: int
    creation: int


@dataclass(frozen=True, slots=True)
class Send:
    """These bytes go to the peer."""

    data: bytes


@dataclass(frozen=True, slots=True)
class StatusReceived:
    """The acceptor goes on; ``ok_simultaneous``: it gave up its own attempt to dial us."""

    status: Literal["ok", "ok_simultaneous"]


@dataclass(frozen=True, slots=True)
class AliveAsked:
    """The acceptor has a connection to our name; `Initiator.answer_alive` says what to do."""


@dataclass(frozen=True, slots=True)
class NameReceived:
    """Somebody says that it is ``peer``, unproven. One of the `Acceptor`'s answers is due."""

    peer: Identity


@dataclass(frozen=True, slots=True)
class AliveAnswered:
    """``genuine``: the peer lost its old connection, and goes on. Else the handshake is over.

    Nothing is proven yet: the old connection stays up until `Done`.
    """

    genuine: bool


@dataclass(frozen=True, slots=True)
class Done:
    """Both sides have proven the cookie.

    ``agreed``: what both can do. ``leftover``: bytes that belong to the connection's frames.
    """

    peer: Identity
    leftover: bytes
    agreed: Flag


Event: TypeAlias = Send | StatusReceived | AliveAsked | NameReceived | AliveAnswered | Done


class HandshakeNok(ConnectError):
    """The acceptor is dialling us itself: wait shortly for it, then dial again. No failure."""


class WrongNode(PeerUnreachable):
    """Another node, ``name``, answers where we dialled."""

    def __init__(self, dialled: NodeName, name: NodeName) -> None:
        super().__init__(dialled, name)
        self.dialled = dialled
        self.name = name

    def __str__(self) -> str:
        return f"{self.dialled} was dialled, but {self.name} answered"


class ReflectedChallenge(HandshakeRefused):
    """The peer handed us a challenge of our own to answer: an attack, not an accident."""
