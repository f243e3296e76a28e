"""What every harness asks of what it is told."""

from __future__ import annotations


def check_brief(error: Exception, limit: int = 900) -> None:
    """An error fits into a log, however much the peer sent."""
    assert len(str(error)) < limit
