"""The last known nodes, kept on disk for when discovery is down."""

from __future__ import annotations

import errno
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from barnacle_trio._errors import ConfigurationError, DiscoveryError
from barnacle_trio._names import NodeName, show
from barnacle_trio._strategy import Strategy, sift
from barnacle_trio.strategies._files import read_regular
from barnacle_trio.strategies._memory_file import (
    MAX_FILE,
    MAX_NODES,
    format_memory,
    parse_memory,
    replace_file,
)
from barnacle_trio.strategies._parts import Composite, ask, checked, describe, too_late
from barnacle_trio.strategies._time import time_to_answer

logger = logging.getLogger("barnacle_trio.strategies")

DISK_PATIENCE = 1.0
"""Seconds that an answer waits for the disk, once; a disk that hangs is then not waited for."""
RENEW_AFTER = 600.0
"""Seconds after which a file is written again though it names the same nodes, for their times."""

_BY_OTHERS = 0o002  # whoever can write the file chooses whom this node dials

T = TypeVar("T")


def remember(
    strategy: Strategy,
    path: str | os.PathLike[str],
    *,
    max_age: float = 7 * 86_400.0,
    max_nodes: int = 1000,
) -> Strategy:
    """Discover what ``strategy`` names, and keep it on disk for when that is down.

    So nodes that start while the DNS, say, is down find those that they knew before. Where
    ``strategy`` fails, the answer is partial and names the remembered nodes: they are dialled, and
    nobody is pruned. Where its answer is partial, they are added. A complete answer is given as it
    is, and takes the place of what was remembered, unless it names nobody but the local node: the
    last one of a cluster to live does not forget the others.

    The file is JSON (``{"version": 1, "nodes": {name: seconds since 1970}}``), has mode 0600, and
    is replaced as a whole. It is written when the nodes change, and every ten minutes for their
    times' sake. A disk that fails or hangs, and a file that is damaged or that everybody can write,
    is told in the log once, and discovery goes on without. Each node needs a file of its own.

    Args:
      strategy: the strategy to ask; one that hangs is given up shortly before the caller's
        deadline.
      path: the file, in a folder that exists and can be written.
      max_age: seconds for which a node is remembered after discovery last named it, by the wall
        clock.
      max_nodes: how many nodes are remembered, those last named; at most 3000.

    Raises:
      ConfigurationError: not a strategy, not a path, or one of the bounds is none.
    """
    if not isinstance(path, str | os.PathLike):
        raise ConfigurationError(f"path is a file's, not {show(path)}")
    if not max_age > 0:
        raise ConfigurationError(f"max_age is a positive number of seconds, not {max_age!r}")
    if type(max_nodes) is not int or not 0 < max_nodes <= MAX_NODES:
        raise ConfigurationError(f"max_nodes is 1 to {MAX_NODES}, not {max_nodes!r}")
    parts = checked([strategy], of="remember")
    return _Remember(*parts, path=Path(path), max_age=max_age, max_nodes=max_nodes)


class _Remember(Composite):
    def __init__(self, strategy: Strategy, *, path: Path, max_age: float, max_nodes: int) -> None:
        super().__init__(strategy)
        self._memory = _Memory(max_age, max_nodes)
        self._file = _File(path, renew_after=min(RENEW_AFTER, max_age / 10))
        self._recalling = trio.Lock()

    def __repr__(self) -> str:
        return f"remember({describe(self._parts[0])}, {str(self._file.path)!r})"

    async def __call__(self, local: NodeName) -> list[str]:
        async with self._recalling:
            await self._file.recall(self._memory)
        answer = too_late()
        with trio.move_on_after(time_to_answer()):
            answer = await ask(self._parts[0], local)
        named, _ = sift(answer.names or ())
        others = named - {local}
        if others:
            self._memory.note(others, instead=answer.error is None)
            await self._file.keep(self._memory)
        if answer.error is None:
            return list(answer.names or ())
        remembered = self._memory.nodes()
        more = set(remembered) - others
        if answer.names is None and not remembered:
            raise answer.error
        reason = answer.error.reason
        if more:
            reason += f"; {len(more)} remembered from before"
        raise DiscoveryError(reason, partial=[*(answer.names or ()), *more]) from answer.error


class _Memory:
    """Which nodes were named, and when last. Knows no disk."""

    def __init__(self, max_age: float, max_nodes: int) -> None:
        self._max_age = max_age
        self._max_nodes = max_nodes
        self._named_at: dict[NodeName, int] = {}

    def note(self, names: frozenset[NodeName], *, instead: bool) -> None:
        """These were named just now, ``instead`` of all others or beside them."""
        named = dict.fromkeys(sorted(names), int(time.time()))
        self._named_at = named if instead else {**self.nodes(), **named}

    def add(self, named_at: Mapping[NodeName, int]) -> None:
        """What was remembered before."""
        self._named_at = {**named_at, **self._named_at}

    def nodes(self) -> dict[NodeName, int]:
        """The nodes that are not forgotten yet, and when each was named last."""
        # A clock that was set back makes nobody older.
        horizon = time.time() - self._max_age
        latest = sorted(self._named_at.items(), key=lambda named: -named[1])[: self._max_nodes]
        return {name: at for name, at in latest if at > horizon}


class _File:
    """Where a memory outlives the process. Whatever the disk does, nothing is raised."""

    def __init__(self, path: Path, *, renew_after: float) -> None:
        self.path = path
        self._renew_after = renew_after
        self._recalled = False
        self._holds: frozenset[NodeName] = frozenset()
        self._written_at = -math.inf
        self._failing = False
        # Its one token is back when the disk has answered, even to somebody who has gone.
        self._disk = trio.CapacityLimiter(1)

    async def recall(self, memory: _Memory) -> None:
        """Read the file, once."""
        await trio.lowlevel.checkpoint()
        if self._recalled or not self._disk.available_tokens:
            return
        try:
            data = await self._ask_disk(partial(read_regular, self.path, MAX_FILE, _BY_OTHERS))
            memory.add(parse_memory(data))
            self._holds = frozenset(memory.nodes())
        except FileNotFoundError:
            pass
        except ValueError as error:
            logger.warning("%s is ignored, it holds no remembered nodes: %s", self.path, error)
        except OSError as error:
            self._note_failure("read", error)
            return
        self._recalled = True

    async def keep(self, memory: _Memory) -> None:
        """Write the file, if that is due."""
        await trio.lowlevel.checkpoint()
        nodes = memory.nodes()
        known = frozenset(nodes) == self._holds
        renewed = time.monotonic() - self._written_at < self._renew_after
        if (known and renewed) or not self._disk.available_tokens:
            return
        try:
            await self._ask_disk(partial(replace_file, self.path, format_memory(nodes)))
        except OSError as error:
            self._note_failure("written", error)
            return
        self._holds = frozenset(nodes)
        self._written_at = time.monotonic()
        if self._failing:
            self._failing = False
            logger.info("%s can be written again", self.path)

    async def _ask_disk(self, work: Callable[[], T]) -> T:
        with trio.move_on_after(min(DISK_PATIENCE, time_to_answer())):
            return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._disk)
        raise OSError(errno.ETIMEDOUT, "the disk does not answer")

    def _note_failure(self, what: str, error: OSError) -> None:
        if not self._failing:
            self._failing = True
            logger.warning(
                "%s cannot be %s, nodes are not remembered: %s",
                self.path,
                what,
                error.strerror or error,
            )
