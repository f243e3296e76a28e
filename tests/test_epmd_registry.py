"""The table of names against a model of it."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from barnacle_trio.epmd import PortEntry
from barnacle_trio.epmd._registry import Holding, Registry


def holding(name: str, port: int = 1) -> Holding:
    return Holding(PortEntry(name=name, port=port), 7)


class Table(RuleBasedStateMachine):
    """Whoever holds a name keeps it until he himself frees it."""

    tried = Bundle("tried")

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry(next_creation=2**32 - 5)
        self.model: dict[str, Holding] = {}
        self.creations: list[int] = []

    @rule(target=tried, name=st.sampled_from("abcd"), port=st.integers(1, 3))
    def register(self, name: str, port: int) -> Holding:
        tried = holding(name, port)
        answer = self.registry.register(tried)
        assert (answer.result == 0) == (name not in self.model)
        if answer.result == 0:
            self.model[name] = tried
            self.creations.append(answer.creation)
        else:
            assert answer.creation == 99
        return tried

    @rule(who=consumes(tried))
    def release(self, who: Holding) -> None:
        self.registry.release(who)
        if self.model.get(who.entry.name) is who:
            del self.model[who.entry.name]

    @invariant()
    def same(self) -> None:
        assert list(self.registry) == list(reversed(self.model.values()))
        assert len(self.registry) == len(self.model)
        for name in "abcd":
            assert self.registry.get(name) is self.model.get(name)

    @invariant()
    def creations_grow_and_never_are_the_reserved_ones(self) -> None:
        assert all(creation >= 4 for creation in self.creations)
        assert len(set(self.creations)) == len(self.creations)


Table.TestCase.settings = settings(max_examples=50, stateful_step_count=30)
TestTable = Table.TestCase


@pytest.mark.parametrize(
    "name", ["", "a@b", "a b", "a\nb", "\x1b[2J", "n" * 256, "é" * 128, "\udcff"]
)
def test_names_that_no_node_can_have_are_refused(name: str) -> None:
    assert Registry().register(holding(name)).result == 1


@pytest.mark.parametrize("name", ["a", "n" * 255, "é", "Elixir.My-App_1"])
def test_names_that_a_node_can_have_are_taken(name: str) -> None:
    assert Registry().register(holding(name)).result == 0


def test_nobody_listens_on_port_0() -> None:
    assert Registry().register(holding("a", port=0)).result == 1


def test_the_places_are_counted_and_one_that_is_freed_can_be_taken() -> None:
    registry = Registry(max_names=2)
    held = [holding(f"n{number}") for number in range(3)]
    assert [registry.register(each).result for each in held] == [0, 0, 1]
    registry.release(held[2])  # it holds nothing
    assert registry.register(held[2]).result == 1
    registry.release(held[0])
    assert registry.register(held[2]).result == 0


def test_what_another_table_held_is_held_though_there_is_no_place() -> None:
    registry = Registry(max_names=1)
    for name in "ab":
        registry.adopt(holding(name))
    assert len(registry) == 2
    assert registry.register(holding("c")).result == 1


def test_two_tables_start_apart() -> None:
    starts = {Registry().next_creation for _ in range(20)}
    assert len(starts) == 20
    assert all(4 <= start < 2**32 for start in starts)
