"""The handshake between two nodes, as two state machines: bytes in, bytes and events out.

Source: OTP's "Distribution Protocol", section "Distribution Handshake", in the form that every
OTP since 23 speaks (version 6). The older one is declined: OTP 25.0 to 25.2 cannot speak it either.

The machines are half-duplex, as the handshake is: where it is our turn to speak, a peer that has
spoken already is refused. Nothing here, and nothing that is reachable from here, reads a frame of
the distribution: bytes beyond the handshake come out of `Done`, after the digest was verified.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Literal

from barnacle_trio._errors import (
    ConnectError,
    CookieRejected,
    HandshakeRefused,
    PeerUnreachable,
    RemoteProtocolError,
)
from barnacle_trio._names import NodeName
from barnacle_trio.distribution._challenges import ChallengeBook
from barnacle_trio.distribution._flags import Flag
from barnacle_trio.distribution._handshake_base import Machine, State, check_flags, read_name, show
from barnacle_trio.distribution._handshake_events import (
    AliveAnswered,
    AliveAsked,
    Done,
    Event,
    HandshakeNok,
    Identity,
    NameReceived,
    ReflectedChallenge,
    Send,
    StatusReceived,
    WrongNode,
)

__all__ = [
    "Acceptor",
    "AliveAnswered",
    "AliveAsked",
    "Done",
    "Event",
    "HandshakeNok",
    "Identity",
    "Initiator",
    "NameReceived",
    "ReflectedChallenge",
    "Send",
    "StatusReceived",
    "WrongNode",
]

_NAME = struct.Struct(">cQIH")  # tag, flags, creation, length of the name
_CHALLENGE = struct.Struct(">cQIIH")  # tag, flags, challenge, creation, length of the name
_REPLY = struct.Struct(">cI16s")  # tag, challenge, digest
_ACK = struct.Struct(">c16s")  # tag, digest
_HOST_ONLY = re.compile(rb"[!-?A-~]*")  # a request for a dynamic name has no '@'


class Initiator(Machine):
    """The side that dialled. ``begin``, then ``receive`` what comes, until `Done` or an error.

    ``header``: bytes of a message's length; 2, or 4 inside TLS. ``.peer`` is who the acceptor says
    it is, None before its challenge was read; it is proven by `Done` alone.

    Errors of ``receive`` and ``eof``:
      HandshakeNok: status ``nok``, or the peer closed right after our name.
      HandshakeRefused: status ``not_allowed``, or the peer cannot do what we need.
      ReflectedChallenge: the challenge offered to us is our own.
      CookieRejected: the proof is wrong, or the peer closed upon ours.
      WrongNode: another node answers there.
      PeerUnreachable: the peer closed anywhere else.
      RemoteProtocolError: whatever is not in the protocol.
    """

    def __init__(
        self,
        local: Identity,
        peer: NodeName,
        cookie: bytes,
        challenges: ChallengeBook,
        *,
        header: int = 2,
    ) -> None:
        super().__init__(local, challenges, State.NEW, header)
        self._dialled = peer
        self._cookie = cookie

    def begin(self) -> bytes:
        """The first bytes to send: our name."""
        self._require(State.NEW, "begin()")
        self._state = State.AWAIT_STATUS
        local = self._local
        name = local.name.encode("ascii")
        return self._message(_NAME.pack(b"N", local.flags, local.creation, len(name)) + name)

    def answer_alive(self, steal: bool) -> bytes:
        """Answer `AliveAsked`: take the place of the old connection, or give up (and close)."""
        self._require(State.ASKED_ALIVE, "answer_alive()")
        if steal:
            self._state = State.AWAIT_CHALLENGE
            return self._status("true")
        self.close()
        return self._status("false")

    def _handle(self, message: bytes) -> Iterator[Event]:
        match self._state:
            case State.AWAIT_STATUS:
                yield self._read_status(message)
            case State.AWAIT_CHALLENGE:
                yield self._read_challenge(message)
            case _:
                yield self._read_ack(message)

    def _read_status(self, message: bytes) -> Event:
        match message:
            case b"sok":
                self._state = State.AWAIT_CHALLENGE
                return StatusReceived("ok")
            case b"sok_simultaneous":
                self._state = State.AWAIT_CHALLENGE
                return StatusReceived("ok_simultaneous")
            case b"salive":
                self._state = State.ASKED_ALIVE
                return AliveAsked()
            case b"snok":
                raise HandshakeNok(f"{self._dialled} is dialling this node itself")
            case b"snot_allowed":
                raise HandshakeRefused(f"{self._dialled} does not allow this node to connect")
        if message.startswith(b"s"):
            raise RemoteProtocolError(f"unknown status {show(message[1:])}")
        raise RemoteProtocolError(f"a status was due, not {show(message)}")

    def _read_challenge(self, message: bytes) -> Event:
        if message.startswith(b"n"):
            raise RemoteProtocolError("the peer answers with the handshake of before OTP 23")
        if len(message) < _CHALLENGE.size or not message.startswith(b"N"):
            raise RemoteProtocolError(f"a challenge was due, not {show(message)}")
        _, flags, challenge, creation, size = _CHALLENGE.unpack_from(message)
        name = read_name(message[_CHALLENGE.size :], size)
        if name != self._dialled:
            raise WrongNode(self._dialled, name)
        self.peer = Identity(name, flags, creation)
        check_flags(self.peer)
        answer = self._answer(challenge)
        self._state = State.AWAIT_ACK
        return Send(self._message(_REPLY.pack(b"r", self._issue(), answer)))

    def _read_ack(self, message: bytes) -> Event:
        if len(message) != _ACK.size or not message.startswith(b"a"):
            raise RemoteProtocolError(f"an acknowledgement was due, not {show(message)}")
        if not self._is_right(_ACK.unpack(message)[1]):
            raise CookieRejected(f"{self._dialled} does not know the cookie")
        return self._done()

    def _meaning_of_eof(self) -> ConnectError:
        if not self._buffer:
            if self._state is State.AWAIT_STATUS:
                return HandshakeNok(f"{self._dialled} closed without answering")
            if self._state is State.AWAIT_ACK:
                return CookieRejected(
                    f"{self._dialled} closed upon this node's proof: most likely another cookie"
                )
        return PeerUnreachable(f"{self._dialled} closed in the middle of the handshake")


class Acceptor(Machine):
    """The side that was dialled. ``receive`` until `NameReceived`, answer it, ``receive`` on.

    `NameReceived` is answered by exactly one of ``accept``, ``ask_alive`` and ``refuse``. The bytes
    to send come back from those calls and as `Send`. ``.peer`` is who the peer says it is.

    After an error ``.farewell`` holds what a peer that merely cannot be served is told before its
    connection is closed; it is empty for all others.

    Errors of ``receive`` and ``eof``:
      HandshakeRefused: the peer cannot do what we need (``farewell`` is ``not_allowed``).
      ReflectedChallenge: the challenge offered to us is our own.
      CookieRejected: the peer does not know the cookie.
      PeerUnreachable: the peer closed.
      RemoteProtocolError: whatever is not in the protocol, and a request for a dynamic name.
    """

    def __init__(self, local: Identity, challenges: ChallengeBook, *, header: int = 2) -> None:
        super().__init__(local, challenges, State.AWAIT_NAME, header)
        self.farewell = b""

    def accept(self, cookie: bytes, *, simultaneous: bool = False) -> bytes:
        """Go on: the status (``simultaneous``: our own attempt is given up) and a challenge."""
        self._decide("accept()", cookie)
        self._state = State.AWAIT_REPLY
        return self._status("ok_simultaneous" if simultaneous else "ok") + self._challenge_message()

    def ask_alive(self, cookie: bytes) -> bytes:
        """Ask whether the peer lost the connection that is up here; see `AliveAnswered`."""
        self._decide("ask_alive()", cookie)
        self._state = State.AWAIT_ALIVE
        return self._status("alive")

    def refuse(self, status: Literal["nok", "not_allowed"]) -> bytes:
        """End the handshake: ``nok`` says that our own attempt goes on. Send it, then close."""
        self._require(State.DECIDING, "refuse()")
        self.close()
        return self._status(status)

    def _decide(self, call: str, cookie: bytes) -> None:
        self._require(State.DECIDING, call)
        if self.peer is not None and self.peer.name == self._local.name:
            raise RuntimeError("a peer that bears our own name is answered by refuse('nok')")
        self._cookie = cookie

    def _challenge_message(self) -> bytes:
        local = self._local
        name = local.name.encode("ascii")
        body = _CHALLENGE.pack(b"N", local.flags, self._issue(), local.creation, len(name))
        return self._message(body + name)

    def _handle(self, message: bytes) -> Iterator[Event]:
        match self._state:
            case State.AWAIT_NAME:
                yield self._read_name(message)
            case State.AWAIT_ALIVE:
                yield from self._read_alive(message)
            case _:
                yield from self._read_reply(message)

    def _read_name(self, message: bytes) -> Event:
        if message.startswith(b"n"):
            raise RemoteProtocolError("the peer opens with the handshake of before OTP 23")
        if len(message) < _NAME.size or not message.startswith(b"N"):
            raise RemoteProtocolError(f"a name was due, not {show(message)}")
        _, flags, creation, size = _NAME.unpack_from(message)
        text = message[_NAME.size :]
        if flags & Flag.NAME_ME and _HOST_ONLY.fullmatch(text[:size]):
            self.farewell = self._status("not_allowed")
            raise RemoteProtocolError("the peer asks for a dynamic name, which is not given here")
        self.peer = Identity(read_name(text, size), flags, creation)
        try:
            check_flags(self.peer)
        except HandshakeRefused:
            self.farewell = self._status("not_allowed")
            raise
        self._state = State.DECIDING
        return NameReceived(self.peer)

    def _read_alive(self, message: bytes) -> Iterator[Event]:
        match message:
            case b"strue":
                self._state = State.AWAIT_REPLY
                yield AliveAnswered(True)
                yield Send(self._challenge_message())
            case b"sfalse":
                self.close()
                yield AliveAnswered(False)
            case _:
                raise RemoteProtocolError(f"true or false was due, not {show(message)}")

    def _read_reply(self, message: bytes) -> Iterator[Event]:
        if len(message) != _REPLY.size or not message.startswith(b"r"):
            raise RemoteProtocolError(f"a challenge reply was due, not {show(message)}")
        _, challenge, proof = _REPLY.unpack(message)
        # Our own proof is given last, and only to who has proven the cookie: an answer given
        # earlier could be carried to another connection of ours.
        if not self._is_right(proof):
            raise CookieRejected(f"{self._who()} does not know the cookie")
        yield Send(self._message(_ACK.pack(b"a", self._answer(challenge))))
        yield self._done()

    def _meaning_of_eof(self) -> ConnectError:
        match self._state:
            case State.AWAIT_NAME:
                return PeerUnreachable("the peer closed before it gave its name")
            case State.AWAIT_REPLY:
                return PeerUnreachable(f"{self._who()} closed upon this node's challenge")
            case _:
                return PeerUnreachable(f"{self._who()} closed in the middle of the handshake")

    def _who(self) -> str:
        return str(self.peer.name) if self.peer is not None else "the peer"
