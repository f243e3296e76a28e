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

    __slots__ = ("_broken", "_buffer", "_max_frame", "_size")

    def __init__(self, max_frame: int = MAX_FRAME) -> None:
        self._max_frame = max_frame
        self._buffer = bytearray()  # the unfinished frame's header and body, as far as they came
        self._size = 0  # what its header announced, once that is whole
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
        at = self._finish_partial(data, frames) if self._buffer else 0
        end = len(data)
        # Whole frames are cut out of what was read, without a copy through the buffer.
        while end - at >= 4:
            size = self._announced(data, at)
            stop = at + 4 + size
            if stop > end:
                self._size = size
                break
            frames.append(data[at + 4 : stop])
            at = stop
        if at < end:
            self._buffer += memoryview(data)[at:]
        return frames

    @property
    def partial(self) -> int:
        """How many bytes the frame under way still lacks, as far as is known; 0 between frames."""
        have = len(self._buffer)
        if have == 0:
            return 0
        return 4 - have if have < 4 else 4 + self._size - have

    def _finish_partial(self, data: bytes, frames: list[bytes]) -> int:
        """Add to the unfinished frame what belongs to it; returns how many bytes that were."""
        buffer = self._buffer
        at = 0
        if len(buffer) < 4:
            at = min(4 - len(buffer), len(data))
            buffer += data[:at]
            if len(buffer) < 4:
                return at
            self._size = self._announced(buffer, 0)
        part = memoryview(data)[at : at + 4 + self._size - len(buffer)]
        buffer += part
        if len(buffer) == 4 + self._size:
            frames.append(bytes(memoryview(buffer)[4:]))
            self._buffer = bytearray()
        return at + len(part)

    def _announced(self, data: bytes | bytearray, at: int) -> int:
        size: int = _LENGTH.unpack_from(data, at)[0]
        if size > self._max_frame:
            self._broken = True
            self._buffer = bytearray()
            raise RemoteProtocolError(
                f"a frame of {size} bytes was announced, the limit is {self._max_frame}"
            )
        return size
