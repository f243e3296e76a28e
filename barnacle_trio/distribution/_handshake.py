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
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal, NoReturn, TypeAlias

from barnacle_trio._errors import (
    ConnectError,
    CookieRejected,
    HandshakeRefused,
    PeerUnreachable,
    RemoteProtocolError,
)
from barnacle_trio._names import NodeName, shorten
from barnacle_trio.distribution._challenges import ChallengeBook, digest, digest_matches
from barnacle_trio.distribution._flags import Flag, known, missing_flags

MAX_MESSAGE = 1024  # bytes; the longest that is of use has 274, a name and what goes with it
_NAME = struct.Struct(">cQIH")  # tag, flags, creation, length of the name
_CHALLENGE = struct.Struct(">cQIIH")  # tag, flags, challenge, creation, length of the name
_REPLY = struct.Struct(">cI16s")  # tag, challenge, digest
_ACK = struct.Struct(">c16s")  # tag, digest
_HOST_ONLY = re.compile(rb"[!-?A-~]*")  # a request for a dynamic name has no '@'


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
        super().__init__(f"{dialled} was dialled, but {name} answered")
        self.name = name


class ReflectedChallenge(HandshakeRefused):
    """The peer handed us a challenge of our own to answer: an attack, not an accident."""


class _State(Enum):
    NEW = auto()
    AWAIT_STATUS = auto()
    ASKED_ALIVE = auto()  # our turn
    AWAIT_CHALLENGE = auto()
    AWAIT_ACK = auto()
    AWAIT_NAME = auto()
    DECIDING = auto()  # our turn
    AWAIT_ALIVE = auto()
    AWAIT_REPLY = auto()
    DONE = auto()
    OVER = auto()


_OUR_TURN = frozenset({_State.NEW, _State.ASKED_ALIVE, _State.DECIDING})
_ENDED = frozenset({_State.DONE, _State.OVER})

# What strangers say first, by the two bytes that would be the length of a message.
_STRANGERS = {
    b"GE": "HTTP",
    b"PO": "HTTP",
    b"PU": "HTTP",
    b"HE": "HTTP",
    b"OP": "HTTP",
    b"PR": "HTTP/2",
    b"HT": "HTTP",
    b"SS": "SSH",
    b"\x16\x03": "TLS",
    b"\x15\x03": "TLS",
}


class _Machine:
    """What both roles share: framing, the state, the challenge of ours, and ending for good."""

    def __init__(
        self, local: Identity, challenges: ChallengeBook, state: _State, header: int
    ) -> None:
        if header not in (2, 4):
            raise ValueError(f"messages have a length of 2 or 4 bytes, not {header}")
        self.peer: Identity | None = None
        self._local = local
        self._challenges = challenges
        self._state = state
        self._header = header
        self._buffer = bytearray()
        self._cookie: bytes | None = None
        self._challenge: int | None = None

    def receive(self, data: bytes) -> list[Event]:
        """Take any slice of what the peer sent; returns what follows from it, in order.

        Raises:
          BarnacleError: the handshake failed, see the class. The machine is of no more use.
          RuntimeError: it had ended before.
        """
        self._require_running()
        events: list[Event] = []
        self._buffer += data
        try:
            while self._buffer and self._state not in _ENDED:
                if self._state in _OUR_TURN:
                    raise RemoteProtocolError("the peer spoke out of turn")
                message = self._cut_message()
                if message is None:
                    break
                events.extend(self._handle(message))
        except BaseException:
            self.close()
            raise
        return events

    def eof(self) -> NoReturn:
        """The peer closed its end.

        Raises:
          ConnectError: what that means in this state, see the class.
          RuntimeError: the handshake had ended before.
        """
        self._require_running()
        error = self._meaning_of_eof()
        self.close()
        raise error

    def close(self) -> None:
        """End the handshake, wherever it stands; its challenge is no longer pending. Idempotent.

        To be called on every way out (a deadline, a cancellation): the other ends call it alone.
        """
        if self._challenge is not None:
            self._challenges.retire(self._challenge)
            self._challenge = None
        self._cookie = None
        self._buffer.clear()
        if self._state is not _State.DONE:
            self._state = _State.OVER

    def _handle(self, message: bytes) -> Iterator[Event]:
        raise NotImplementedError

    def _meaning_of_eof(self) -> ConnectError:
        raise NotImplementedError

    def _cut_message(self) -> bytes | None:
        buffer, header = self._buffer, self._header
        if len(buffer) < header:
            return None
        size = int.from_bytes(buffer[:header])
        if size == 0:
            raise RemoteProtocolError("an empty handshake message")
        if size > MAX_MESSAGE:
            stranger = _STRANGERS.get(bytes(buffer[:2]))
            guess = f"; the peer seems to speak {stranger}" if stranger else ""
            raise RemoteProtocolError(
                f"a handshake message of {size} bytes was announced, "
                f"the limit is {MAX_MESSAGE}{guess}"
            )
        if len(buffer) < header + size:
            return None
        message = bytes(buffer[header : header + size])
        del buffer[: header + size]
        return message

    def _message(self, body: bytes) -> bytes:
        return len(body).to_bytes(self._header) + body

    def _status(self, text: str) -> bytes:
        return self._message(b"s" + text.encode("ascii"))

    def _issue(self) -> int:
        self._challenge = self._challenges.issue()
        return self._challenge

    def _answer(self, challenge: int) -> bytes:
        """The digest for a peer's challenge, unless that one is ours.

        The cookie's digest says nothing of name, role or direction: a challenge of our own that
        comes back is answered by nobody who knows the cookie but us.
        """
        if self._challenges.is_ours(challenge):
            raise ReflectedChallenge("the peer offered a challenge that this node itself issued")
        self._challenges.note_answered(challenge)
        return digest(self._known_cookie(), challenge)

    def _is_right(self, theirs: bytes) -> bool:
        assert self._challenge is not None  # noqa: S101 - the state says so
        return digest_matches(self._known_cookie(), self._challenge, theirs)

    def _known_cookie(self) -> bytes:
        assert self._cookie is not None  # noqa: S101 - the state says so
        return self._cookie

    def _done(self) -> Done:
        assert self.peer is not None  # noqa: S101 - the state says so
        leftover = bytes(self._buffer)
        self._state = _State.DONE
        self.close()
        agreed = known(self._local.flags) & known(self.peer.flags)
        return Done(self.peer, leftover, agreed)

    def _require(self, state: _State, call: str) -> None:
        self._require_running()
        if self._state is not state:
            raise RuntimeError(f"{call} does not belong here: the handshake is in {self._state}")

    def _require_running(self) -> None:
        if self._state in _ENDED:
            raise RuntimeError("this handshake has ended; use a new machine for a new connection")


class Initiator(_Machine):
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
        super().__init__(local, challenges, _State.NEW, header)
        self._dialled = peer
        self._cookie = cookie

    def begin(self) -> bytes:
        """The first bytes to send: our name."""
        self._require(_State.NEW, "begin()")
        self._state = _State.AWAIT_STATUS
        local = self._local
        name = local.name.encode("ascii")
        return self._message(_NAME.pack(b"N", local.flags, local.creation, len(name)) + name)

    def answer_alive(self, steal: bool) -> bytes:
        """Answer `AliveAsked`: take the place of the old connection, or give up (and close)."""
        self._require(_State.ASKED_ALIVE, "answer_alive()")
        if steal:
            self._state = _State.AWAIT_CHALLENGE
            return self._status("true")
        self.close()
        return self._status("false")

    def _handle(self, message: bytes) -> Iterator[Event]:
        match self._state:
            case _State.AWAIT_STATUS:
                yield self._read_status(message)
            case _State.AWAIT_CHALLENGE:
                yield self._read_challenge(message)
            case _:
                yield self._read_ack(message)

    def _read_status(self, message: bytes) -> Event:
        match message:
            case b"sok":
                self._state = _State.AWAIT_CHALLENGE
                return StatusReceived("ok")
            case b"sok_simultaneous":
                self._state = _State.AWAIT_CHALLENGE
                return StatusReceived("ok_simultaneous")
            case b"salive":
                self._state = _State.ASKED_ALIVE
                return AliveAsked()
            case b"snok":
                raise HandshakeNok(f"{self._dialled} is dialling this node itself")
            case b"snot_allowed":
                raise HandshakeRefused(f"{self._dialled} does not allow this node to connect")
        if message.startswith(b"s"):
            raise RemoteProtocolError(f"unknown status {_show(message[1:])}")
        raise RemoteProtocolError(f"a status was due, not {_show(message)}")

    def _read_challenge(self, message: bytes) -> Event:
        if message.startswith(b"n"):
            raise RemoteProtocolError("the peer answers with the handshake of before OTP 23")
        if len(message) < _CHALLENGE.size or not message.startswith(b"N"):
            raise RemoteProtocolError(f"a challenge was due, not {_show(message)}")
        _, flags, challenge, creation, size = _CHALLENGE.unpack_from(message)
        name = _read_name(message[_CHALLENGE.size :], size)
        if name != self._dialled:
            raise WrongNode(self._dialled, name)
        self.peer = Identity(name, flags, creation)
        _check_flags(self.peer)
        answer = self._answer(challenge)
        self._state = _State.AWAIT_ACK
        return Send(self._message(_REPLY.pack(b"r", self._issue(), answer)))

    def _read_ack(self, message: bytes) -> Event:
        if len(message) != _ACK.size or not message.startswith(b"a"):
            raise RemoteProtocolError(f"an acknowledgement was due, not {_show(message)}")
        if not self._is_right(_ACK.unpack(message)[1]):
            raise CookieRejected(f"{self._dialled} does not know the cookie")
        return self._done()

    def _meaning_of_eof(self) -> ConnectError:
        if not self._buffer:
            if self._state is _State.AWAIT_STATUS:
                return HandshakeNok(f"{self._dialled} closed upon this node's name")
            if self._state is _State.AWAIT_ACK:
                return CookieRejected(
                    f"{self._dialled} closed upon this node's proof: most likely another cookie"
                )
        return PeerUnreachable(f"{self._dialled} closed in the middle of the handshake")


class Acceptor(_Machine):
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
        super().__init__(local, challenges, _State.AWAIT_NAME, header)
        self.farewell = b""

    def accept(self, cookie: bytes, *, simultaneous: bool = False) -> bytes:
        """Go on: the status (``simultaneous``: our own attempt is given up) and a challenge."""
        self._decide("accept()", cookie)
        self._state = _State.AWAIT_REPLY
        return self._status("ok_simultaneous" if simultaneous else "ok") + self._challenge_message()

    def ask_alive(self, cookie: bytes) -> bytes:
        """Ask whether the peer lost the connection that is up here; see `AliveAnswered`."""
        self._decide("ask_alive()", cookie)
        self._state = _State.AWAIT_ALIVE
        return self._status("alive")

    def refuse(self, status: Literal["nok", "not_allowed"]) -> bytes:
        """End the handshake: ``nok`` says that our own attempt goes on. Send it, then close."""
        self._require(_State.DECIDING, "refuse()")
        self.close()
        return self._status(status)

    def _decide(self, call: str, cookie: bytes) -> None:
        self._require(_State.DECIDING, call)
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
            case _State.AWAIT_NAME:
                yield self._read_name(message)
            case _State.AWAIT_ALIVE:
                yield from self._read_alive(message)
            case _:
                yield from self._read_reply(message)

    def _read_name(self, message: bytes) -> Event:
        if message.startswith(b"n"):
            raise RemoteProtocolError("the peer opens with the handshake of before OTP 23")
        if len(message) < _NAME.size or not message.startswith(b"N"):
            raise RemoteProtocolError(f"a name was due, not {_show(message)}")
        _, flags, creation, size = _NAME.unpack_from(message)
        text = message[_NAME.size :]
        if flags & Flag.NAME_ME and _HOST_ONLY.fullmatch(text[:size]):
            self.farewell = self._status("not_allowed")
            raise RemoteProtocolError("the peer asks for a dynamic name, which is not given here")
        self.peer = Identity(_read_name(text, size), flags, creation)
        try:
            _check_flags(self.peer)
        except HandshakeRefused:
            self.farewell = self._status("not_allowed")
            raise
        self._state = _State.DECIDING
        return NameReceived(self.peer)

    def _read_alive(self, message: bytes) -> Iterator[Event]:
        match message:
            case b"strue":
                self._state = _State.AWAIT_REPLY
                yield AliveAnswered(True)
                yield Send(self._challenge_message())
            case b"sfalse":
                self.close()
                yield AliveAnswered(False)
            case _:
                raise RemoteProtocolError(f"true or false was due, not {_show(message)}")

    def _read_reply(self, message: bytes) -> Iterator[Event]:
        if len(message) != _REPLY.size or not message.startswith(b"r"):
            raise RemoteProtocolError(f"a challenge reply was due, not {_show(message)}")
        _, challenge, proof = _REPLY.unpack(message)
        # Our own proof is given last, and only to who has proven the cookie: an answer given
        # earlier could be carried to another connection of ours.
        if not self._is_right(proof):
            raise CookieRejected(f"{self._who()} does not know the cookie")
        yield Send(self._message(_ACK.pack(b"a", self._answer(challenge))))
        yield self._done()

    def _meaning_of_eof(self) -> ConnectError:
        match self._state:
            case _State.AWAIT_NAME:
                return PeerUnreachable("the peer closed before it gave its name")
            case _State.AWAIT_REPLY:
                return PeerUnreachable(f"{self._who()} closed upon this node's challenge")
            case _:
                return PeerUnreachable(f"{self._who()} closed in the middle of the handshake")

    def _who(self) -> str:
        return str(self.peer.name) if self.peer is not None else "the peer"


def _read_name(rest: bytes, size: int) -> NodeName:
    # What follows the name is left to later versions of the protocol, as OTP leaves it.
    if size > len(rest):
        raise RemoteProtocolError(f"a name of {size} bytes was announced, {len(rest)} came")
    try:
        return NodeName(rest[:size].decode("ascii"))
    except UnicodeDecodeError:
        reason = f"{_show(rest[:size])} is not a node name: it is not ASCII"
    except ValueError as error:
        reason = str(error)
    raise RemoteProtocolError(reason)


def _check_flags(peer: Identity) -> None:
    lacking = missing_flags(peer.flags)
    if lacking:
        raise HandshakeRefused(f"{peer.name} is too old, it lacks {', '.join(lacking)}")


def _show(message: bytes) -> str:
    return shorten(message.decode("latin-1"), 40)
