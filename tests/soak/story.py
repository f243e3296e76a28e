"""Days of a cluster, episode after episode."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import trio
from trio.testing import MockClock

from tests.soak.cluster import open_cluster, patient
from tests.soak.faults import Done, Nemesis
from tests.soak.judge import Sample, check, check_flat, sample

DAY = 86_400.0


@dataclass
class Story:
    """What a run amounted to."""

    days: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    samples: list[Sample] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.days:.2f} days, {len(self.samples) - 1} episodes, {self.told['up']} ups, "
            f"{self.told['down']} downs, slowest mesh {self.slowest:.1f} s; {dict(self.faults)}; "
            f"first {self.samples[0]}, last {self.samples[-1]}"
        )


def soak(
    seed: int,
    *,
    days: float,
    size: int = 20,
    pace: float = 60.0,
    tell: Callable[[Story], None] = lambda _story: None,
) -> Story:
    """Run it.

    Raises:
      AssertionError: something did not hold; the message says what, the seed repeats it.
    """
    clock = MockClock(autojump_threshold=0)
    with patient(pace):
        return trio.run(_soak, seed, days, size, pace, clock, tell, clock=clock)


async def _soak(
    seed: int,
    days: float,
    size: int,
    pace: float,
    clock: MockClock,
    tell: Callable[[Story], None],
) -> Story:
    chance = random.Random(seed)
    random.seed(seed)  # the jitter of the nodes
    story = Story()
    async with open_cluster(size, pace) as cluster:
        nemesis = Nemesis(cluster, chance, clock)
        check(cluster, Done())
        story.samples.append(await sample(cluster))
        while trio.current_time() < days * DAY:
            done = await nemesis.episode()
            story.faults.update(done.kinds)
            mended = trio.current_time()
            await cluster.mesh(60 + 20 * pace)
            story.slowest = max(story.slowest, trio.current_time() - mended)
            await trio.sleep(chance.uniform(5, 60) * pace)  # nothing happens any more
            story.told += check(cluster, done)
            story.samples.append(await sample(cluster))
            story.days = trio.current_time() / DAY
            tell(story)
    check_flat(story.samples)
    return story
