"""How much of a thing tests do: little in CI, much when asked for.

BARNACLE_TRIO_LONG=1 python -m pytest tests/test_messages_long.py
"""

from __future__ import annotations

import gc
import os
from pathlib import Path

LONG = bool(os.environ.get("BARNACLE_TRIO_LONG"))


def scaled(short: int, long: int) -> int:
    """A number for every run, and one for the long form."""
    return long if LONG else short


def resident() -> int:
    """Bytes of memory that this process has in use."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def descriptors() -> int:
    """How many files and sockets this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
