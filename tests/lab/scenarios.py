"""All scenarios, by name."""

from __future__ import annotations

from tests.lab import networks, processes, random_faults
from tests.lab.scenario import SCENARIOS, Result

__all__ = ["SCENARIOS", "Result", "networks", "processes", "random_faults"]
