"""The library's log on standard error, one line for each record."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from typing import Final

from barnacle_trio.cli._edge import one_line
from barnacle_trio.cli._events_shown import clock

_QUIET: Final = logging.CRITICAL + 1
_STDOUT, _STDERR = 1, 2


def set_up_logging(verbosity: int, *, stays: bool, shows_events: bool = False) -> None:
    """Show the library's log.

    Args:
      verbosity: 0 shows warnings of commands that stay, and nothing of those that ask and end (the
        answer and the error say it all); 1 adds what happens, 2 each step. From 1 on, tracebacks
        are shown.
      stays: whether the command is one that stays.
      shows_events: whether it prints events as lines for people. Where these and the log are read
        on the same screen, warnings of which an event tells too are left out, unless a
        ``verbosity`` asks for the log.
    """
    levels = (logging.WARNING if stays else _QUIET, logging.INFO, logging.DEBUG)
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine(tracebacks=verbosity > 0))
    if shows_events and verbosity <= 0 and os.isatty(_STDOUT) and os.isatty(_STDERR):
        handler.addFilter(_is_news)
    logger = logging.getLogger("barnacle_trio")
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(levels[min(max(verbosity, 0), 2)])


def _is_news(record: logging.LogRecord) -> bool:
    return not getattr(record, "also_an_event", False)


class _OneLine(logging.Formatter):
    """``12:34:56.789  barnacle: warning: text``; tracebacks follow only where they are wanted."""

    def __init__(self, *, tracebacks: bool) -> None:
        super().__init__()
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        at = clock(datetime.fromtimestamp(record.created, UTC).astimezone())
        line = f"{at}  barnacle: {record.levelname.lower()}: {one_line(record.getMessage())}"
        if self._tracebacks and record.exc_info:
            return f"{line}\n{self.formatException(record.exc_info)}"
        return line
