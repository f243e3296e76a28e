"""Challenges that are fresh, remembered for a while, and never answered by ourselves.

The digest of the handshake is MD5(cookie, challenge) ("Distribution Protocol", section
"Distribution Handshake"): neither a name nor a direction is in it. A peer that does not know the
cookie can therefore dial us, take the challenge that it is given, have us dial it, hand our own
challenge back and replay our answer. A `ChallengeBook`, one for each node, is what stops that.
A relay across two *different* nodes cannot be told from an honest peer inside this protocol:
against that stand TLS, or a network that strangers cannot reach.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable

REMEMBERED_FOR = 300.0  # seconds for which a challenge is still known as ours
MAX_REMEMBERED = 65_536  # challenges that are no longer pending, and as many answered ones


def digest(cookie: bytes, challenge: int) -> bytes:
    """The 16 bytes that prove knowledge of ``cookie`` to whoever issued ``challenge``."""
    material = cookie + str(challenge).encode("ascii")
    return hashlib.md5(material, usedforsecurity=False).digest()


def digest_matches(cookie: bytes, challenge: int, theirs: bytes) -> bool:
    """Whether a peer's digest is the right one, in a time that does not tell how nearly."""
    return hmac.compare_digest(digest(cookie, challenge), theirs)


class ChallengeBook:
    """The challenges that one node issued, and those that it answered.

    ``clock`` gives seconds that never go back (Trio's clock). Pending challenges are never
    evicted, their number is bounded by the handshakes that the node lets run at once; one that
    nobody retired counts as retired once it is 300 seconds old, for no handshake lives that long.
    Of the others the last 65536 are kept, for 300 seconds; of the answered ones the last 65536.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # Oldest first; the values are the times of issue and of retirement.
        self._pending: OrderedDict[int, float] = OrderedDict()
        self._retired: OrderedDict[int, float] = OrderedDict()
        self._answered: OrderedDict[int, None] = OrderedDict()

    def issue(self) -> int:
        """A fresh unsigned 32-bit challenge, now pending; `retire` it when its handshake ends.

        It is none that is pending or remembered, so an old digest proves nothing; and none that
        this node answered for a peer, so a collection of our own answers does not help either.
        """
        self._forget()
        while True:
            challenge = secrets.randbits(32)
            if not self.is_ours(challenge) and challenge not in self._answered:
                self._pending[challenge] = self._clock()
                return challenge

    def retire(self, challenge: int) -> None:
        """End a challenge's handshake. It is remembered as ours for a while. Idempotent."""
        if self._pending.pop(challenge, None) is not None:
            self._retired[challenge] = self._clock()
        self._forget()

    def is_ours(self, challenge: int) -> bool:
        """Whether this node issued the challenge and it is pending or remembered.

        Such a challenge must never be answered: an honest peer draws its own (the chance that it
        draws one of ours is below one in 65000 even when the book is full).
        """
        if challenge in self._pending:
            return True
        retired_at = self._retired.get(challenge)
        return retired_at is not None and self._clock() - retired_at < REMEMBERED_FOR

    def note_answered(self, challenge: int) -> None:
        """Remember that a peer was given the digest for this challenge."""
        self._answered[challenge] = None
        self._answered.move_to_end(challenge)
        if len(self._answered) > MAX_REMEMBERED:
            self._answered.popitem(last=False)

    @property
    def remembered(self) -> int:
        """How many challenges are known as ours."""
        return len(self._pending) + len(self._retired)

    def _forget(self) -> None:
        horizon = self._clock() - REMEMBERED_FOR
        while self._pending and next(iter(self._pending.values())) <= horizon:
            challenge, issued_at = self._pending.popitem(last=False)
            self._retired[challenge] = issued_at + REMEMBERED_FOR
        while self._retired and next(iter(self._retired.values())) <= horizon:
            self._retired.popitem(last=False)
        while len(self._retired) > MAX_REMEMBERED:
            self._retired.popitem(last=False)
