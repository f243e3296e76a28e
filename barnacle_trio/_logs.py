"""What log lines have in common: those that a peer can cause, but not flood; those told twice."""

from __future__ import annotations

import logging
from typing import Final

import trio

ALSO_AN_EVENT: Final = {"also_an_event": True}
"""The ``extra`` of log lines whose news are events too: who shows these may leave them out."""


class RateLimited:
    """Lets one line through every so often and says how many it kept back.

    Args:
      logger: where the lines go.
      every: seconds, on Trio's clock, between two of them.
    """

    def __init__(self, logger: logging.Logger, *, every: float = 10.0) -> None:
        self._logger = logger
        self._every = every
        self._next = float("-inf")
        self._kept_back = 0

    def warning(self, text: str, *args: object, error: BaseException | None = None) -> None:
        """Log a warning, with the traceback of an error if one is given, or count it.

        Arguments from a peer must be shortened by the caller.
        """
        now = trio.current_time()
        if now < self._next:
            self._kept_back += 1
            self._logger.debug(text, *args)
            return
        self._next = now + self._every
        if self._kept_back:
            text += " (and %d more like it were not logged)"
            args = (*args, self._kept_back)
            self._kept_back = 0
        self._logger.warning(text, *args, exc_info=error)
