"""Tasks that are started again, one for one."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from barnacle_trio._barnacle import Barnacle
from barnacle_trio._errors import BarnacleCrashed, ConfigurationError
from barnacle_trio._events import NodeUp, ShutDown
from barnacle_trio._running import barnacle_child
from barnacle_trio._supervisor import ChildSpec, Intensity, RestartPolicy, supervise
from barnacle_trio.testing import EventRecorder, FakeTransport, ScriptedStrategy
from tests.barnacles import A
from tests.checkpoints import cancel_at_every_checkpoint


class Child:
    """A task that ends some time after its start, as often as it is started."""

    def __init__(
        self,
        *,
        lives: float = 1.0,
        error: BaseException | None = None,
        crashes: float = float("inf"),
    ) -> None:
        self.lives = lives
        self.error = error
        self.crashes = crashes
        self.starts: list[float] = []
        self.running = 0

    async def __call__(self, *, task_status: trio.TaskStatus[int]) -> None:
        self.starts.append(trio.current_time())
        task_status.started(len(self.starts))
        self.running += 1
        try:
            if len(self.starts) > self.crashes:
                await trio.sleep_forever()
            await trio.sleep(self.lives)
            if self.error is not None:
                raise self.error
        finally:
            self.running -= 1


async def test_a_child_that_crashes_is_started_again_alone(autojump_clock: MockClock) -> None:
    bad, good = Child(error=ValueError("bug"), crashes=3), Child(lives=1000)
    with trio.move_on_after(100):
        await supervise(ChildSpec("bad", bad), ChildSpec("good", good))
    assert bad.starts == [0.0, 1.0, 2.0, 3.0]
    assert good.starts == [0.0]
    assert bad.running == good.running == 0


async def test_one_crash_too_many_escalates(autojump_clock: MockClock) -> None:
    bug = ValueError("bug")
    bad, good = Child(error=bug), Child(lives=1000)
    with pytest.raises(BarnacleCrashed, match="bad ended more than 3 times within 5 s") as caught:
        await supervise(ChildSpec("bad", bad), ChildSpec("good", good))
    assert caught.value.__cause__ is bug
    assert bad.starts == [0.0, 1.0, 2.0, 3.0]
    assert good.running == 0, "the others are cancelled"


async def test_crashes_that_are_far_apart_are_borne(autojump_clock: MockClock) -> None:
    bad = Child(lives=2, error=ValueError("bug"))
    with trio.move_on_after(200):
        await supervise(ChildSpec("bad", bad))
    assert len(bad.starts) == 100


async def test_the_intensity_is_of_all_children_together(autojump_clock: MockClock) -> None:
    children = [ChildSpec(f"c{n}", Child(lives=4, error=ValueError())) for n in range(4)]
    with pytest.raises(BarnacleCrashed):
        await supervise(*children)
    assert trio.current_time() == 4.0


@pytest.mark.parametrize(
    ("restart", "error", "starts"),
    [
        ("permanent", None, 4),
        ("permanent", ValueError(), 4),
        ("transient", None, 1),
        ("transient", ValueError(), 4),
        ("temporary", None, 1),
        ("temporary", ValueError(), 1),
    ],
)
async def test_what_restarts_whom(
    restart: Any, error: Exception | None, starts: int, autojump_clock: MockClock
) -> None:
    child = Child(lives=100, error=error, crashes=3)
    with trio.move_on_after(10_000) as scope:
        await supervise(ChildSpec("child", child, restart=restart))
    assert len(child.starts) == starts
    assert scope.cancelled_caught == (starts > 1), "it returns when every child has ended"


async def test_without_a_bound_it_slows_down(autojump_clock: MockClock) -> None:
    bad = Child(lives=0, error=ValueError())
    with trio.move_on_after(100):
        await supervise(ChildSpec("bad", bad), restart_policy=RestartPolicy())
    assert bad.starts[:4] == pytest.approx([0.0, 0.1, 0.3, 0.7])
    assert len(bad.starts) in range(20, 30)


async def test_on_start_is_told_the_value_after_each_start(autojump_clock: MockClock) -> None:
    told: list[int] = []
    child = Child(lives=10, error=ValueError(), crashes=2)
    with trio.move_on_after(100):
        await supervise(ChildSpec("child", child, on_start=told.append))
    assert told == [1, 2, 3]


async def test_what_on_start_raises_is_a_crash(autojump_clock: MockClock) -> None:
    def bug(_value: int) -> None:
        raise KeyError("bug")

    child = Child(lives=1000)
    with pytest.raises(BarnacleCrashed) as caught:
        await supervise(ChildSpec("child", child, on_start=bug))
    assert isinstance(caught.value.__cause__, KeyError)
    assert len(child.starts) == 4
    assert child.running == 0


async def test_children_start_in_order_and_start_tells_when_all_are_up(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    order: list[str] = []

    async def slow(name: str, *, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(3)
        order.append(name)
        task_status.started()
        await trio.sleep_forever()

    await nursery.start(
        partial(
            supervise,
            ChildSpec("one", partial(slow, "one")),
            ChildSpec("two", partial(slow, "two")),
        )
    )
    assert order == ["one", "two"]
    assert trio.current_time() == 6.0
    nursery.cancel_scope.cancel()


async def test_a_first_start_that_fails_is_the_callers_to_know(autojump_clock: MockClock) -> None:
    async def taken(*, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC128
        await trio.sleep(1)
        raise OSError("the port is taken")

    other = Child(lives=1000)
    async with trio.open_nursery() as nursery:
        with pytest.raises(OSError, match="taken"):
            await nursery.start(partial(supervise, ChildSpec("o", other), ChildSpec("t", taken)))
    assert other.running == 0


async def test_a_childs_group_comes_as_the_cause(autojump_clock: MockClock) -> None:
    group = ExceptionGroup("two", [KeyError(), ValueError()])
    with pytest.raises(BarnacleCrashed) as caught:
        await supervise(
            ChildSpec("child", Child(error=group)), restart_policy=RestartPolicy(max_restarts=0)
        )
    cause = caught.value.__cause__
    assert isinstance(cause, ExceptionGroup)
    assert cause.message == group.message
    assert cause.exceptions == group.exceptions


async def test_a_keyboard_interrupt_is_never_hidden(autojump_clock: MockClock) -> None:
    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
        await supervise(ChildSpec("child", Child(error=KeyboardInterrupt())))


async def test_cancelling_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    child = Child(lives=1, error=ValueError(), crashes=1)

    async def run() -> None:
        child.starts.clear()
        with trio.move_on_after(10):
            await supervise(ChildSpec("child", child))

    async def nothing_is_left() -> None:
        await trio.lowlevel.checkpoint()
        assert child.running == 0

    await cancel_at_every_checkpoint(run, nothing_is_left)


async def test_a_crash_is_logged_with_its_traceback(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    with trio.move_on_after(10):
        await supervise(ChildSpec("bad", Child(error=ValueError("bug"), crashes=1)))
    [record] = caplog.records
    assert record.getMessage() == "[bad] crashed; started again at once"
    assert record.exc_info
    caplog.clear()
    with trio.move_on_after(10):
        policy = RestartPolicy(max_restarts=None)
        await supervise(ChildSpec("bad", Child(crashes=1)), restart_policy=policy)
    assert [record.getMessage() for record in caplog.records] == [
        "[bad] ended; started again in 0.1 s"
    ]


def test_nothing_to_supervise_and_wrong_settings_are_said_at_once() -> None:
    with pytest.raises(ConfigurationError):
        trio.run(supervise)
    for wrong in ({"max_restarts": -1}, {"max_restarts": True}, {"within": 0}, {"within": -1.0}):
        with pytest.raises(ConfigurationError):
            RestartPolicy(**wrong)
    with pytest.raises(ConfigurationError, match="restart is"):
        ChildSpec("child", Child(), restart="always")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="async function"):
        ChildSpec("child", 7)  # type: ignore[arg-type]


def test_intensity_counts_within_a_window() -> None:
    intensity = Intensity(RestartPolicy(max_restarts=2, within=5))
    assert [intensity.crashed(now) for now in (0.0, 3.0, 6.0, 7.0)] == [False, False, False, True]
    assert intensity.delay(5.0) == pytest.approx(0.8)
    intensity.recovered()
    assert not intensity.crashed(7.0)
    assert intensity.delay(5.0) == pytest.approx(0.1)


# -- a barnacle as a child -------------------------------------------------------------------------


async def test_a_barnacle_is_a_child(autojump_clock: MockClock) -> None:
    barnacles: list[Barnacle] = []
    transport, strategy = FakeTransport(reachable=[A]), ScriptedStrategy([A])
    child = barnacle_child(
        strategy,
        transport,
        name="mine",
        on_start=barnacles.append,
        restart_policy=RestartPolicy(max_restarts=0),
    )
    assert child.name == "mine"
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(supervise, child, restart_policy=RestartPolicy()))
        await barnacles[0].wait_for_nodes(1)
        strategy.answer = ValueError("bug")
        await trio.sleep(10)
        assert len(barnacles) >= 2, "it crashed and was started again"
        strategy.answer = [A]
        await trio.sleep(10)
        await barnacles[-1].wait_for_nodes(1)
        await barnacles[-1].shutdown()


async def test_listeners_of_a_child_may_come_from_an_iterator(autojump_clock: MockClock) -> None:
    recorder, strategy = EventRecorder(), ScriptedStrategy(ValueError("bug"), [A])
    child = barnacle_child(
        strategy,
        FakeTransport(reachable=[A]),
        listener=iter([recorder.send]),
        restart_policy=RestartPolicy(max_restarts=0),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(supervise, child, restart_policy=RestartPolicy()))
        with trio.fail_after(10):
            await recorder.wait_for(ShutDown)  # of the one that crashed
            await recorder.wait_for(NodeUp)  # of the next
        nursery.cancel_scope.cancel()


def test_a_barnacle_that_cannot_work_is_said_when_the_child_is_made() -> None:
    with pytest.raises(ConfigurationError):
        barnacle_child(ScriptedStrategy(), FakeTransport(), poll_interval=0)
