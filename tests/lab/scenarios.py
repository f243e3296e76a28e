"""All scenarios, by name."""

from __future__ import annotations

from tests.lab import loopback, networks, processes, random_faults
from tests.lab.scenario import SCENARIOS, Result

__all__ = ["SCENARIOS", "Result", "loopback", "networks", "processes", "random_faults"]
