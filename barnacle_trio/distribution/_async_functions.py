"""Telling async functions from those that would hold up the node, before they are called."""

from __future__ import annotations

import functools
import inspect


def why_not_async(function: object) -> str | None:
    """What is wrong with an object that is to be an async function; None if nothing is seen.

    A lambda and whatever wraps another function may return an awaitable: they are believed.
    """
    if not callable(function):
        return "cannot be called"
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, type):
        return "is a class"
    # A bound method tells what its function is.
    if inspect.isasyncgenfunction(function):
        return "is an async generator, and cannot be awaited"
    if inspect.isbuiltin(function):
        return "is no async function, and would hold up the node"
    if not (inspect.isfunction(function) or inspect.ismethod(function)):
        return None  # an object with `__call__`
    if (
        inspect.iscoroutinefunction(function)
        or function.__name__ == "<lambda>"
        or hasattr(function, "__wrapped__")
    ):
        return None
    return "is no async function, and would hold up the node"
