"""The laboratory's scenarios in their short forms, and the laboratory itself.

Counts are exact; times may be thrice the goal, as others may work on the same machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio

from tests.lab import loopback, name_service, networks, processes, random_faults
from tests.lab.checker import Fault, check
from tests.lab.history import Happened, History
from tests.lab.network import Host, missing, open_lan
from tests.lab.scenario import SCENARIOS, Result

BATCHES: dict[str, list[Callable[[], Awaitable[Result]]]] = {
    "networks that are cut": [
        partial(networks.partition, heals=1),
        networks.one_way,
        partial(networks.one_pair, seconds=20),
        networks.one_socket,
    ],
    "bad networks": [
        partial(networks.lossy, seconds=20),
        networks.mtu_hole,
        networks.forming,
        partial(processes.wall_clock, seconds=2),
        partial(name_service.name_service, seconds=3),
    ],
    "processes that end": [
        processes.crash,
        processes.vanished,
        partial(processes.leaving, seconds=6),
        partial(processes.rolling_restart, rounds=1),
    ],
    # One at a time: these two choose the port mapper of the whole process.
    "dials that cross": [loopback.crossing],
    "dials that cross those of a BEAM": [partial(loopback.crossing, otp=25)],
    "port mappers that die": [loopback.port_mapper],
    "processes that stop": [
        processes.frozen,
        partial(random_faults.at_random, seconds=25),
    ],
}


@pytest.fixture(autouse=True)
def laboratory(request: pytest.FixtureRequest) -> None:
    if "needs_hosts" not in request.keywords:
        return
    if (why := missing()) is not None:
        complaint = f"NO FAULT OF NETWORKS IS TESTED HERE: {why}"
        if os.environ.get("CI"):
            pytest.fail(complaint)
        pytest.skip(complaint)


@pytest.mark.needs_hosts
@pytest.mark.parametrize("batch", BATCHES)
async def test_clusters_under_faults(batch: str) -> None:
    """Each scenario has a network of its own; all of a batch run at once."""
    late: list[str] = []

    async def run_one(scenario: Callable[[], Awaitable[Result]]) -> None:
        result = await scenario()
        assert result.figures, "a scenario without figures"
        if missed := result.late():
            late.extend(f"{result.scenario}: {each}" for each in missed)
            print(result.history)  # shown where the test fails

    async with trio.open_nursery() as nursery:
        for scenario in BATCHES[batch]:
            nursery.start_soon(run_one, scenario)
    assert not late


def test_no_scenario_is_left_out() -> None:
    tried = {getattr(each, "func", each).__name__ for batch in BATCHES.values() for each in batch}
    assert tried == set(SCENARIOS)


# -- the laboratory itself -------------------------------------------------------------------------


def events(*lines: str) -> list[Happened]:
    """``"1 a up b lost"``: time, node, what, peer, reason."""
    found = []
    for line in lines:
        at, node, what, *rest = line.split()
        found.append(Happened(float(at), what, node, *rest))
    return found


A_AND_B = frozenset({frozenset({"a", "b"})})


@pytest.mark.parametrize(
    ("told", "faults", "wrong"),
    [
        (["0 a start", "1 a up b"], [], []),
        (["1 a up b", "2 a up b"], [], ["came twice"]),
        (["1 a down b"], [Fault(0, 9, A_AND_B)], ["went without having come"]),
        (["1 a up a"], [], ["met itself"]),
        (["1 a up b", "2 a down b silent"], [], ["fell for no reason"]),
        (["1 a up b", "2 a down b silent"], [Fault(1, 3, A_AND_B)], []),
        (["1 a up b", "2 b up a", "5 a down b", "7 b down a"], [Fault(3, 3, A_AND_B)], []),
        (["1 a up b", "30 a down b"], [Fault(3, 4, A_AND_B)], ["fell for no reason"]),
        (["1 a up c", "2 a down c"], [Fault(1, 3, A_AND_B)], ["fell for no reason"]),
        (["1 a up c", "2 a down c"], [Fault(1, 3, whole=frozenset("c"))], []),
        (["1 a up b", "2 a end", "3 a start", "4 a up b"], [], []),
    ],
)
def test_the_checker_tells_what_is_wrong(
    told: list[str], faults: list[Fault], wrong: list[str]
) -> None:
    breaches = check(events(*told), faults)
    assert len(breaches) == len(wrong), breaches
    assert all(text in breach for text, breach in zip(wrong, breaches, strict=True))


def test_a_history_tells_who_is_there() -> None:
    history = History()
    history.events = events("0 a start", "1 a up b", "2 a up c", "3 a down b", "3 b up a")
    assert history.seen_up("a") == {"c"}
    assert history.seen_up("b") == {"a"}
    history.events += events("4 a end")
    assert history.seen_up("a") == set()


async def test_a_wait_for_what_does_not_happen_ends_and_tells_what_did() -> None:
    history = History()
    history.tell("up", "a", "b")
    with pytest.raises(AssertionError, match=r"not within 0.01 s: a miracle\n.*a up b"):
        await history.until(lambda: False, 0.01, "a miracle")


def test_what_is_over_its_goal_is_told() -> None:
    result = Result("any", 0)
    result.note("good", 2.9, 1)
    result.note("bad", 3.1, 1)
    result.note("a count", 1, 0)
    assert [line.split(":")[0] for line in result.late()] == ["bad", "a count"]


async def reaches(one: Host, other: Host) -> bool:
    """Whether a connection comes to be, within a second."""
    listen = f"import socket; s = socket.create_server(('{other.address}', 9000)); "
    connect = f"import socket; socket.create_connection(('{other.address}', 9000), 1)"
    server = await trio.lowlevel.open_process(
        other.command(sys.executable, "-c", listen + "print(flush=True); s.accept()"),
        stdout=subprocess.PIPE,
    )
    try:
        assert server.stdout is not None
        assert await server.stdout.receive_some()
        client = one.command(sys.executable, "-c", connect)
        return (await trio.run_process(client, check=False, capture_stderr=True)).returncode == 0
    finally:
        server.kill()
        with trio.move_on_after(5, shield=True):
            await server.wait()


@pytest.mark.needs_hosts
async def test_hosts_see_each_other_but_where_they_are_cut() -> None:
    with open_lan(["a", "b", "c"]) as lan:
        assert await reaches(lan["a"], lan["b"])
        fault = lan.cut(("a", "b"))
        assert not await reaches(lan["a"], lan["b"])
        assert not await reaches(lan["b"], lan["a"])  # the answers are lost
        assert await reaches(lan["a"], lan["c"])
        other = lan.partition(["a"], ["c"])
        lan.heal(fault)
        assert await reaches(lan["a"], lan["b"])
        assert not await reaches(lan["a"], lan["c"])
        lan.heal(other)
        assert await reaches(lan["a"], lan["c"])


@pytest.mark.needs_hosts
async def test_a_wire_of_ours_carries_and_loses() -> None:
    with open_lan(["a", "b"], wire={"delay": 1, "jitter": 1}) as lan:
        assert await reaches(lan["a"], lan["b"])
    with open_lan(["a", "b"], wire={"loss": 100}) as lan:
        assert not await reaches(lan["a"], lan["b"])
