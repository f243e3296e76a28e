"""The library's log on standard error, one line for each record."""

from __future__ import annotations

import logging
from typing import Final

from barnacle_trio.cli._edge import one_line

_QUIET: Final = logging.CRITICAL + 1


def set_up_logging(verbosity: int, *, stays: bool) -> None:
    """Show the library's log.

    Args:
      verbosity: 0 shows warnings of commands that stay, and nothing of those that ask and end (the
        answer and the error say it all); 1 adds what happens, 2 each step. From 1 on, tracebacks
        are shown.
      stays: whether the command is one that stays.
    """
    levels = (logging.WARNING if stays else _QUIET, logging.INFO, logging.DEBUG)
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine(tracebacks=verbosity > 0))
    logger = logging.getLogger("barnacle_trio")
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(levels[min(max(verbosity, 0), 2)])


class _OneLine(logging.Formatter):
    """``barnacle: warning: text``; tracebacks follow only where they are wanted."""

    def __init__(self, *, tracebacks: bool) -> None:
        super().__init__()
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        line = f"barnacle: {record.levelname.lower()}: {one_line(record.getMessage())}"
        if self._tracebacks and record.exc_info:
            return f"{line}\n{self.formatException(record.exc_info)}"
        return line
