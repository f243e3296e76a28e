"""How long a strategy may take, seen from inside it."""

from __future__ import annotations

import math

import trio

# Who gives up together with the caller answers nothing; who stops a little earlier can still tell
# what is known by then.
_SHARE = 0.9


def time_to_answer(parts: int = 1) -> float:
    """Seconds after which to make do with what is known, so that an answer comes in time.

    It is nine tenths of what the deadline of the enclosing cancel scopes leaves, divided among
    ``parts`` that come one after the other; infinite where there is no deadline.
    """
    left = trio.current_effective_deadline() - trio.current_time()
    if left == math.inf:
        return math.inf
    return max(0.0, left) * _SHARE / parts
