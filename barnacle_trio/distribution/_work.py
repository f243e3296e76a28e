"""The calls that are being served, so that a node which leaves can let them end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio


class Work:
    """Counts what peers wait for here.

    Args:
      local: the node's own name.
    """

    def __init__(self, local: str) -> None:
        self._local = local
        self._counts: list[Callable[[], int]] = []
        self._progress: trio.Event | None = None  # while somebody waits for the end
        self.refusing = False
        """Whether no call of a peer is begun any more."""

    def __len__(self) -> int:
        """How many calls are under way, or wait to be."""
        return sum(count() for count in self._counts)

    def count(self, count: Callable[[], int]) -> None:
        """Have what ``count`` tells be part of the work, for good."""
        self._counts.append(count)

    @contextmanager
    def counted(self, count: Callable[[], int]) -> Iterator[None]:
        """The same, until the block is left."""
        self.count(count)
        try:
            yield
        finally:
            self._counts.remove(count)
            self.progressed()

    def progressed(self) -> None:
        """A call may have ended."""
        if self._progress is not None:
            self._progress.set()

    def refuses(self, caller: str) -> bool:
        """Whether a call of a node's process is not to be begun. Our own belong to other work."""
        return self.refusing and caller != self._local

    def refuse(self) -> None:
        """Begin no more calls of peers, so that those under way are the last."""
        self.refusing = True
        self.progressed()

    async def wait_done(self) -> None:
        """Wait until nothing is under way."""
        await trio.lowlevel.checkpoint()
        try:
            while len(self):
                self._progress = trio.Event()
                await self._progress.wait()
        finally:
            self._progress = None
