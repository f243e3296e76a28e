"""The failure detector's policy: when to tick, when to probe, when to give a peer up.

Pure: it is told what happened and how much time has passed, and says what is due. Silence is
counted in the time during which this process was awake, so that a loop that was late (stopped,
starved, put to sleep) first reads what waits in its sockets before it accuses anybody.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Flag, auto

TICK_AFTER = 2.0
"""Seconds without a write after which a tick is sent.

A peer whose ``net_ticktime`` is 8 s gives up after 6 to 10 s without a byte; nothing about tick
times is negotiated ("Distribution Protocol", kernel's ``net_ticktime``), so this serves them all.
"""
PROBE_AFTER = 3.0
"""Seconds of silence after which a peer is probed, and again after each further such spell."""
STALL_WINDOW = 60.0
"""Seconds in mid-frame after which a peer must have sent `STALL_BYTES`."""
STALL_BYTES = 64 * 1024
"""Bytes; a peer that drips less into a frame that it announced only holds our memory."""


class Due(Flag):
    """What a connection needs now."""

    NOTHING = 0
    TICK = auto()
    PROBE = auto()
    SILENT = auto()
    STALLED = auto()


@dataclass(frozen=True, slots=True)
class Patience:
    """How long silence is borne, in seconds.

    ``failure_timeout`` holds for peers of which this incarnation has answered a probe, on this
    connection or an earlier one, and for hosts that acknowledge nothing. Others (C nodes do not
    answer) are judged by ``net_ticktime`` alone, as Erlang/OTP does; and so is everybody where
    ``failure_timeout`` is infinite.
    """

    failure_timeout: float = 10.0
    net_ticktime: float = 60.0

    @property
    def interval(self) -> float:
        """How often connections are looked at, in seconds."""
        return min(0.5, self.failure_timeout / 10, self.net_ticktime / 16)

    @property
    def tick_after(self) -> float:
        """Seconds without a write after which a tick is due."""
        return min(TICK_AFTER, self.net_ticktime / 4)

    @property
    def probe_after(self) -> float:
        """Seconds of silence after which a probe is due."""
        if math.isinf(self.failure_timeout):
            # Not to accuse anybody, but to let an idle peer of a longer tick time show life.
            return self.net_ticktime / 4
        return min(PROBE_AFTER, self.failure_timeout * 0.3)


class Detector:
    """Watches one connection.

    Args:
      patience: the limits, see there.
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._silence = 0.0
        self._since_write = 0.0
        self._since_probe = 0.0
        self._answered = False
        self._acknowledged: int | None = None
        self._in_frame = 0.0
        self._in_frame_bytes = 0

    @property
    def silence(self) -> float:
        """Seconds since the peer last showed life, counted while this process was awake."""
        return self._silence

    def read(self, size: int) -> None:
        """So many bytes were read: the peer lives."""
        self._silence = 0.0
        self._in_frame_bytes += size

    def wrote(self) -> None:
        """Bytes were handed to the kernel: no tick is due for a while."""
        self._since_write = 0.0

    def answered(self) -> None:
        """The peer answers probes: from now on they may condemn it."""
        self._answered = True

    def probed(self) -> None:
        """A probe was sent."""
        self._since_probe = 0.0

    def pass_time(
        self,
        elapsed: float,
        *,
        acknowledged: int | None = None,
        unheard: Callable[[], float | None] = lambda: None,
        in_frame: bool = False,
    ) -> Due:
        """Let time pass and say what is due.

        Args:
          elapsed: seconds since the last call. More than twice the interval counts as twice: for
            the rest this process was late itself.
          acknowledged: while a write waits for the peer: bytes that it has acknowledged so far. A
            change is life. A frozen process's kernel acknowledges what fits into its buffers, so
            this is None, and does not count, while no write waits.
          unheard: tells for how long (seconds) its kernel has acknowledged nothing. We tick so
            often that it would: this is a host that is gone, or a network, whoever was there.
          in_frame: the peer has announced a frame and not yet completed it.
        """
        elapsed = min(elapsed, 2 * self._patience.interval)
        self._silence += elapsed
        self._since_write += elapsed
        self._since_probe += elapsed
        if acknowledged is not None and self._acknowledged not in (None, acknowledged):
            self._silence = 0.0
        self._acknowledged = acknowledged

        due = Due.NOTHING
        if self._silence >= self._limit() or self._is_cut_off(unheard):
            due |= Due.SILENT
        elif self._is_stalled(elapsed, in_frame):
            due |= Due.STALLED
        probe_after = self._patience.probe_after
        if self._silence >= probe_after and self._since_probe >= probe_after:
            due |= Due.PROBE
        elif self._since_write >= self._patience.tick_after:
            due |= Due.TICK
        return due

    def _is_cut_off(self, unheard: Callable[[], float | None]) -> bool:
        timeout = self._patience.failure_timeout
        return self._silence >= timeout and (unheard() or 0.0) >= timeout

    def _is_stalled(self, elapsed: float, in_frame: bool) -> bool:
        self._in_frame = self._in_frame + elapsed if in_frame else 0.0
        if 0.0 < self._in_frame < STALL_WINDOW:
            return False
        stalled = self._in_frame >= STALL_WINDOW and self._in_frame_bytes < STALL_BYTES
        self._in_frame = 0.0
        self._in_frame_bytes = 0
        return stalled

    def _limit(self) -> float:
        if self._answered and math.isfinite(self._patience.failure_timeout):
            return self._patience.failure_timeout
        return self._patience.net_ticktime
