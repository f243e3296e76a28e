"""`merge`, `only` and `fallback`: policy, in virtual time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from barnacle_trio._errors import ConfigurationError, DiscoveryError
from barnacle_trio._names import NodeName
from barnacle_trio._strategy import (
    Discovery,
    LeavingStrategy,
    ServedStrategy,
    Strategy,
    discover,
)
from barnacle_trio.strategies import epmd, fallback, merge, only

LOCAL = NodeName("my_app@10.0.0.1")
A, B, C = "a@10.0.0.2", "b@10.0.0.3", "c@10.0.0.4"


class Source:
    """A strategy that answers as it is told: names, an exception to raise, or after a while."""

    def __init__(self, answer: object, *, after: float = 0.0) -> None:
        self.answer = answer
        self.after = after
        self.asked = 0
        self.cancelled = 0

    async def __call__(self, local: NodeName) -> Iterable[str]:
        self.asked += 1
        try:
            await trio.sleep(self.after)
        except trio.Cancelled:
            self.cancelled += 1
            raise
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[return-value]

    def __repr__(self) -> str:
        return "Source()"


def failing(reason: str = "down") -> Source:
    return Source(DiscoveryError(reason))


def partly(*names: str) -> Source:
    return Source(DiscoveryError("half of it", partial=names))


async def ask(strategy: Strategy, *, within: float = 10.0) -> Discovery:
    with trio.fail_after(within):
        return await discover(strategy, LOCAL)


def told(answer: Discovery) -> tuple[str, set[str]]:
    return answer.kind, set(answer.nodes)


def complaint(answer: Discovery) -> str:
    assert answer.error is not None
    return answer.error.reason


@pytest.mark.parametrize("join", [merge, fallback])
class TestBoth:
    def test_nothing_to_join_is_refused_at_the_call(self, join: Callable[..., Strategy]) -> None:
        with pytest.raises(ConfigurationError, match="at least one"):
            join()

    def test_what_cannot_be_asked_is_refused_at_the_call(
        self, join: Callable[..., Strategy]
    ) -> None:
        with pytest.raises(ConfigurationError, match="strategies"):
            join(Source([]), [A])

    async def test_one_alone_is_as_if_it_stood_there_itself(
        self, join: Callable[..., Strategy]
    ) -> None:
        assert told(await ask(join(Source([A])))) == ("complete", {A})
        assert told(await ask(join(partly(A)))) == ("partial", {A})
        assert told(await ask(join(partly()))) == ("partial", set())
        assert told(await ask(join(failing()))) == ("failed", set())

    async def test_all_failed_is_failed_and_says_why(self, join: Callable[..., Strategy]) -> None:
        answer = await ask(join(failing("no route"), Source(OSError("no socket"))))
        assert told(answer) == ("failed", set())
        assert complaint(answer) == "Source(): no route; Source(): no socket"
        assert answer.error is not None
        assert isinstance(answer.error.__cause__, ExceptionGroup)

    @pytest.mark.parametrize("junk", [None, "a@10.0.0.2", 7])
    async def test_a_bug_in_one_comes_out_plain(
        self, join: Callable[..., Strategy], junk: object
    ) -> None:
        with pytest.raises(ZeroDivisionError):
            await ask(join(Source(ZeroDivisionError()), Source([A])))
        with pytest.raises(TypeError):
            await ask(join(Source(junk), Source([A])))

    async def test_what_is_no_name_is_reported_and_the_rest_kept(
        self, join: Callable[..., Strategy]
    ) -> None:
        answer = await ask(join(Source([A, "nonsense", "ä@h", 7])))
        assert told(answer) == ("complete", {A})
        assert answer.rejected.keys() == {"nonsense", "ä@h", "'7'"}
        answer = await ask(join(Source([A, "nonsense", 7, []]), failing()))
        assert A in answer.nodes

    def test_its_repr_names_its_parts(self, join: Callable[..., Strategy]) -> None:
        async def my_own(local: NodeName) -> list[str]:
            await trio.lowlevel.checkpoint()
            return []

        joined = join(epmd([A]), only(my_own, "a*"))
        assert repr(joined) == (
            f"{join.__name__}(epmd(['{A}']), only({my_own.__qualname__}, 'a*'))"
        )


class TestMerge:
    async def test_the_union_of_all(self, autojump_clock: MockClock) -> None:
        start = trio.current_time()
        answer = await ask(merge(Source([A, B], after=3), Source([B, C], after=4)))
        assert told(answer) == ("complete", {A, B, C})
        assert trio.current_time() - start == 4  # at once, not one after the other

    async def test_one_that_fails_makes_the_answer_partial(self) -> None:
        for trouble in (failing(), Source(OSError()), Source(trio.TooSlowError())):
            assert told(await ask(merge(Source([A]), trouble))) == ("partial", {A})

    async def test_what_a_partial_one_knows_is_kept(self) -> None:
        answer = await ask(merge(partly(A), Source([B]), failing()))
        assert told(answer) == ("partial", {A, B})
        assert told(await ask(merge(partly(A), failing()))) == ("partial", {A})

    async def test_an_empty_answer_beside_a_failure_is_partial(self) -> None:
        assert told(await ask(merge(Source([]), failing()))) == ("partial", set())

    async def test_one_that_hangs_does_not_cost_the_others(self, autojump_clock: MockClock) -> None:
        hanging = Source([B], after=60)
        answer = await ask(merge(Source([A], after=1), hanging), within=10)
        assert told(answer) == ("partial", {A})
        assert complaint(answer) == "Source(): no answer in time"
        assert hanging.cancelled == 1

    async def test_without_a_deadline_it_waits(self, autojump_clock: MockClock) -> None:
        slow = merge(Source([A]), Source([B], after=1000))
        assert told(await discover(slow, LOCAL)) == ("complete", {A, B})

    async def test_a_bug_does_not_wait_for_the_others(self, autojump_clock: MockClock) -> None:
        slow = Source([A], after=5)
        with pytest.raises(ZeroDivisionError):
            await ask(merge(slow, Source(ZeroDivisionError(), after=1)))
        assert trio.current_time() == 1
        assert slow.cancelled == 1

    async def test_cancellation_reaches_all(self, autojump_clock: MockClock) -> None:
        parts = [Source([A], after=5), Source([B], after=5)]
        with trio.move_on_after(1) as scope:
            scope.cancel("the caller's own")
            await merge(*parts)(LOCAL)
        assert scope.cancelled_caught


class TestFallback:
    async def test_the_first_that_answers_is_enough(self) -> None:
        first, second = Source([A]), Source([B])
        assert told(await ask(fallback(first, second))) == ("complete", {A})
        assert second.asked == 0
        assert told(await ask(fallback(Source([]), second))) == ("complete", set())
        assert second.asked == 0

    async def test_a_stand_in_answers_for_the_first(self, caplog: pytest.LogCaptureFixture) -> None:
        third = Source([C])
        joined = fallback(failing("DNS is down"), Source([B]), third)
        for _ in range(3):
            assert told(await ask(joined)) == ("complete", {B})
        assert third.asked == 0
        assert [record.message for record in caplog.records] == [
            "Source(): DNS is down; Source() stands in"
        ]

    async def test_a_stand_in_condemns_nobody_whom_the_first_had_named(self) -> None:
        first = Source([A, B])
        joined = fallback(first, Source([C]))
        assert told(await ask(joined)) == ("complete", {A, B})
        first.answer = DiscoveryError("DNS is down")
        assert told(await ask(joined)) == ("complete", {A, B, C})
        first.answer = [A]
        assert told(await ask(joined)) == ("complete", {A})
        first.answer = DiscoveryError("DNS is down")
        assert told(await ask(joined)) == ("complete", {A, C})

    async def test_what_was_known_in_part_is_kept_beside_the_stand_in(self) -> None:
        assert told(await ask(fallback(partly(A), Source([B])))) == ("partial", {A, B})
        assert told(await ask(fallback(partly(A), failing()))) == ("partial", {A})
        assert told(await ask(fallback(failing(), partly(B)))) == ("partial", {B})

    async def test_one_that_hangs_leaves_time_for_the_others(
        self, autojump_clock: MockClock
    ) -> None:
        hanging = Source([A], after=60)
        answer = await ask(fallback(hanging, hanging, Source([C], after=2)), within=10)
        assert told(answer) == ("complete", {C})
        assert hanging.cancelled == 2

    async def test_hanging_ones_alone_are_a_failure_in_time(
        self, autojump_clock: MockClock
    ) -> None:
        answer = await ask(fallback(Source([A], after=60), Source([B], after=60)), within=10)
        assert told(answer) == ("failed", set())

    async def test_joined_ones_share_the_time_too(self, autojump_clock: MockClock) -> None:
        hanging = Source([A], after=60)
        answer = await ask(merge(fallback(hanging, Source([B])), hanging), within=10)
        assert told(answer) == ("partial", {B})


class TestOnly:
    @pytest.mark.parametrize(
        "match", ["a", "a@*", lambda name: name == A, ["a", lambda name: False]]
    )
    async def test_names_are_chosen(self, match: str) -> None:
        assert told(await ask(only(Source([A, B]), match))) == ("complete", {A})
        assert told(await ask(only(partly(A, B), match))) == ("partial", {A})
        assert told(await ask(only(failing(), match))) == ("failed", set())

    async def test_a_partial_answer_of_which_nothing_is_wanted_stays_partial(self) -> None:
        assert told(await ask(only(partly(B), "a"))) == ("partial", set())

    async def test_what_is_no_name_is_still_reported(self) -> None:
        answer = await ask(only(Source([A, B, "nonsense"]), "a"))
        assert told(answer) == ("complete", {A})
        assert answer.rejected.keys() == {"nonsense"}

    async def test_bugs_come_out_plain(self) -> None:
        def faulty(name: NodeName) -> bool:
            raise ZeroDivisionError(name)

        with pytest.raises(ZeroDivisionError):
            await ask(only(Source([A]), faulty))
        with pytest.raises(KeyError):
            await ask(only(Source(KeyError()), "a"))

    def test_what_is_no_match_is_refused_at_the_call(self) -> None:
        with pytest.raises(ConfigurationError, match="glob"):
            only(Source([]), 7)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="strategies"):
            only(None, "a")  # type: ignore[arg-type]


class Served(Source):
    """A source whose service starts, says that something changed, and crashes after a while.

    One that is ``unable`` neither starts its service nor says goodbye.
    """

    def __init__(
        self, *, starts_in: float = 0.0, crashes: tuple[float, ...] = (), unable: bool = False
    ) -> None:
        super().__init__([A])
        self.starts_in = starts_in
        self.crashes = list(crashes)
        self.unable = unable
        self.starts: list[float] = []
        self.left: list[NodeName] = []
        self.running = False

    async def serve(
        self,
        local: NodeName,
        *,
        changed: Callable[[], None],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        assert local == LOCAL
        self.starts.append(trio.current_time())
        await trio.sleep(self.starts_in)
        if self.unable:
            raise OSError("the port is taken")
        self.running = True
        try:
            task_status.started()
            changed()
            if self.crashes:
                await trio.sleep(self.crashes.pop(0))
                raise ZeroDivisionError("in the service")
            await trio.sleep_forever()
        finally:
            self.running = False

    async def leave(self, local: NodeName) -> None:
        await trio.lowlevel.checkpoint()
        if self.unable:
            raise OSError("no socket")
        self.left.append(local)


def served(strategy: Strategy) -> ServedStrategy:
    assert isinstance(strategy, ServedStrategy)
    return strategy


class TestServing:
    async def test_started_once_all_parts_have(
        self, autojump_clock: MockClock, nursery: trio.Nursery
    ) -> None:
        parts = [Served(starts_in=1), Served(starts_in=3)]
        changes: list[float] = []
        joined = served(fallback(merge(parts[0], only(parts[1], "a")), Source([])))
        await nursery.start(
            partial(joined.serve, LOCAL, changed=lambda: changes.append(trio.current_time()))
        )
        assert trio.current_time() == 3
        assert changes == [1, 3]
        assert all(part.running for part in parts)
        nursery.cancel_scope.cancel("the test is over")

    async def test_parts_that_need_no_service_are_no_hindrance(self, nursery: trio.Nursery) -> None:
        with trio.fail_after(1):
            await nursery.start(
                partial(served(merge(Source([]))).serve, LOCAL, changed=lambda: None)
            )
        nursery.cancel_scope.cancel("the test is over")

    async def test_one_that_crashes_is_served_again_alone(
        self,
        autojump_clock: MockClock,
        nursery: trio.Nursery,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        steady, shaky = Served(), Served(crashes=(1, 1, 1, 40, 1))
        await nursery.start(
            partial(served(merge(steady, shaky)).serve, LOCAL, changed=lambda: None)
        )
        await trio.sleep(100)
        assert steady.starts == [0]
        # 0.1 s doubling after each crash; 40 s of health are a new beginning
        assert shaky.starts == pytest.approx([0, 1.1, 2.3, 3.7, 43.8, 45.0])
        assert shaky.running
        lines = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert len(lines) == 5
        assert [line.exc_info is not None for line in lines] == [True] + [False] * 4
        nursery.cancel_scope.cancel("the test is over")

    async def test_one_that_cannot_start_keeps_nobody_waiting(
        self, autojump_clock: MockClock, nursery: trio.Nursery
    ) -> None:
        good, bad = Served(starts_in=2), Served(unable=True)
        await nursery.start(partial(served(merge(good, bad)).serve, LOCAL, changed=lambda: None))
        assert trio.current_time() == 2
        await trio.sleep(60)
        assert 10 < len(bad.starts) < 20  # tried again every 5 s in the end
        nursery.cancel_scope.cancel("the test is over")

    async def test_one_that_hangs_at_its_start_keeps_nobody_waiting_for_ever(
        self, autojump_clock: MockClock, nursery: trio.Nursery
    ) -> None:
        stuck = merge(Served(), Served(starts_in=1000))
        with trio.fail_after(10):
            await nursery.start(partial(served(stuck).serve, LOCAL, changed=lambda: None))
        await trio.sleep(100)
        nursery.cancel_scope.cancel("the test is over")

    async def test_cancellation_ends_all(self, autojump_clock: MockClock) -> None:
        parts = [Served(), Served(crashes=(1,))]
        with trio.move_on_after(1.05):
            await served(merge(*parts)).serve(LOCAL, changed=lambda: None)
        assert trio.current_time() == 1.05
        assert not any(part.running for part in parts)


class TestLeaving:
    async def test_every_part_says_goodbye_though_one_cannot(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        parts = [Served(), Served(unable=True), Served()]
        joined = merge(only(parts[0], "a"), fallback(parts[1], Source([]), parts[2]))
        assert isinstance(joined, LeavingStrategy)
        await joined.leave(LOCAL)
        assert [part.left for part in parts] == [[LOCAL], [], [LOCAL]]
        assert "no socket" in caplog.text
