"""Transports made of functions."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from barnacle_trio._custom_transport import custom_transport
from barnacle_trio._errors import ConfigurationError
from barnacle_trio._names import NodeName
from barnacle_trio._running import open_barnacle
from barnacle_trio._transport import (
    DrainableTransport,
    LocatingTransport,
    SubscribableTransport,
    VisibilityTransport,
)
from barnacle_trio.testing import FakeTransport, ScriptedStrategy
from tests.barnacles import A, B


async def test_four_functions_make_a_transport(autojump_clock: MockClock) -> None:
    connected: set[str] = set()

    async def connect(name: NodeName) -> None:
        await trio.sleep(0.1)
        connected.add(name)

    async def disconnect(name: NodeName) -> None:
        await trio.lowlevel.checkpoint()
        connected.discard(name)

    async def list_nodes() -> set[str]:
        await trio.lowlevel.checkpoint()
        return set(connected)

    transport = custom_transport(
        connect=connect, disconnect=disconnect, list_nodes=list_nodes, name="local@h"
    )
    assert transport.name == "local@h"
    assert not isinstance(transport, SubscribableTransport)
    strategy = ScriptedStrategy([A, B])
    async with open_barnacle(strategy, transport, prune_after=0) as barnacle:
        await barnacle.wait_for_nodes(2)
        strategy.answer = [A]
        await barnacle.refresh()
        await barnacle.refresh()
        assert connected == {A}


async def test_own_functions_over_a_base(autojump_clock: MockClock) -> None:
    base = FakeTransport(reachable=[A, B])
    dialled: list[str] = []

    async def connect(name: NodeName) -> None:
        dialled.append(name)
        await base.connect(name)

    transport = custom_transport(base, connect=connect)
    assert transport.name == base.name
    async with open_barnacle(ScriptedStrategy([A]), transport) as barnacle:
        await barnacle.wait_for_nodes(1)
        await trio.sleep(31)
        base.lose(A)
        assert barnacle.nodes.value == frozenset(), "the base's events are told"
        await barnacle.wait_for_nodes(1)
    assert dialled == [A, A]


def test_abilities_of_the_base_stay_where_they_fit() -> None:
    async def function(*_args: Any) -> Any: ...

    def abilities(**own: Any) -> list[bool]:
        made = custom_transport(FakeTransport(), **own)
        return [
            isinstance(made, each)
            for each in (
                SubscribableTransport,
                VisibilityTransport,
                LocatingTransport,
                DrainableTransport,
            )
        ]

    assert abilities() == [True, True, True, True]
    assert abilities(name="other@h") == [True, True, True, True]
    assert abilities(disconnect=function) == [True, True, True, True]
    assert abilities(connect=function) == [True, True, False, True]
    assert abilities(list_nodes=function) == [False, False, True, True]
    poor = custom_transport(FakeTransport(abilities=()), disconnect=function)
    assert not isinstance(poor, SubscribableTransport)


async def _function(*_args: Any) -> Any: ...


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({}, "needs name, connect, disconnect, list_nodes too"),
        ({"connect": _function, "disconnect": _function, "name": "a@h"}, "needs list_nodes too"),
        ({"base": object()}, "the base of a custom transport lacks name, connect"),
        ({"base": FakeTransport(), "connect": 7}, "connect is an async function, not 7"),
        ({"base": FakeTransport(), "name": "no-name"}, "no '@'"),
        ({"base": FakeTransport(), "name": 7}, "a node name is a str"),
    ],
    ids=["nothing", "three", "no_transport", "number", "bad_name", "no_name"],
)
def test_what_cannot_work_is_said_at_the_call(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        custom_transport(**arguments)
