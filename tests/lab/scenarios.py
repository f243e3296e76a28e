"""All scenarios, by name."""

from __future__ import annotations

from tests.lab import loopback, name_service, networks, processes, random_faults
from tests.lab.scenario import SCENARIOS, Result

__all__ = [
    "SCENARIOS",
    "Result",
    "loopback",
    "name_service",
    "networks",
    "processes",
    "random_faults",
]
