"""The outer edge: whatever went wrong becomes one line and an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import trio
from cyclopts import CycloptsError

from barnacle_trio import (
    BarnacleCrashed,
    BarnacleError,
    ConfigurationError,
    NodeCrashed,
)

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
PARTIAL: Final = 3
BUG: Final = 70
"""A fault in this program (EX_SOFTWARE of sysexits.h)."""
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141
"""As a shell reports a program that SIGPIPE ended."""

_LONGEST = 1000  # characters of a line; a node lists its peers, and there may be many


class Failed(Exception):
    """What was asked for did not come about: one line, and the exit code to leave with."""

    def __init__(self, reason: str, *, code: int = FAILED) -> None:
        super().__init__(reason)
        self.code = code


def judge(error: BaseException) -> tuple[int, str | None]:
    """The exit code for an error, and the line to print (None where nothing need be said)."""
    leaves = list(_leaves(error))
    if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
        return INTERRUPTED, None
    # rich leaves by SystemExit when nobody reads on
    if any(isinstance(leaf, BrokenPipeError | SystemExit) for leaf in leaves):
        return BROKEN_PIPE, None
    judged = [_judge_one(leaf) for leaf in leaves if not isinstance(leaf, trio.Cancelled)]
    if not judged:
        return INTERRUPTED, None
    code = max(code for code, _ in judged)
    lines = dict.fromkeys(line for of, line in judged if of == code)
    return code, one_line("; ".join(lines))


def one_line(text: str) -> str:
    """Text without line ends, tabs and other control characters, and not endless."""
    words = " ".join(text.split())
    shown = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in words)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."


def _judge_one(error: BaseException) -> tuple[int, str]:
    match error:
        case Failed():
            return error.code, str(error)
        case CycloptsError():
            return USAGE, f"{error} (see --help)"
        case ConfigurationError():
            return USAGE, str(error).replace("insecure_cookie=True", "--insecure-cookie")
        case BarnacleCrashed() | NodeCrashed() if error.__cause__ is not None:
            causes = (f"{type(leaf).__name__}: {leaf}" for leaf in _leaves(error.__cause__))
            return FAILED, f"{error}: {'; '.join(causes)}"
        case BarnacleError() | OSError():
            return FAILED, str(error) or type(error).__name__
        case trio.TooSlowError():
            return FAILED, "no answer in time"
        case _:
            return BUG, f"internal error: {type(error).__name__}: {error}"


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error
