"""Plans of a local node and its peers, and answers for them."""

from __future__ import annotations

from collections.abc import Callable

from barnacle_trio._errors import DiscoveryError, HandshakeRefused, PeerUnreachable
from barnacle_trio._names import NodeName
from barnacle_trio._plan import Plan
from barnacle_trio._rules import Prune, Rules
from barnacle_trio._strategy import Discovery

LOCAL = NodeName("local@h")
A, B, C, D = (NodeName(f"{each}@h") for each in "abcd")


def complete(*names: str) -> Discovery:
    return Discovery(kind="complete", nodes=frozenset(map(NodeName, names)))


def partial(*names: str) -> Discovery:
    error = DiscoveryError("half of it", partial=names)
    return Discovery(kind="partial", nodes=frozenset(map(NodeName, names)), error=error)


def failed() -> Discovery:
    return Discovery(kind="failed", error=DiscoveryError("no"))


def make(
    *,
    rng: float | Callable[[], float] = 1.0,
    poll_interval: float = 5.0,
    prune: Prune = "discovered",
    prune_after: float = 60.0,
    max_prune: float = 1.0,
    max_dials: int = 64,
) -> Plan:
    rules = Rules(
        poll_interval=poll_interval,
        prune=prune,
        prune_after=prune_after,
        max_prune=max_prune,
        max_dials=max_dials,
    )
    return Plan(LOCAL, rules, rng if callable(rng) else lambda: rng)


def with_up(plan: Plan, *names: NodeName, now: float = 0.0) -> Plan:
    plan.answer(complete(*names), now)
    for name in plan.take_dials(now):
        plan.up(name, now)
        plan.dial_ended(name, now)
    return plan


def fail(plan: Plan, name: NodeName, now: float, *, silent: bool = False) -> float:
    """Fail the dial of a peer; returns when the next one is due."""
    plan.dial_ended(name, now)
    plan.failed(name, PeerUnreachable("no"), now, silent=silent)
    due = plan.status()[name].next_attempt
    assert due is not None
    return due


def refuse(plan: Plan, name: NodeName, now: float, location: object = None) -> float:
    plan.dial_ended(name, now)
    plan.refused(name, HandshakeRefused("wrong cookie"), now, location=location)
    due = plan.status()[name].next_attempt
    assert due is not None
    return due - now
