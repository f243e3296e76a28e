"""Large messages in pieces, so that small ones get between them.

Source: OTP's "Distribution Protocol", section "Distribution Header for Fragmented Messages". Knows
nothing of sockets. Which messages may pass which is the affair of `_lanes`.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Any

from barnacle_trio._errors import RemoteProtocolError
from barnacle_trio.distribution._control_in import complete, parse_control
from barnacle_trio.distribution._messages import Message, Unknown, Unread
from barnacle_trio.etf import DecodeError, Limits
from barnacle_trio.etf._decode import decode_bare
from barnacle_trio.etf._errors import BeyondLimits, CutBinary

FRAGMENT = 64 * 1024
"""Bytes of a message above which it is cut, and of each piece. As OTP cuts."""
MAX_UNFINISHED = 10_000
"""Messages of one peer that may be on their way in pieces at once."""
MAX_UNFINISHED_BYTES = 256 * 1024 * 1024
"""What they may hold together. A BEAM has as many on their way as processes that send any."""
MAX_UNFINISHED_SHARE = 4
"""The same as a multiple of the largest message, where that is more."""

_FIRST = 0x45
_NEXT = 0x46
_HEAD = Struct(">IBBQQ")  # length of the frame, version, kind, sequence, pieces still to come
_HEAD_BODY = _HEAD.size - 4
_IDS = Struct(">QQ")
_BINARY_HEADER = 5
_GLANCE = Limits(max_elements=1000, max_bignum_bytes=FRAGMENT)


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

    Where all that is unfinished together would hold too much, the message that grows is dropped:
    the peer cannot know what others of its processes have sent.

    Args:
      limits: for each term; ``max_bytes`` bounds what is held of a message.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._room = max(MAX_UNFINISHED_BYTES, MAX_UNFINISHED_SHARE * limits.max_bytes)
        self._unfinished: dict[int, _Assembly] = {}
        self._held = 0

    def __len__(self) -> int:
        return len(self._unfinished)

    def feed(self, body: bytes) -> tuple[Message, int] | None:
        """Take one piece. Gives the message and its size in bytes with the last one.

        Raises:
          RemoteProtocolError: a piece that does not belong here, a message beyond the limits, or
            too many on their way at once.
        """
        if len(body) < _HEAD_BODY:
            raise RemoteProtocolError("a fragment ends within its header")
        sequence, number = _IDS.unpack_from(body, 2)
        if body[1] == _FIRST:
            assembly = self._begin(body, sequence, number)
            size = assembly.size
        else:
            found = self._unfinished.get(sequence)
            if found is None:
                raise _unexpected("continues no message")
            if number != found.missing:
                raise _unexpected("is out of order")
            assembly = found
            size = assembly.add(body, _HEAD_BODY)
        self._held += size
        if assembly.payload_size > self._limits.max_bytes:
            raise RemoteProtocolError(
                f"a message of more than {self._limits.max_bytes} bytes (max_message), in fragments"
            )
        if self._held > self._room:
            self._held -= assembly.drop("one large message too many at once")
            if self._held > self._room:
                raise RemoteProtocolError("too many unfinished messages")
        assembly.missing = number - 1
        if assembly.missing:
            self._unfinished[sequence] = assembly
            return None
        self._unfinished.pop(sequence, None)
        self._held -= assembly.size
        return assembly.message(self._limits), assembly.size

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
        if control.end > _HEAD_BODY + FRAGMENT:
            raise RemoteProtocolError(f"a control message of {control.end - _HEAD_BODY} bytes")
        assembly = _Assembly(body, control.end)
        if not control.has_payload:
            if not isinstance(complete(control, None), Unknown):
                raise _unexpected("is of a control message without payload")
            assembly.drop("not known")
        return assembly


class _Assembly:
    """One message that arrives in pieces.

    What makes messages large is most often one binary. If the first piece ends inside one, the
    binary's own bytes are gathered apart, and are the value as they stand: it is not copied once
    more while everybody waits. The control term is kept as bytes, which are what is counted.

    Args:
      body: of the first piece.
      at: where the control term in it ends.
    """

    __slots__ = (
        "_binary",
        "_control",
        "_dropped",
        "_front",
        "_lacks",
        "_rest",
        "missing",
        "size",
    )

    def __init__(self, body: bytes, at: int) -> None:
        self._control = body[_HEAD_BODY + 1 : at]
        self.missing = 0  # pieces
        self._dropped: str | None = None  # why
        self._binary: io.BytesIO | None = None
        self._lacks = 0  # bytes of the binary
        begin, end = _find_cut_binary(body, at)
        self._front = body[at:begin]  # the payload up to the binary's own bytes
        if end:
            self._binary = io.BytesIO()
            self._lacks = end - begin
        self._rest = io.BytesIO()  # what comes after it, or all
        self.size = len(self._control) + len(self._front)  # bytes
        self.add(body, begin)

    @property
    def payload_size(self) -> int:
        return self.size - len(self._control)

    def add(self, body: bytes, at: int) -> int:
        if self._dropped is not None:
            return 0
        data = memoryview(body)[at:]
        self.size += len(data)
        size = len(data)
        if self._lacks and self._binary is not None:
            taken = self._binary.write(data[: self._lacks])
            self._lacks -= taken
            data = data[taken:]
        self._rest.write(data)
        return size

    def drop(self, why: str) -> int:
        """Keep nothing but what tells whose it is; gives how many bytes less that holds."""
        before, self.size = self.size, len(self._control)
        self._front, self._binary, self._rest = b"", None, io.BytesIO()
        self._dropped = why
        return before - self.size

    def message(self, limits: Limits) -> Message:
        return complete(parse_control(self._control, 0, limits), self._read(limits))

    def _read(self, limits: Limits) -> Any:
        if self._dropped is not None:
            return Unread(self._dropped)
        try:
            if self._binary is None:
                return decode_bare(self._rest.getvalue(), limits=limits)[0]
            if self._lacks:
                raise DecodeError(f"a message ends {self._lacks} bytes inside a binary")
            return self._read_around(self._binary.getvalue(), limits)
        except BeyondLimits as error:
            return Unread(str(error))

    def _read_around(self, binary: bytes, limits: Limits) -> Any:
        """The payload, where ``binary`` is put in whole."""
        before, header = self._front[:-_BINARY_HEADER], self._front[-_BINARY_HEADER:]
        if not before:
            return binary  # the payload is that and nothing more
        rest = self._rest.getvalue()
        try:
            # A reference to the first of the header's atoms, of which there are none otherwise.
            return decode_bare(before + b"R\0" + rest, limits=limits, refs=_Once(binary))[0]
        except BeyondLimits:
            raise
        except DecodeError:
            # References of the peer's own, or a binary inside a fun: as if nothing had been saved.
            return decode_bare(b"".join((before, header, binary, rest)), limits=limits)[0]


class _Once(Sequence[Any]):
    """A value that can be had once."""

    def __init__(self, value: object) -> None:
        self._values = [value]

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: Any) -> Any:
        return self._values.pop()


def _find_cut_binary(body: bytes, at: int) -> tuple[int, int]:
    """Where in a first piece the bytes begin of a binary that it cuts, and where they would end.

    ``at`` and 0 where the payload that begins there is cut elsewhere, or not soon enough.
    """
    try:
        decode_bare(body, at, limits=_GLANCE)
    except CutBinary as cut:
        if cut.end - cut.begin >= FRAGMENT:
            return cut.begin, cut.end
    except DecodeError:
        pass
    return at, 0


def _unexpected(what: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"a fragment {what}")
