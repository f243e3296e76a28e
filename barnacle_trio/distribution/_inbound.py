"""The short way in: plain messages, which are most of what comes.

A message's control term names the sender and the receiver and is the same for all that one process
sends to another. It is read the long way once; then its bytes alone lead to the mailbox.
"""

from __future__ import annotations

from barnacle_trio.distribution._inbox import Inbox
from barnacle_trio.etf import Limits, decode_prefix
from barnacle_trio.etf._decode import decode_bare
from barnacle_trio.etf._errors import BeyondLimits

_PASS_THROUGH = b"\x70\x83"
_HEADER = b"\x83D\0"
_SEND_SENDER = b"h\x03a\x16"  # {22, From, To}
_REG_SEND = b"h\x04a\x06"  # {6, From, '', Name}
_PID, _ATOM = ord("X"), ord("w")
MAX_KNOWN = 10_000
"""Pairs of sender and receiver that are known at once."""


class ShortCut:
    """Delivers the messages whose way is known.

    Args:
      limits: of a message.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._known: dict[bytes, Inbox] = {}

    def deliver(self, body: bytes, *, headed: bool) -> bool:
        """Deliver a message, if its way is known. False: take the long way.

        ``headed``: distribution headers were agreed on.

        Raises:
          DecodeError: the message is no term.
        """
        end = _control_end(body, headed)
        if not end:
            return False
        inbox = self._known.get(body[:end])
        if inbox is None or end >= len(body):
            return False
        if inbox.ended:
            del self._known[body[:end]]  # another process may have its name by now
            return False
        read = decode_bare if headed else decode_prefix
        try:
            payload = read(body, end, limits=self._limits)[0]
        except BeyondLimits:
            return False  # it is told and counted at the end of the long way
        inbox.deliver(payload, len(body))
        return True

    def learn(self, body: bytes, inbox: Inbox, *, headed: bool) -> None:
        """Remember where a message went that took the long way."""
        end = _control_end(body, headed)
        if end:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[body[:end]] = inbox


def _control_end(body: bytes, headed: bool) -> int:
    """Where the control term of a plain message ends; 0 where it is not of the usual form."""
    start = 3 if headed else 2
    if body[:start] != (_HEADER if headed else _PASS_THROUGH):
        return 0
    head = body[start : start + 4]
    try:
        if body[start + 4] != _PID or body[start + 5] != _ATOM:
            return 0
        at = start + 19 + body[start + 6]  # X, w and a length, the name, 12 bytes of numbers
        if head == _SEND_SENDER:
            if body[at] != _PID or body[at + 1] != _ATOM:
                return 0
            return at + 15 + body[at + 2]
        if head == _REG_SEND and body[at : at + 3] == b"w\x00w":
            return at + 4 + body[at + 3]
    except IndexError:
        pass
    return 0
