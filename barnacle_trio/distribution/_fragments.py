"""Large messages in pieces, so that small ones get between them.

Source: OTP's "Distribution Protocol", section "Distribution Header for Fragmented Messages". Knows
nothing of sockets. Which messages may pass which is the affair of `_lanes`.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterable
from struct import Struct
from typing import Any

from barnacle_trio._errors import RemoteProtocolError
from barnacle_trio.distribution._control_in import Control, complete, parse_control
from barnacle_trio.distribution._messages import Message, Unread
from barnacle_trio.etf import DecodeError, Limits
from barnacle_trio.etf._decode import decode_bare
from barnacle_trio.etf._errors import BeyondLimits

FRAGMENT = 64 * 1024
"""Bytes of a message above which it is cut, and of each piece. As OTP cuts."""
MAX_UNFINISHED = 1024
"""Messages of one peer that may be on their way in pieces at once."""
MAX_UNFINISHED_SHARE = 4
"""What they may hold together, as a multiple of the largest message."""

_FIRST = 0x45
_NEXT = 0x46
_HEAD = Struct(">IBBQQ")  # length of the frame, version, kind, sequence, pieces still to come
_HEAD_BODY = _HEAD.size - 4
_IDS = Struct(">QQ")
_BINARY = 109
_BINARY_SIZE = Struct(">I")


def is_fragment(body: bytes) -> bool:
    """Whether a frame holds a piece of a message."""
    return body[1:2] in (b"E", b"F") and body[0] == 131


class Transfer:
    """A large message on its way out. ``len()`` is the size of its next frame.

    Args:
      sequence: tells the message from others that are on their way.
      parts: its body. The first begins with a distribution header that refers to no atoms; the
        control term ends within the first `FRAGMENT` bytes.
    """

    __slots__ = ("_kind", "_parts", "_pieces", "_sequence", "left")

    def __init__(self, sequence: int, parts: Iterable[bytes]) -> None:
        self._sequence = sequence
        self._parts = deque(memoryview(part) for part in parts)
        self._parts[0] = self._parts[0][2:]  # from the number of atoms on
        self.left = sum(map(len, self._parts))  # bytes, without those of the frames
        self._pieces = -(-self.left // FRAGMENT)
        self._kind = _FIRST

    def __len__(self) -> int:
        return _HEAD.size + min(self.left, FRAGMENT)

    def next(self) -> bytes:
        """The next frame. The control term is wholly in the first."""
        size = missing = min(self.left, FRAGMENT)
        frame: list[bytes | memoryview] = [
            _HEAD.pack(_HEAD_BODY + size, 131, self._kind, self._sequence, self._pieces)
        ]
        while missing:
            part = self._parts.popleft()
            if len(part) > missing:
                self._parts.appendleft(part[missing:])
                part = part[:missing]
            frame.append(part)
            missing -= len(part)
        self.left -= size
        self._pieces -= 1
        self._kind = _NEXT
        return b"".join(frame)


class Reassembly:
    """Puts the messages of one peer together again.

    Args:
      limits: for each term; ``max_bytes`` bounds what is held of a message.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._unfinished: dict[int, _Assembly] = {}
        self._held = 0

    def __len__(self) -> int:
        return len(self._unfinished)

    def feed(self, body: bytes) -> tuple[Message, int] | None:
        """Take one piece. Gives the message and its size in bytes with the last one.

        Raises:
          RemoteProtocolError: a piece that does not belong here, a message beyond the limits, or
            too much on its way at once.
        """
        if len(body) < _HEAD_BODY:
            raise RemoteProtocolError("a fragment ends within its header")
        sequence, number = _IDS.unpack_from(body, 2)
        if body[1] == _FIRST:
            assembly = self._begin(body, sequence, number)
            size = assembly.begin(body)
        else:
            found = self._unfinished.get(sequence)
            if found is None:
                raise _unexpected("continues no message")
            if number != found.missing:
                raise _unexpected("is out of order")
            assembly = found
            size = assembly.add(body, _HEAD_BODY)
        self._held += size
        if assembly.size > self._limits.max_bytes:
            raise RemoteProtocolError(
                f"a message of more than {self._limits.max_bytes} bytes, in fragments"
            )
        if self._held > MAX_UNFINISHED_SHARE * self._limits.max_bytes:
            raise RemoteProtocolError(f"{self._held} bytes of unfinished messages")
        assembly.missing = number - 1
        if assembly.missing:
            self._unfinished[sequence] = assembly
            return None
        self._unfinished.pop(sequence, None)
        self._held -= assembly.size
        return complete(assembly.control, assembly.payload(self._limits)), assembly.size

    def _begin(self, body: bytes, sequence: int, number: int) -> _Assembly:
        if sequence in self._unfinished:
            raise _unexpected("begins a message that has begun")
        if not number:
            raise _unexpected("is of no number")
        if len(self._unfinished) >= MAX_UNFINISHED:
            raise RemoteProtocolError(f"more than {MAX_UNFINISHED} messages are in fragments")
        if body[_HEAD_BODY : _HEAD_BODY + 1] != b"\0":
            raise RemoteProtocolError("a fragment refers to an atom cache that was not agreed on")
        control = parse_control(body, _HEAD_BODY + 1, self._limits)
        if not control.has_payload:
            raise _unexpected("is of a control message without payload")
        return _Assembly(control)


class _Assembly:
    """One message that arrives in pieces.

    A payload that is one binary is by far the most usual among large ones: its header is taken off
    when it begins, so that what was put together is the value, and is not copied once more.
    """

    __slots__ = ("_announced", "_payload", "control", "missing", "size")

    def __init__(self, control: Control) -> None:
        self.control = control
        self.missing = 0  # pieces
        self.size = 0  # bytes
        self._payload = io.BytesIO()
        self._announced: int | None = None  # size of the binary that the payload is

    def begin(self, body: bytes) -> int:
        at = self.control.end
        if len(body) >= at + 5 and body[at] == _BINARY:
            (self._announced,) = _BINARY_SIZE.unpack_from(body, at + 1)
            self.size = 5
            return 5 + self.add(body, at + 5)
        return self.add(body, at)

    def add(self, body: bytes, at: int) -> int:
        size = self._payload.write(memoryview(body)[at:])
        self.size += size
        return size

    def payload(self, limits: Limits) -> Any:
        data = self._payload.getvalue()
        if self._announced is None:
            try:
                return decode_bare(data, limits=limits)[0]
            except BeyondLimits as error:
                return Unread(str(error))
        if len(data) < self._announced:
            raise DecodeError(f"the {len(data)} bytes end inside the binary")
        return data if len(data) == self._announced else data[: self._announced]


def _unexpected(what: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"a fragment {what}")
