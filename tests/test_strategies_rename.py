"""`rename`: other names for the same nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import pytest
import trio

from barnacle_trio._errors import ConfigurationError, DiscoveryError
from barnacle_trio._names import NodeName
from barnacle_trio._strategy import Discovery, LeavingStrategy, ServedStrategy, Strategy, discover
from barnacle_trio.strategies import epmd, rename

LOCAL = NodeName("my_app@10.0.0.1")
A, B = "a@10.0.0.2", "b@10.0.0.3"


def answering(answer: object) -> Strategy:
    async def source(local: NodeName) -> Iterable[str]:
        await trio.lowlevel.checkpoint()
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[return-value]

    return source


async def ask(strategy: Strategy) -> Discovery:
    with trio.fail_after(5):
        return await discover(strategy, LOCAL)


def worker(name: NodeName) -> str:
    return f"worker@{name.host}"


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (worker, {"worker@10.0.0.2", "worker@10.0.0.3"}),
        (lambda name: None if name.basename == "a" else name, {B}),
        (lambda name: [f"x@{name.host}", f"y@{name.host}"][: 1 + (name == B)], None),
        (lambda name: (f"{n}@{name.host}" for n in "x"), {"x@10.0.0.2", "x@10.0.0.3"}),
        (lambda _name: "one@10.0.0.9", {"one@10.0.0.9"}),
        (lambda _name: (), set()),
    ],
)
async def test_a_function_makes_the_names(
    fn: Callable[[NodeName], str], expected: set[str] | None
) -> None:
    if expected is None:
        expected = {"x@10.0.0.2", "x@10.0.0.3", "y@10.0.0.3"}
    answer = await ask(rename(epmd([A, B]), fn))
    assert (answer.kind, set(answer.nodes)) == ("complete", expected)


async def test_a_partial_answer_stays_partial_and_a_failed_one_failed() -> None:
    partly = DiscoveryError("half of it", partial=[A])
    answer = await ask(rename(answering(partly), worker))
    assert (answer.kind, set(answer.nodes)) == ("partial", {"worker@10.0.0.2"})
    assert answer.error is not None
    assert (answer.error.reason, answer.error.__cause__) == ("half of it", partly)
    answer = await ask(rename(answering(OSError("down")), worker))
    assert (answer.kind, set(answer.nodes)) == ("failed", set())


async def test_what_is_no_name_is_reported_whoever_made_it() -> None:
    answer = await ask(rename(answering([A, "junk"]), worker))
    assert set(answer.nodes) == {"worker@10.0.0.2"}
    assert set(answer.rejected) == {"junk"}
    answer = await ask(rename(epmd([A]), lambda name: name.host))
    assert set(answer.rejected) == {"10.0.0.2"}


async def test_a_fault_in_the_function_is_a_bug() -> None:
    def broken(name: NodeName) -> str:
        raise KeyError(name)

    with pytest.raises(KeyError):
        await ask(rename(epmd([A]), broken))

    with pytest.raises(TypeError, match=r"was due for a@10\.0\.0\.2, not int"):
        await ask(rename(epmd([A]), lambda _name: 7))  # type: ignore[arg-type, return-value]


class Watched:
    """A strategy with all that one can have."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def __call__(self, local: NodeName) -> list[str]:
        await trio.lowlevel.checkpoint()
        return [A]

    async def serve(
        self,
        local: NodeName,
        *,
        changed: Callable[[], None],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        self.calls.append("served")
        task_status.started()
        changed()
        await trio.sleep_forever()

    async def leave(self, local: NodeName) -> None:
        await trio.lowlevel.checkpoint()
        self.calls.append("left")


async def test_it_serves_its_part_and_says_goodbye_by_it() -> None:
    part = Watched()
    strategy = rename(part, worker)
    assert isinstance(strategy, ServedStrategy)
    assert isinstance(strategy, LeavingStrategy)
    told: list[str] = []

    serve = partial(strategy.serve, LOCAL, changed=lambda: told.append("changed"))
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            await strategy.leave(LOCAL)
            nursery.cancel_scope.cancel("seen enough")
    assert part.calls == ["served", "left"]
    assert told == ["changed"]


def test_what_cannot_work_is_refused_at_the_call() -> None:
    with pytest.raises(ConfigurationError, match="takes strategies"):
        rename(7, worker)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="takes a function"):
        rename(epmd([A]), "x")  # type: ignore[arg-type]


def test_its_repr() -> None:
    assert repr(rename(epmd([A]), worker)) == "rename(epmd(['a@10.0.0.2']), worker)"
