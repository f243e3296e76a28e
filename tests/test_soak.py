"""Hours of a cluster under faults at random, and nodes that come and go: what is left behind.

With ``BARNACLE_TRIO_LONG=1`` days of it, and a thousand cycles. See `tests.soak.__main__`.
"""

from __future__ import annotations

import logging
import random

import pytest

from tests.scale import LONG, scaled
from tests.soak.judge import Sample, check_flat
from tests.soak.lives import CYCLES, run_apart
from tests.soak.story import DAY, soak

CYCLED = {"memory_starts": 40, "memory_cuts": 20, "real_starts": 15, "real_cuts": 4}


@pytest.mark.parametrize(
    ("hours", "size", "pace"),
    [(scaled(4, 48), 20, 60.0), (scaled(1, 12) / 4, 6, 1.0)],
    ids=["twenty patient nodes", "six nodes as they usually are"],
)
def test_whatever_happens_for_hours_is_over_when_it_is_over(
    hours: float, size: int, pace: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "barnacle_trio")  # lines that are kept are objects, too
    story = soak(
        random.randrange(1_000_000) if LONG else 7, days=hours * 3600 / DAY, size=size, pace=pace
    )
    assert story.told["up"] >= story.told["down"] > size
    assert len(story.samples) > 3


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.needs_hosts] if kind == "real_cuts" else [])
        for kind in CYCLES
    ],
)
def test_many_lives_leave_nothing_behind(kind: str) -> None:
    cycles = scaled(CYCLED[kind], 1000)
    assert run_apart(kind, cycles).startswith(f"{cycles} cycles: Sample(")


@pytest.mark.parametrize("what", ["tasks", "ends", "objects", "memory"])
def test_what_is_left_behind_is_found(what: str) -> None:
    """The judge itself."""
    lean = {"tasks": 10, "ends": 10, "objects": 10_000, "memory": 50_000_000}
    samples = [Sample(**lean)] * 8
    check_flat(samples)
    fat = Sample(**{**lean, what: 2 * lean[what]})
    check_flat([fat, *samples])  # before all is warm
    with pytest.raises(AssertionError):
        check_flat([*samples, fat])
