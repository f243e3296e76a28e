"""What is known of one peer, and how long it is left alone after a failure.

Pure: no clock and no randomness of its own, both are given.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from barnacle_trio._events import PeerState, PeerStatus
from barnacle_trio._names import NodeName

FIRST_DELAY = 0.1
"""The first pause after a failure (seconds); it doubles with each further one."""
RECENT = 60.0
"""For this long (seconds) after its loss a peer is dialled at a brisk pace."""
CAP_REFUSED = 0.3
"""The longest pause (seconds) of a recently lost peer whose host answers: it is restarting."""
CAP_SILENT = 1.0
"""The longest pause (seconds) of a recently lost peer whose host does not answer."""
MAX_RETRIES = 100.0
"""About so many dials a second are spent on all peers together that were not lost just now."""
WORKED = 5.0
"""A connection this old (seconds) was a working one: its loss is as recent as any."""
STABLE = 30.0
"""A connection this old (seconds) makes earlier failures forgotten."""
QUIET = 10.0
"""Who said goodbye is left alone for so long (seconds), unless there is a sign that it is back."""
FIRST_QUARANTINE = 5.0
LAST_QUARANTINE = 3600.0

UNKNOWN = object()
"""Where a peer is that nobody has looked for since it left."""
NOWHERE = object()
"""Where it is once it was not found."""


def longest_pause(poll_interval: float, absent: int) -> float:
    """The longest pause (seconds) of peers that were not lost just now, if so many are absent."""
    return max(poll_interval, _fair(absent))


def _fair(absent: int) -> float:
    return 2 * absent / MAX_RETRIES  # with full jitter, half of it is the mean


@dataclass(slots=True)
class Peer:
    """The memory of one peer. Times are absolute (seconds)."""

    name: NodeName
    # what discovery says
    named: bool = False  # by the last good answer
    ours: bool = False  # named once, and not pruned since
    excused: bool = False  # pruned, and not named since: whoever dials back is let be
    unnamed_since: float | None = None  # the first complete answer without it
    missing_since: float | None = None  # the same, of answers that are evidence (not empty)
    missing_answers: int = 0
    # what the transport says
    connected: bool = False
    creation: int = 0
    up_since: float = 0.0
    ups: int = 0
    flaps: int = 0
    left_at: float | None = None  # it said goodbye, and was not heard of since
    lost_at: float | None = None  # the loss that began the present trouble
    pruning: bool = False  # we are about to disconnect it
    # what dialling it brought
    dialling: bool = False
    favoured: bool = False  # it is dialled as one that was lost a moment ago
    tried: bool = False  # a dial of ours ended, since it was up
    failures: int = 0
    refusals: int = 0
    silent: bool = False
    quarantined: bool = False
    location: Hashable = None
    last_error: Exception | None = None
    next_attempt: float | None = None
    ticket: int = 0  # which entry of the queue is the valid one
    # for people
    state: PeerState = "connecting"
    since: float = 0.0
    told: tuple[object, ...] = ()  # what the log said last

    def current_state(self) -> PeerState:
        """The state that follows from the facts above."""
        if self.connected:
            return "connected" if self.named or not self.ours else "missing"
        if self.quarantined and not self.dialling:
            return "quarantined"
        if self.dialling or (self.last_error is None and not self.ups):
            return "connecting"
        return "backing_off"

    def touch(self, now: float) -> None:
        """Note when the state changed; to be called after the facts did."""
        state = self.current_state()
        if state != self.state or not self.since:
            self.state, self.since = state, now

    def recently_lost(self, now: float) -> bool:
        """Whether the peer was a working one a moment ago."""
        return self.lost_at is not None and now - self.lost_at < RECENT

    def is_quiet(self, now: float) -> bool:
        """Whether it said goodbye a moment ago."""
        return self.left_at is not None and now - self.left_at < QUIET

    def is_suspect(self, now: float) -> bool:
        """Whether it is left alone, but its place would tell if it were started anew."""
        if self.connected or self.dialling or self.location is None:
            return False
        return self.quarantined or self.is_quiet(now)

    def pause(self, now: float, poll_interval: float, jitter: float, *, absent: int = 1) -> float:
        """How long (seconds) to leave the peer alone: doubling, with full jitter in 0..1.

        ``absent``: how many peers are not connected.
        """
        if self.recently_lost(now):
            first, cap = FIRST_DELAY, min(poll_interval, CAP_SILENT if self.silent else CAP_REFUSED)
        else:
            first, cap = max(FIRST_DELAY, _fair(absent)), longest_pause(poll_interval, absent)
        doublings = min(max(self.failures - 1, 0), 30)
        return float(jitter * min(cap, first * 2**doublings))

    def quarantine(self) -> float:
        """How long (seconds) to leave the peer alone after its latest refusal."""
        return float(min(LAST_QUARANTINE, FIRST_QUARANTINE * 2 ** min(self.refusals - 1, 30)))

    def named_now(self) -> bool:
        """Note that an answer names the peer; whether it is one of ours only since now."""
        new = not self.ours
        self.named = self.ours = True
        self.excused = False
        self.unnamed_since = self.missing_since = None
        self.missing_answers = 0
        return new

    def unnamed_now(self, now: float, *, evidence: bool) -> None:
        """Note that a complete answer does not name the peer."""
        if self.unnamed_since is None:
            self.unnamed_since = now
        self.named = False
        if evidence:
            if self.missing_since is None:
                self.missing_since = now
            self.missing_answers += 1

    def is_gone(self, now: float, *, after: float, answers: int) -> bool:
        """Whether enough answers, for long enough, were without it."""
        return (
            self.missing_since is not None
            and self.missing_answers >= answers
            and now - self.missing_since >= after
        )

    def is_wanted(self, now: float, prune_after: float) -> bool:
        """Whether it should be connected: named, or lost and missed not for too long."""
        if self.named or self.left_at is not None:
            return self.named
        return (
            self.ours
            and self.ups > 0
            and self.unnamed_since is not None
            and now - self.unnamed_since < prune_after
        )

    def status(self) -> PeerStatus:
        """The snapshot that users see."""
        return PeerStatus(
            state=self.state,
            since=self.since,
            failures=self.failures + self.refusals,
            last_error=self.last_error,
            next_attempt=None if self.connected or self.dialling else self.next_attempt,
            flaps=self.flaps,
        )
