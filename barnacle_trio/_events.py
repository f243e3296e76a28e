"""What a barnacle tells: events, results and status, all of them plain frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias

from barnacle_trio._errors import DiscoveryError
from barnacle_trio._names import NodeName

DownReason: TypeAlias = Literal["lost", "silent", "left", "closed_by_us", "pruned", "replaced"]
"""Why a node is down.

``lost``: the connection broke. ``silent``: the peer showed no life for too long. ``left``: it said
goodbye. ``closed_by_us``: somebody in this program disconnected it. ``pruned``: this barnacle
disconnected it, since discovery no longer names it. ``replaced``: a new incarnation took its place.
"""

_NOTHING: Mapping[str, Exception] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshResult:
    """What one round did.

    ``nodes``: the nodes of this barnacle that are connected at its end. ``connected``: those that
    it dialled since the round before (a timed round does not wait for its dials, the next one tells
    of them). ``disconnected``: whom this round pruned. ``failed``: an error for each node that
    could not be connected or disconnected so far, and for each name in the answer that is not a
    node name. ``discovery_error``: set when the answer was partial.
    """

    nodes: frozenset[NodeName] = frozenset()
    connected: frozenset[NodeName] = frozenset()
    disconnected: frozenset[NodeName] = frozenset()
    # 3.11 takes a mappingproxy for a mutable default
    failed: Mapping[str, Exception] = field(default_factory=lambda: _NOTHING)
    discovery_error: DiscoveryError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The root of all events: ``barnacle`` is who tells, ``at`` is Trio's clock (seconds)."""

    barnacle: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeUp(Event):
    """A node joined ``Barnacle.nodes``."""

    node: NodeName


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDown(Event):
    """A node left ``Barnacle.nodes``."""

    node: NodeName
    reason: DownReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Refreshed(Event):
    """A round was completed, from a complete or a partial answer."""

    result: RefreshResult


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshFailed(Event):
    """Discovery failed. Nobody was pruned, and the last good answer stays in use."""

    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused(Event):
    """No rounds until ``resume()`` or ``refresh()``. Connections stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed(Event):
    """Rounds go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draining(Event):
    """The barnacle is leaving the cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutDown(Event):
    """The last event of a barnacle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarted(Event):
    """The poller crashed and was started again; memory and connections were kept."""

    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed(Event):
    """``count`` events did not fit into this listener's buffer.

    ``nodes`` is what ``Barnacle.nodes`` held when this was told, so that the listener can catch up.
    """

    count: int
    nodes: frozenset[NodeName]


PeerState: TypeAlias = Literal["connected", "connecting", "backing_off", "quarantined", "missing"]
BarnacleState: TypeAlias = Literal["running", "paused", "draining", "closed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    """How one node stands. Times are on Trio's clock (seconds).

    ``since``: when ``state`` began. ``failures``: failed dials in a row. ``next_attempt``: when it
    is dialled next, None where no dial is planned. ``flaps``: how often it went down.
    ``missing``: connected, but no longer named by discovery.
    """

    state: PeerState
    since: float
    failures: int = 0
    last_error: Exception | None = None
    next_attempt: float | None = None
    flaps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A snapshot of a barnacle.

    ``last_refresh``: when a round last ended well, on Trio's clock (seconds). ``refreshes``: how
    many did. ``last_error``: of the last round, None if it went well. ``restarts``: crashes of the
    poller so far. ``missed``: events that listeners had no room for.
    """

    state: BarnacleState
    nodes: frozenset[NodeName]
    peers: Mapping[str, PeerStatus]
    last_refresh: float | None
    last_error: Exception | None
    refreshes: int
    restarts: int
    missed: int
