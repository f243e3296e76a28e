"""`remember`: what is given when discovery is down, and real nodes that need it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from barnacle_trio import NodeDown, Refreshed, open_barnacle
from barnacle_trio._errors import ConfigurationError, DiscoveryError
from barnacle_trio._names import NodeName
from barnacle_trio._strategy import Discovery, ServedStrategy, discover
from barnacle_trio.strategies import _remember, epmd, remember
from barnacle_trio.strategies._memory_file import MAX_NODES
from barnacle_trio.testing import EventRecorder, FakeTransport
from tests.beam import COOKIE
from tests.cluster_lab import Peer
from tests.dns_server import DnsServer, open_dns_server
from tests.ports import free_port
from tests.remember_players import (
    DOWN,
    LOCAL,
    A,
    B,
    C,
    Clock,
    Source,
    ask,
    kept,
    names_beside,
    told,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "nodes.json"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_remember, "time", clock)
    return clock


def reason(answer: Discovery) -> str:
    assert answer.error is not None
    return answer.error.reason


# --- what is given ------------------------------------------------------------------------------


async def test_a_complete_answer_is_given_as_it_is(file: Path) -> None:
    answer = await ask(remember(Source([A, LOCAL, "junk"]), file))
    assert told(answer) == ("complete", {A, LOCAL})
    assert set(answer.rejected) == {"junk"}
    assert kept(file) == {A}


@pytest.mark.parametrize("failure", [DOWN, OSError("no route"), trio.TooSlowError()])
async def test_while_discovery_is_down_those_of_before_are_given(
    file: Path, failure: Exception
) -> None:
    await ask(remember(Source([A, B]), file))
    answer = await ask(remember(Source(failure), file))  # as after a restart
    assert told(answer) == ("partial", {A, B})
    assert reason(answer).endswith("; 2 remembered from before")


async def test_with_nobody_to_remember_it_is_a_failure_like_any_other(file: Path) -> None:
    answer = await ask(remember(Source(DOWN), file))
    assert told(answer) == ("failed", set())
    assert answer.error is DOWN
    assert not names_beside(file)


async def test_one_that_hangs_is_given_up_in_time(file: Path) -> None:
    async def hang(local: NodeName) -> list[str]:
        await trio.sleep_forever()
        raise AssertionError

    await ask(remember(epmd([A]), file))
    with trio.move_on_after(1.0) as scope:
        answer = await discover(remember(hang, file), LOCAL)
        assert told(answer) == ("partial", {A})
        assert reason(answer) == "no answer in time; 1 remembered from before"
    assert not scope.cancelled_caught


async def test_a_partial_answer_adds(file: Path) -> None:
    source = Source([A])
    strategy = remember(source, file)
    await ask(strategy)
    source.answer = DiscoveryError("half of it", partial=[B])
    answer = await ask(strategy)
    assert told(answer) == ("partial", {A, B})
    assert reason(answer) == "half of it; 1 remembered from before"
    assert kept(file) == {A, B}
    source.answer = DiscoveryError("half of it", partial=[A, B])
    assert reason(await ask(strategy)) == "half of it"
    source.answer = [C]
    assert told(await ask(strategy)) == ("complete", {C})
    assert kept(file) == {C}


@pytest.mark.parametrize("alone", [[], [LOCAL]])
async def test_the_last_one_of_a_cluster_does_not_forget_the_others(
    file: Path, alone: list[str]
) -> None:
    source = Source([A, B, LOCAL])
    strategy = remember(source, file)
    await ask(strategy)
    source.answer = alone
    assert told(await ask(strategy)) == ("complete", set(alone))
    assert kept(file) == {A, B}
    source.answer = DOWN
    assert told(await ask(strategy)) == ("partial", {A, B})


async def test_nodes_are_forgotten_with_age(file: Path, clock: Clock) -> None:
    source = Source([A, B])
    strategy = remember(source, file, max_age=100)
    await ask(strategy)
    clock.now += 60
    source.answer = DiscoveryError("half of it", partial=[B])
    assert told(await ask(strategy)) == ("partial", {A, B})
    clock.now += 60
    source.answer = DOWN
    for each in (strategy, remember(source, file, max_age=100)):
        assert told(await ask(each)) == ("partial", {B})
    clock.now += 60
    for each in (strategy, remember(source, file, max_age=100)):
        assert told(await ask(each)) == ("failed", set())
    clock.now -= 1_000_000  # a clock that is set back makes nobody older
    assert told(await ask(remember(source, file, max_age=100))) == ("partial", {A, B})


async def test_so_many_are_remembered_and_no_more(file: Path, clock: Clock) -> None:
    many = [f"n{number:04}@10.0.0.2" for number in range(MAX_NODES + 1)]
    await ask(remember(Source(many), file, max_nodes=MAX_NODES))
    assert len(kept(file)) == MAX_NODES
    source = Source(many[:5])
    strategy = remember(source, file, max_nodes=5)
    await ask(strategy)
    clock.now += 10
    source.answer = DiscoveryError("half of it", partial=many[5:8])
    await ask(strategy)
    source.answer = DOWN
    answer = await ask(strategy)
    assert len(answer.nodes) == 5
    assert set(many[5:8]) < answer.nodes


async def test_a_bug_is_raised_as_it_is(file: Path) -> None:
    with pytest.raises(KeyError):
        await ask(remember(Source(KeyError("nodes")), file))


async def test_a_source_that_is_down_for_three_rounds_is_told_once(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="barnacle_trio.barnacle")
    source = Source([A, B])
    transport = FakeTransport(LOCAL, [A, B])
    recorder = EventRecorder()
    async with open_barnacle(
        remember(source, file),
        transport,
        poll_interval=0.05,
        prune_after=0.1,
        listener=recorder.send,
    ) as barnacle:
        with trio.fail_after(20):
            await barnacle.wait_for_nodes(2)
            source.answer = DOWN
            await _rounds(recorder, partial=True)
            source.answer = [A, B]
            await _rounds(recorder, partial=False)
        assert barnacle.nodes.value == {A, B}
        assert not recorder.of(NodeDown)
    told = [record.getMessage() for record in caplog.records if "discovery" in record.getMessage()]
    assert told == [
        "[barnacle] discovery is partial: 'the DNS is down; 2 remembered from before'",
        "[barnacle] discovery works again",
    ]


async def _rounds(recorder: EventRecorder, *, partial: bool) -> None:
    """Wait for three more rounds of this kind."""

    def number() -> int:
        results = [event.result for event in recorder.of(Refreshed)]
        return sum((result.discovery_error is not None) is partial for result in results)

    wanted = number() + 3
    await recorder.wait_for(Refreshed, lambda _event: number() >= wanted)


# --- the call -----------------------------------------------------------------------------------


def test_what_cannot_work_is_refused_at_the_call(file: Path) -> None:
    with pytest.raises(ConfigurationError, match="takes strategies"):
        remember([A], file)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="path is a file's"):
        remember(epmd([A]), 7)  # type: ignore[arg-type]
    for age in (0, -1, float("nan")):
        with pytest.raises(ConfigurationError, match="max_age"):
            remember(epmd([A]), file, max_age=age)
    for number in (0, MAX_NODES + 1, True, 1.5):
        with pytest.raises(ConfigurationError, match="max_nodes"):
            remember(epmd([A]), file, max_nodes=number)  # type: ignore[arg-type]


def test_it_serves_its_part(file: Path) -> None:
    strategy = remember(Source([A]), file)
    assert isinstance(strategy, ServedStrategy)
    assert repr(strategy) == f"remember(Source(), '{file}')"


# --- real processes -----------------------------------------------------------------------------


@asynccontextmanager
async def open_remembering(spec: dict[str, Any]) -> AsyncIterator[Peer]:
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "tests.remembering_program", json.dumps(spec)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    try:
        peer = Peer(spec["name"], process)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.read_output)
            yield peer
            nursery.cancel_scope.cancel("the block ended")
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                await trio.aclose_forcefully(pipe)


def specs(folder: Path, server: DnsServer) -> list[dict[str, Any]]:
    port = free_port()
    return [
        {
            "name": f"app@127.0.0.{number}",
            "cookie": COOKIE,
            "port": port,
            "query": "pods.test",
            "dns_port": server.port,
            "memory": str(folder / f"nodes{number}.json"),
        }
        for number in (2, 3, 4)
    ]


async def test_nodes_that_start_again_without_a_dns_server_find_each_other(tmp_path: Path) -> None:
    async with open_dns_server(tmp_path) as server:
        first, second, third = all_specs = specs(tmp_path, server)
        names = [spec["name"] for spec in all_specs]
        await server.set_records("pods.test", *(name.partition("@")[2] for name in names))
        async with (
            open_remembering(first) as one,
            open_remembering(second) as two,
            open_remembering(third) as three,
        ):
            for peer in (one, two, three):
                await peer.wait_nodes(*(name for name in names if name != peer.name))
            await server.stop()
            for peer in (one, two, three):
                await peer.kill()
        async with open_remembering(first) as one, open_remembering(second) as two:
            await one.wait_nodes(names[1])
            await two.wait_nodes(names[0])
            assert one.downs() == two.downs() == []
            # And the server's return changes nothing for them.
            await server.start()
            await server.set_records("pods.test", *(name.partition("@")[2] for name in names))
            async with open_remembering(third) as three:
                await three.wait_nodes(*names[:2])
                await one.wait_nodes(*names[1:])
            assert {name for name, _reason in one.downs()} <= {names[2]}
