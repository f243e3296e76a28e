"""Values that are waited for, and whose faults are the waiter's."""

from __future__ import annotations

from contextlib import aclosing

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from barnacle_trio import AsyncValue
from barnacle_trio._values import Settable
from tests.barnacles import A, B, open_world, settle


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


async def test_what_was_held_is_returned_as_it_is_at_the_end(autojump_clock: MockClock) -> None:
    source = Settable(1)
    async with trio.open_nursery() as nursery:

        async def grow() -> None:
            await trio.sleep(3)
            source.value = 2

        nursery.start_soon(grow)
        assert await source.view.wait_value(lambda value: value > 0, held_for=5) == 2
        assert trio.current_time() == pytest.approx(5)


async def test_a_break_without_duration_is_a_break_all_the_same(autojump_clock: MockClock) -> None:
    source = Settable(1)
    async with trio.open_nursery() as nursery:

        async def blink() -> None:
            await trio.sleep(3)
            source.value = 0
            source.value = 1

        nursery.start_soon(blink)
        await source.view.wait_value(1, held_for=5)
        assert trio.current_time() == pytest.approx(8)


@pytest.mark.parametrize("back", [False, True])
async def test_a_break_in_the_last_moment_is_a_break(back: bool, autojump_clock: MockClock) -> None:
    """Whichever of the two that are due at the same time is run first."""

    async def wait(source: Settable[int], returned: list[tuple[float, int]]) -> None:
        value = await source.view.wait_value(lambda value: value > 0, held_for=5)
        returned.append((trio.current_time(), value))

    for _ in range(20):
        source = Settable(1)
        returned: list[tuple[float, int]] = []
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, source, returned)
            await wait_all_tasks_blocked()
            await trio.sleep_until(began + 5)
            in_time = bool(returned)
            source.value = 0
            if back:
                source.value = 2
            await trio.sleep(1)
            source.value = 3
        late = began + (10 if back else 11)
        assert returned == [(began + 5, 1) if in_time else (late, 3)]


async def test_eventual_values_are_held_before_they_come(autojump_clock: MockClock) -> None:
    source = Settable(0)
    seen: list[tuple[float, int]] = []

    async def follow() -> None:
        values = source.view.eventual_values(lambda value: value > 0, held_for=5)
        async with aclosing(values):
            async for value in values:
                seen.append((trio.current_time(), value))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        for value in (1, 0, 2, 3):  # at 1, 2, 3 and 4 s
            await trio.sleep(1)
            source.value = value
        await trio.sleep(16)
        source.value = 0
        source.value = 4
        await trio.sleep(3)
        source.value = 5
        await trio.sleep(30)
        source.value = 6
        source.value = 0
        await trio.sleep(30)
        nursery.cancel_scope.cancel()
    assert seen == [(8, 3), (25, 5)]


async def test_a_state_without_duration_is_no_eventual_value(autojump_clock: MockClock) -> None:
    async with open_world(A, B) as world:
        await world.barnacle.wait_for_nodes(2)
        few: list[frozenset[str]] = []

        async def follow() -> None:
            values = world.barnacle.nodes.eventual_values(lambda nodes: len(nodes) < 2, held_for=5)
            async with aclosing(values):
                async for value in values:
                    few.append(value)

        with trio.move_on_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow)
                await settle()
                world.transport.dial_in(A)  # it is down and up in one call
        assert few == []


async def test_a_faulty_predicate_fails_its_waiter_while_it_must_be_held(
    autojump_clock: MockClock,
) -> None:
    source = Settable(1)

    async def wait() -> None:
        with pytest.raises(ZeroDivisionError):
            await source.view.wait_value(lambda value: 1 // value > 0, held_for=5)
        assert trio.current_time() == pytest.approx(2)

    async def follow() -> None:
        values = source.view.eventual_values(lambda value: 1 // value > 0, held_for=5)
        async with aclosing(values):
            with pytest.raises(ZeroDivisionError):
                await anext(values)
        assert trio.current_time() == pytest.approx(2)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        nursery.start_soon(follow)
        await trio.sleep(2)
        source.value = 0


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
