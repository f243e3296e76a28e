"""What an exposed function came to, and how each kind of caller is told.

Pure. Source: the modules "erpc" and "rpc" of OTP, and "Errors and Error Handling" in the reference
manual for what a process exits with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from barnacle_trio._errors import RemoteError
from barnacle_trio.etf import Atom

RETURN = Atom("return")
THROW = Atom("throw")
EXIT = Atom("exit")
ERROR = Atom("error")
NORMAL = Atom("normal")
NOCATCH = Atom("nocatch")
UNDEF = Atom("undef")
BADRPC = Atom("badrpc")
SIGNAL_OF_EXIT = Atom("EXIT")

_KINDS = {"throw": THROW, "exit": EXIT, "error": ERROR}


@dataclass(frozen=True, slots=True)
class Outcome:
    """``kind`` is `RETURN`, `THROW`, `EXIT` or `ERROR`; only the last has a stack."""

    kind: Atom
    value: Any
    stack: list[Any] | tuple[()] = ()


Phrase: TypeAlias = Callable[[Outcome], Any]
"""Makes the term that tells a caller."""


def undefined(module: Atom, function: Atom, arguments: list[Any]) -> Outcome:
    """No function of that name takes so many arguments."""
    return Outcome(ERROR, UNDEF, [(module, function, arguments, [])])


def raised(error: RemoteError) -> Outcome:
    """A function raised what an Erlang function might."""
    kind = _KINDS.get(error.kind, ERROR)
    if kind is not ERROR:
        return Outcome(kind, error.reason)
    stack = error.stack
    return Outcome(kind, error.reason, list(stack) if isinstance(stack, (list, tuple)) else [])


def as_erpc(reference: Any, outcome: Outcome) -> Any:
    """The reason that ``erpc:execute_call/4`` ends with."""
    if outcome.kind is ERROR:
        return (reference, ERROR, outcome.value, list(outcome.stack))
    return (reference, outcome.kind, outcome.value)


def as_exit(outcome: Outcome) -> Any:
    """The reason that a process ends with which runs the function and nothing else."""
    if outcome.kind is RETURN:
        return NORMAL
    if outcome.kind is EXIT:
        return outcome.value
    value = (NOCATCH, outcome.value) if outcome.kind is THROW else outcome.value
    return (value, list(outcome.stack))


def as_rex(outcome: Outcome) -> Any:
    """The reply of ``rex``, who served ``rpc`` before there was ``erpc``."""
    if outcome.kind is RETURN or outcome.kind is THROW:
        return outcome.value
    if outcome.kind is EXIT:
        return badrpc((SIGNAL_OF_EXIT, outcome.value))
    return badrpc((SIGNAL_OF_EXIT, (outcome.value, list(outcome.stack))))


def badrpc(reason: Any) -> Any:
    """A reply of ``rex`` that is no value."""
    return (BADRPC, reason)
