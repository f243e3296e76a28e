"""What goes wrong between terms and bytes."""

from __future__ import annotations

from barnacle_trio._errors import BarnacleError, RemoteProtocolError


class DecodeError(RemoteProtocolError):
    """Bytes that are no term in the External Term Format, or one beyond the limits.

    The message tells where and what kind of fault, and never repeats what the peer sent.
    """


class BeyondLimits(DecodeError):
    """A term, as far as it was read, that is larger than the limits, or of a kind beyond them."""


class CutBinary(DecodeError):
    """The bytes end inside a binary, whose own bytes should have been those from ``begin`` to
    ``end``. What is before them is as it should be.
    """

    def __init__(self, begin: int, end: int, size: int) -> None:
        super().__init__(f"the {size} bytes end inside a binary")
        self.begin = begin
        self.end = end


class EncodeError(BarnacleError, ValueError):
    """A value that the External Term Format cannot carry, or one beyond the limits.

    It is raised before a byte is written: a peer would close the connection because of it.
    """
