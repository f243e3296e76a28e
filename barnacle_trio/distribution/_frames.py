"""Frames after the handshake: a length of four bytes and that many bytes of body.

Source: OTP's "Distribution Protocol", section "Protocol between Connected Nodes". Knows nothing of
sockets and clocks; nothing reaches it before the digest of the handshake was verified.
"""

from __future__ import annotations

import struct

from barnacle_trio._errors import RemoteProtocolError

MAX_FRAME = 64 * 1024 * 1024  # bytes

TICK = bytes(4)
"""An empty frame: a sign of life."""

_LENGTH = struct.Struct(">I")
_SMALL = 4096  # bytes below which a read is gathered with others
_GATHERED = 65_536  # bytes that are gathered at most


def frame(*body: bytes) -> bytes:
    """Frame one body, given in any number of parts.

    Raises:
      ValueError: the body has 4 GiB or more, which no frame can announce.
    """
    size = sum(map(len, body))
    if size > 0xFFFFFFFF:
        raise ValueError(f"a body of {size} bytes does not fit into a frame")
    return b"".join((_LENGTH.pack(size), *body))


class FrameDecoder:
    """Cut a byte stream into frames.

    ``max_frame`` bounds the body of a frame (bytes), and so what a peer can make us keep: no more
    is held than the unfinished frame's bytes that did arrive.
    """

    __slots__ = ("_broken", "_header", "_max_frame", "_missing", "_parts", "_tail")

    def __init__(self, max_frame: int = MAX_FRAME) -> None:
        self._max_frame = max_frame
        self._header = bytearray()  # of the next frame, as long as it is not whole
        self._missing = 0  # bytes of the unfinished body that are still to come
        # What came of that body: large reads as they are, small ones gathered in the tail, so that
        # neither costs more than its own size, and joining them copies them once.
        self._parts: list[bytes | bytearray] = []
        self._tail = bytearray()
        self._broken = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take any slice of the stream, return the bodies that it completes (``b""`` is a tick).

        Raises:
          RemoteProtocolError: the peer announced a frame above ``max_frame``. The stream cannot
            be read any further.
          RuntimeError: fed again after that.
        """
        if self._broken:
            raise RuntimeError("this stream broke before; close its connection")
        frames: list[bytes] = []
        end = len(data)
        at = self._finish_header(data, frames) if self._header else 0
        if self._missing:
            at = self._finish_body(data, at, frames)
        # Whole frames are cut out of what was read, without a detour.
        while end - at >= 4:
            size = self._announced(data, at)
            at += 4
            if at + size > end:
                self._missing = size
                at = self._finish_body(data, at, frames)
                break
            frames.append(data[at : at + size])
            at += size
        self._header += data[at:]
        return frames

    @property
    def partial(self) -> int:
        """How many bytes the frame under way still lacks, as far as is known; 0 between frames."""
        return self._missing or (4 - len(self._header) if self._header else 0)

    def _finish_header(self, data: bytes, frames: list[bytes]) -> int:
        """Complete a header that came in pieces; returns where its body begins."""
        header = self._header
        at = min(4 - len(header), len(data))
        header += data[:at]
        if len(header) == 4:
            self._missing = self._announced(header, 0)
            self._header = bytearray()
            if not self._missing:
                frames.append(b"")
        return at

    def _finish_body(self, data: bytes, at: int, frames: list[bytes]) -> int:
        """Take what belongs to the unfinished body; returns where that ends."""
        part = data[at : at + self._missing]
        self._missing -= len(part)
        if len(part) < _SMALL:
            self._tail += part
        if len(part) >= _SMALL or len(self._tail) >= _GATHERED:
            if self._tail:
                self._parts.append(self._tail)
                self._tail = bytearray()
            if len(part) >= _SMALL:
                self._parts.append(part)
        if not self._missing:
            frames.append(b"".join((*self._parts, self._tail)))
            self._parts = []
            self._tail = bytearray()
        return at + len(part)

    def _announced(self, data: bytes | bytearray, at: int) -> int:
        size: int = _LENGTH.unpack_from(data, at)[0]
        if size > self._max_frame:
            self._broken = True
            self._parts = []
            self._tail = bytearray()
            raise RemoteProtocolError(
                f"a frame of {size} bytes was announced, the limit is {self._max_frame}"
            )
        return size
