"""How often a cookie may be guessed here, and how often ours is proven to somebody for nothing.

Who guesses wrongly slows down those that look like it, and nobody else: not the address, for good
peers may share it (a NAT, this very host), and not the name, which anybody can give. And nobody is
locked out for good: where guesses come faster than they are allowed, chance decides which ones are
looked at, and a good peer that tries again gets in. Who has proven the cookie once, from the same
address under the same name, does not even wait.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

PAIR_GUESSES = 10
"""Wrong proofs from one address under one name, after which one more is heard..."""
PAIR_PAUSE = 5.0
"""...every so many seconds."""
GUESSES = 256
"""Wrong proofs from all strangers together, after which one more is heard..."""
PAUSE = 0.01
"""...every so many seconds."""
PROOFS = 64
"""Proofs of our cookie that one address takes without proving it in turn, before one more..."""
PROOF_PAUSE = 1.0
"""...every so many seconds."""
MAX_REMEMBERED = 10_000
"""Addresses, or pairs of address and name, that are remembered of each kind; the latest ones."""

Clock = Callable[[], float]


class Ration:
    """So many at once, and then one each ``pause`` seconds. As many beyond may come to be owed."""

    __slots__ = ("_at", "_left", "_most", "_pause")

    def __init__(self, most: int, pause: float, now: float) -> None:
        self._most = most
        self._pause = pause
        self._left = float(most)
        self._at = now

    def is_left(self, now: float) -> bool:
        """Whether there is one to take."""
        self._left = min(self._most, self._left + (now - self._at) / self._pause)
        self._at = now
        return self._left >= 1

    def take(self, now: float) -> None:
        """Take one, if there is one or not."""
        self.is_left(now)
        self._left = max(self._left - 1, float(-self._most))


class Rations:
    """A ration for each key, of which only a hash is kept: strangers choose them."""

    def __init__(self, most: int, pause: float, clock: Clock) -> None:
        self._most = most
        self._pause = pause
        self._clock = clock
        self._rations: OrderedDict[int, Ration] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rations)

    def __contains__(self, key: object) -> bool:
        return hash(key) in self._rations

    def open(self, key: object) -> Ration:
        """The ration for a key, from now on among the latest."""
        ration = self._rations.setdefault(hash(key), Ration(self._most, self._pause, self._clock()))
        self._rations.move_to_end(hash(key))
        if len(self._rations) > MAX_REMEMBERED:
            self._rations.popitem(last=False)
        return ration

    def is_left(self, key: object) -> bool:
        """Whether there is one to take; for a key that is not known, there is."""
        ration = self._rations.get(hash(key))
        return ration is None or ration.is_left(self._clock())


class Guesses:
    """Of the cookie, by who dials this node."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._everybody = Ration(GUESSES, PAUSE, clock())
        self._proven = Rations(PAIR_GUESSES, PAIR_PAUSE, clock)
        self._wrong = Rations(PAIR_GUESSES, PAIR_PAUSE, clock)

    def __len__(self) -> int:
        """How many pairs of address and name are remembered."""
        return len(self._proven) + len(self._wrong)

    def may_try(self, address: str, name: str) -> bool:
        """Whether a stranger that calls itself so is worth a challenge."""
        pair = (address, name)
        if pair in self._proven:
            if self._proven.is_left(pair):
                return True
        elif not self._wrong.is_left(pair):
            return False
        return self._everybody.is_left(self._clock())

    def was_wrong(self, address: str, name: str) -> None:
        """Its proof was a wrong one."""
        now, pair = self._clock(), (address, name)
        if pair in self._proven:
            ration = self._proven.open(pair)
            spared = ration.is_left(now)
        else:
            ration, spared = self._wrong.open(pair), False
        ration.take(now)
        if not spared:
            self._everybody.take(now)

    def was_right(self, address: str, name: str) -> None:
        """It has proven the cookie."""
        self._proven.open((address, name))


class Proofs:
    """Of our cookie, to whom we dial: each lets its receiver try cookies offline, or be relayed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._wasted = Rations(PROOFS, PROOF_PAUSE, clock)

    def __len__(self) -> int:
        """How many addresses are remembered."""
        return len(self._wasted)

    def may_give(self, address: str) -> bool:
        """Whether an address may have another one."""
        return self._wasted.is_left(address)

    def was_wasted(self, address: str) -> None:
        """Who took one there did not prove the cookie in turn."""
        self._wasted.open(address).take(self._clock())
