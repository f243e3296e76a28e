"""Values that can be waited for: the one room that knows trio-util."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from operator import ne
from typing import Generic, TypeVar

import trio
import trio_util

T = TypeVar("T")


class _Guard:
    """Runs a waiter's predicate in the setter's task, but keeps its exception for the waiter."""

    def __init__(self, predicate: Callable[..., bool]) -> None:
        self._predicate = predicate
        self.error: Exception | None = None

    def __call__(self, *values: object) -> bool:
        if self.error is None:
            try:
                return bool(self._predicate(*values))
            except Exception as error:
                self.error = error
        return True  # wakes the waiter, which raises

    def check(self) -> None:
        if self.error is not None:
            raise self.error


class _Break:
    """Becomes true, and stays so, once a predicate does not hold or fails.

    It is asked about each value when that is set, so a break that nobody was awake for counts too.
    """

    def __init__(self, guard: _Guard) -> None:
        self._guard = guard
        self.seen = False

    def __call__(self, value: object) -> bool:
        if not self._guard(value) or self._guard.error is not None:
            self.seen = True
        return self.seen


def _anything(*_values: object) -> bool:
    return True


def _guard(value_or_predicate: object) -> _Guard:
    if callable(value_or_predicate):
        return _Guard(value_or_predicate)
    return _Guard(lambda value, *_old: bool(value == value_or_predicate))


class AsyncValue(Generic[T]):
    """A live value that is read and waited for, and set by its owner alone.

    The waiting methods are trio-util's, but for what must be held. A predicate that raises does so
    in the task that waits, never in the one that sets the value. Made by `Settable`.
    """

    __slots__ = ("_source",)

    def __init__(self, source: trio_util.AsyncValue[T]) -> None:
        self._source = source

    @property
    def value(self) -> T:
        """The value as it is now."""
        return self._source.value

    async def wait_value(
        self, value_or_predicate: T | Callable[[T], bool], *, held_for: float = 0.0
    ) -> T:
        """Wait until the value equals the one given, or the predicate holds, and return it.

        It may have changed again by then, unless it had to be held: that returns the value of now.

        Args:
          value_or_predicate: a value, or a function of one.
          held_for: seconds for which it must have stayed so without a break, however short.

        Raises:
          Exception: what the predicate raised.
        """
        guard = _guard(value_or_predicate)
        if held_for > 0:
            return await self._wait_held(guard, held_for)
        value = await self._source.wait_value(guard)
        guard.check()
        return value

    async def _wait_held(self, guard: _Guard, held_for: float) -> T:
        while True:
            await self._source.wait_value(guard)
            guard.check()
            broken = _Break(guard)
            with trio.move_on_after(held_for):
                await self._source.wait_value(broken)  # looks at the value of now first
            guard.check()
            if not broken.seen:  # nor between the deadline and now
                return self.value

    async def wait_transition(
        self, value_or_predicate: T | Callable[[T, T], bool] = _anything
    ) -> tuple[T, T]:
        """Wait for the next change (to a value, or one that ``predicate(new, old)`` accepts).

        Returns the new value and the old one; of several changes at once, those of the last that
        is accepted. Raises what the predicate raised.
        """
        guard = _guard(value_or_predicate)
        values = await self._source.wait_transition(guard)
        guard.check()
        return values

    async def eventual_values(  # noqa: ASYNC900 - trio-util's own shape, see the docstring
        self, value_or_predicate: T | Callable[[T], bool] = _anything, *, held_for: float = 0.0
    ) -> AsyncGenerator[T, None]:
        """Iterate over the value now and after changes; rapid ones are skipped, the last never.

        An async generator: close it by ``contextlib.aclosing``.

        Args:
          value_or_predicate: a value, or a function of one: what does not match is left out.
          held_for: seconds for which it must have matched without a break, however short, since
            the change. Each value is the one of when it is given.

        Raises:
          Exception: what the predicate raised.
        """
        guard = _guard(value_or_predicate)
        if held_for > 0:
            while True:
                value = await self._wait_held(guard, held_for)
                yield value  # noqa: ASYNC119 - users are told to close it by aclosing
                await self._source.wait_value(partial(ne, value))
        async with aclosing(self._source.eventual_values(guard)) as values:
            async for value in values:
                guard.check()
                yield value  # noqa: ASYNC119 - as above

    async def transitions(  # noqa: ASYNC900 - as above
        self, value_or_predicate: T | Callable[[T, T], bool] = _anything
    ) -> AsyncGenerator[tuple[T, T], None]:
        """Iterate over ``(new, old)``; changes while the body is busy are not seen, and of several
        at once only the last that is accepted.

        An async generator: close it by ``contextlib.aclosing``.
        """
        guard = _guard(value_or_predicate)
        async with aclosing(self._source.transitions(guard)) as values:
            async for value in values:
                guard.check()
                yield value  # noqa: ASYNC119 - users are told to close it by aclosing

    def __repr__(self) -> str:
        return f"<AsyncValue {self.value!r}>"


class Settable(Generic[T]):
    """The owner's end of an `AsyncValue`. Values are immutable and are compared by ``!=``."""

    __slots__ = ("_source", "view")

    def __init__(self, value: T) -> None:
        self._source: trio_util.AsyncValue[T] = trio_util.AsyncValue(value)
        self.view: AsyncValue[T] = AsyncValue(self._source)

    @property
    def value(self) -> T:
        """The value as it is now; setting it wakes those who wait for it."""
        return self._source.value

    @value.setter
    def value(self, value: T) -> None:
        self._source.value = value
