"""What both roles of the handshake share: messages, the state, our challenge, a definite end."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto
from typing import NoReturn

from barnacle_trio._errors import ConnectError, HandshakeRefused, RemoteProtocolError
from barnacle_trio._names import NodeName, shorten
from barnacle_trio.distribution._challenges import ChallengeBook, digest, digest_matches
from barnacle_trio.distribution._flags import known, missing_flags
from barnacle_trio.distribution._handshake_events import Done, Event, Identity, ReflectedChallenge

MAX_MESSAGE = 1024  # bytes; the longest that is of use has 274, a name and what goes with it


class State(Enum):
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


OUR_TURN = frozenset({State.NEW, State.ASKED_ALIVE, State.DECIDING})
ENDED = frozenset({State.DONE, State.OVER})

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


class Machine:
    """What both roles share: framing, the state, the challenge of ours, and ending for good."""

    def __init__(
        self, local: Identity, challenges: ChallengeBook, state: State, header: int
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
            while self._buffer and self._state not in ENDED:
                if self._state in OUR_TURN:
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
        if self._state is not State.DONE:
            self._state = State.OVER

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
            if stranger == "TLS":
                guess += ", which this node was not told to (tls=)"
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
        self._state = State.DONE
        self.close()
        agreed = known(self._local.flags) & known(self.peer.flags)
        return Done(self.peer, leftover, agreed)

    def _require(self, state: State, call: str) -> None:
        self._require_running()
        if self._state is not state:
            raise RuntimeError(
                f"{call} does not belong here: the handshake is at {self._state.name}"
            )

    def _require_running(self) -> None:
        if self._state in ENDED:
            raise RuntimeError("this handshake has ended; use a new machine for a new connection")


def read_name(rest: bytes, size: int) -> NodeName:
    # What follows the name is left to later versions of the protocol, as OTP leaves it.
    if size > len(rest):
        raise RemoteProtocolError(f"a name of {size} bytes was announced, {len(rest)} came")
    try:
        return NodeName(rest[:size].decode("ascii"))
    except UnicodeDecodeError:
        reason = f"{show(rest[:size])} is not a node name: it is not ASCII"
    except ValueError as error:
        reason = str(error)
    raise RemoteProtocolError(reason)


def check_flags(peer: Identity) -> None:
    lacking = missing_flags(peer.flags)
    if lacking:
        raise HandshakeRefused(f"{peer.name} is too old, it lacks {', '.join(lacking)}")


def show(message: bytes) -> str:
    return shorten(message.decode("latin-1"), 40)
