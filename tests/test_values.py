"""Values that are waited for, and whose faults are the waiter's."""

from __future__ import annotations

from contextlib import aclosing

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from barnacle_trio import AsyncValue
from barnacle_trio._values import Settable


async def test_waiting_for_a_value_or_a_predicate(autojump_clock: MockClock) -> None:
    source = Settable(0)
    seen: list[int] = []

    async def wait() -> None:
        seen.append(await source.view.wait_value(3))
        seen.append(await source.view.wait_value(lambda value: value > 3))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        for value in (1, 3, 2, 7):
            await wait_all_tasks_blocked()
            source.value = value
    assert seen == [3, 7]


async def test_a_value_that_must_be_held(autojump_clock: MockClock) -> None:
    source = Settable(1)
    async with trio.open_nursery() as nursery:

        async def flicker() -> None:
            await trio.sleep(1)
            source.value = 0
            await trio.sleep(1)
            source.value = 1

        nursery.start_soon(flicker)
        await source.view.wait_value(1, held_for=1.5)
        assert trio.current_time() == pytest.approx(3.5)


async def test_a_faulty_predicate_fails_its_waiter_alone() -> None:
    source = Settable(0)

    async def faulty() -> None:
        with pytest.raises(ZeroDivisionError):
            await source.view.wait_value(lambda value: 1 // (value - 1) > 5)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(faulty)
        nursery.start_soon(source.view.wait_value, 1)
        await wait_all_tasks_blocked()
        source.value = 1  # raises nothing here
        assert source.value == 1


async def test_a_predicate_that_is_faulty_at_once() -> None:
    with pytest.raises(ZeroDivisionError):
        await Settable(0).view.wait_value(lambda value: 1 // value > 0)


async def test_users_cannot_set_a_view() -> None:
    view: AsyncValue[int] = Settable(0).view
    with pytest.raises(AttributeError):
        view.value = 1  # type: ignore[misc]


async def test_transitions_and_eventual_values(autojump_clock: MockClock) -> None:
    source = Settable(0)
    changes: list[tuple[int, int]] = []
    values: list[int] = []

    async def follow_changes() -> None:
        async with aclosing(source.view.transitions()) as transitions:
            async for change in transitions:
                changes.append(change)
                if change[0] == 3:
                    return

    async def follow_values() -> None:
        async with aclosing(source.view.eventual_values(lambda value: value != 2)) as eventual:
            async for value in eventual:
                values.append(value)
                if value == 3:
                    return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow_changes)
        nursery.start_soon(follow_values)
        for value in (1, 2, 3):
            await wait_all_tasks_blocked()
            source.value = value
    assert changes == [(1, 0), (2, 1), (3, 2)]
    assert values == [0, 1, 3]


async def test_a_faulty_predicate_of_a_transition() -> None:
    source = Settable(0)

    async def wait() -> None:
        with pytest.raises(ZeroDivisionError):
            await source.view.wait_transition(lambda new, old: new // 0 > old)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        source.value = 4
