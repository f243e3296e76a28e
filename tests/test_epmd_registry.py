"""The table of names against a model of it."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from barnacle_trio.epmd import PortEntry, _registry
from barnacle_trio.epmd._registry import Holding, Registry

ADDRESSES = st.sampled_from(["127.0.0.1", "::1"])


def holding(name: str, port: int = 1, address: str = "127.0.0.1") -> Holding:
    return Holding(PortEntry(name=name, port=port), address, 7)


class Table(RuleBasedStateMachine):
    """Whoever holds a name keeps it until he himself frees it."""

    tried = Bundle("tried")

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry(next_creation=2**32 - 5)
        self.model: dict[str, Holding] = {}
        self.creations: list[int] = []

    @rule(target=tried, name=st.sampled_from("abcd"), port=st.integers(1, 3), address=ADDRESSES)
    def register(self, name: str, port: int, address: str) -> Holding:
        tried = holding(name, port, address)
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


def test_one_address_cannot_use_up_the_places_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_registry, "MAX_NAMES_OF_ADDRESS", 2)
    registry = Registry()
    held = [holding(f"n{number}", address="127.0.0.1") for number in range(3)]
    assert [registry.register(each).result for each in held] == [0, 0, 1]
    assert registry.register(holding("six", address="::1")).result == 0
    registry.release(held[0])
    assert registry.register(held[2]).result == 0


def test_two_tables_start_apart() -> None:
    starts = {Registry().next_creation for _ in range(20)}
    assert len(starts) == 20
    assert all(4 <= start < 2**32 for start in starts)
