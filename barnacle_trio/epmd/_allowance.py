"""How often something may be done for others."""

from __future__ import annotations

import math

import trio


class Allowance:
    """So many times per second on Trio's clock, and twice as many after a quiet time."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._left = 2 * rate
        self._at = -math.inf

    def take(self) -> bool:
        """Whether it may be done once more now; if so, that counts."""
        now = trio.current_time()
        self._left = min(2 * self._rate, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
