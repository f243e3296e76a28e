"""The options that decide what a barnacle does with its peers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Prune = Literal["discovered", "all", "never"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The options that decide. Durations in seconds, ``max_prune`` a share in 0..1."""

    poll_interval: float = 5.0
    prune: Prune = "discovered"
    prune_after: float = 60.0
    prune_answers: int = 2  # complete ones without a node, at least
    max_prune: float = 0.5
    max_dials: int = 64
