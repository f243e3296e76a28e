"""Options that cannot work are refused at the call, before anything starts."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from barnacle_trio._errors import ConfigurationError
from barnacle_trio._running import barnacle_child, open_barnacle, run_once, serve_barnacle
from barnacle_trio.strategies import epmd
from barnacle_trio.testing import FakeTransport, ScriptedStrategy, open_memory_nodes


@pytest.mark.parametrize(
    "options",
    [
        {"poll_interval": 0},
        {"poll_interval": -1},
        {"poll_interval": math.nan},
        {"poll_interval": math.inf},
        {"poll_interval": "5"},
        {"poll_interval": True},
        {"discovery_timeout": 0},
        {"dial_timeout": 0},
        {"dial_timeout": None},
        {"prune": "everybody"},
        {"prune": None},
        {"prune_after": -1},
        {"max_prune": -0.1},
        {"max_prune": 1.1},
        {"max_prune": math.nan},
        {"max_dials": 0},
        {"max_dials": 1.5},
        {"name": ""},
        {"name": 7},
        {"registered_name": ""},
    ],
    ids=str,
)
def test_a_wrong_option_is_named(options: dict[str, Any]) -> None:
    [name] = options
    strategy, transport = ScriptedStrategy(), FakeTransport()
    with pytest.raises(ConfigurationError, match=name):
        open_barnacle(strategy, transport, **options)
    with pytest.raises(ConfigurationError, match=name):
        barnacle_child(strategy, transport, **options)
    with pytest.raises(ConfigurationError, match=name):
        trio.run(partial(serve_barnacle, strategy, transport, **options))
    assert strategy.count == 0


@pytest.mark.parametrize(
    "options",
    [
        {"prune_after": 0},
        {"prune_after": math.inf},
        {"max_prune": 0},
        {"max_prune": 1},
        {"discovery_timeout": math.inf},
        {"dial_timeout": math.inf},
        {"max_dials": 1},
        {"poll_interval": 0.001},
    ],
    ids=str,
)
async def test_the_bounds_themselves_are_allowed(
    options: dict[str, Any], autojump_clock: MockClock
) -> None:
    async with open_barnacle(ScriptedStrategy(), FakeTransport(), **options):
        await trio.sleep(0.01)


def test_an_unknown_option_is_refused() -> None:
    """L9."""
    with pytest.raises(TypeError, match="polling_interval"):
        open_barnacle(ScriptedStrategy(), FakeTransport(), polling_interval=5)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="polling_interval"):
        barnacle_child(ScriptedStrategy(), FakeTransport(), polling_interval=5)  # type: ignore[call-arg]


async def _strategy(_local: str) -> list[str]:
    await trio.lowlevel.checkpoint()
    return []


async def _generator(_local: str) -> Any:
    await trio.lowlevel.checkpoint()
    yield "a@h"


@pytest.mark.parametrize(
    ("strategy", "advice"),
    [
        (ScriptedStrategy, "the class ScriptedStrategy: call it"),
        (["a@h"], r"use epmd\(\[...\]\)"),
        ("a@h", "async function of the local node's name"),
        (None, "async function of the local node's name"),
        (_generator, "async generator"),
    ],
    ids=["class", "list", "str", "None", "generator"],
)
def test_what_is_no_strategy_is_said_with_advice(strategy: Any, advice: str) -> None:
    with pytest.raises(ConfigurationError, match=advice):
        open_barnacle(strategy, FakeTransport())


def test_a_coroutine_is_no_strategy_and_is_not_left_unawaited() -> None:
    with pytest.raises(ConfigurationError, match="without calling it"):
        open_barnacle(_strategy("a@h"), FakeTransport())  # type: ignore[arg-type]


async def test_what_is_no_transport_is_said_with_advice() -> None:
    with pytest.raises(ConfigurationError, match="lacks name, connect"):
        open_barnacle(_strategy, object())  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="enter it first"):
        open_barnacle(_strategy, open_memory_nodes("a@h"))  # type: ignore[arg-type]
    nameless = FakeTransport()
    nameless.name = "no name"  # type: ignore[assignment]
    with pytest.raises(ConfigurationError, match="no '@'"):
        open_barnacle(_strategy, nameless)
    with pytest.raises(ConfigurationError, match="lacks name"):
        await run_once(_strategy, object())  # type: ignore[arg-type]


def test_a_registered_name_needs_a_transport_that_serves() -> None:
    with pytest.raises(ConfigurationError, match="registered_name='mine' needs"):
        open_barnacle(_strategy, FakeTransport(), registered_name="mine")


async def test_strategies_and_nodes_of_this_library_pass() -> None:
    async with (
        open_memory_nodes("a@h", "b@h") as (node, other),
        open_barnacle(epmd(["a@h", "b@h"]), node) as barnacle,
    ):
        assert await barnacle.wait_for_nodes(1) == {other.name}
