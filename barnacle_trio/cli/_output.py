"""Lines for standard output, written where a reader that stalls does not stop the event loop.

A node whose loop stands still is taken for dead by its peers; a pipe that nobody reads must not do
that. So lines are written in a thread, and one that cannot be written in the end is given up.
"""

from __future__ import annotations

import json
import os
import select
from collections.abc import Iterable, Mapping
from functools import partial

import trio

_STDOUT = 1


async def write_lines(lines: Iterable[str]) -> None:
    """Write several lines at once, or none. See `write_line`."""
    text = "\n".join(lines)
    if text:
        await write_line(text)
    else:
        await trio.lowlevel.checkpoint()


async def write_line(text: str) -> None:
    """Write one line.

    If cancelled, the line may still be written, later or in part.

    Raises:
      BrokenPipeError: nobody will ever read it.
    """
    data = f"{text}\n".encode(errors="backslashreplace")
    await trio.to_thread.run_sync(partial(_write_all, data), abandon_on_cancel=True)


async def write_json(fields: Mapping[str, object]) -> None:
    """Write one object on a line of its own. See `write_line`."""
    await write_line(json.dumps(fields))


async def wait_for_end_of_input() -> None:
    """Return once standard input ends."""
    await trio.to_thread.run_sync(_read_to_the_end, abandon_on_cancel=True)


def _write_all(data: bytes) -> None:
    # Not by sys.stdout: its lock would stay with a thread that was given up, and hold up the exit.
    while data:
        try:
            data = data[os.write(_STDOUT, data) :]
        except BlockingIOError:  # another program made our end of it non-blocking
            select.select([], [_STDOUT], [])


def _read_to_the_end() -> None:
    try:
        while os.read(0, 4096):
            pass
    except OSError:
        return  # none, or a terminal that is gone
