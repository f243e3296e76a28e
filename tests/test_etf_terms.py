"""The terms as Python values, and what cannot be encoded."""

from __future__ import annotations

import copy
import dataclasses
import enum
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from barnacle_trio import _errors
from barnacle_trio._names import NodeName
from barnacle_trio.etf import (
    Atom,
    BitString,
    EncodeError,
    Export,
    Fun,
    ImproperList,
    Limits,
    Map,
    Pid,
    Port,
    Reference,
    decode,
    encode,
)

NODE = Atom("a@b")


def test_an_atom_is_no_text() -> None:
    text: object = "ok"
    assert Atom("ok") != text
    assert not isinstance(Atom("ok"), str)
    assert Atom("ok") is Atom("ok")
    assert Atom("ok") != Atom("error")
    assert {Atom("ok"): 1}[Atom("ok")] == 1
    assert repr(Atom("ok")) == "Atom('ok')"
    assert Atom(NodeName("a@b")) is Atom("a@b")
    assert type(Atom(NodeName("c@d")).name) is str


def test_an_atom_is_matched_by_its_name() -> None:
    match decode(encode((Atom("error"), Atom("enoent")))):
        case (Atom("ok"), _):
            pytest.fail("it is not ok")
        case (Atom("error"), Atom(name=reason)):
            assert reason == "enoent"


def test_an_atom_cannot_be_changed_and_is_its_own_copy() -> None:
    atom = Atom("ok")
    with pytest.raises(AttributeError):
        atom.name = "error"
    with pytest.raises(AttributeError):
        del atom.name
    assert copy.copy(atom) is atom
    assert copy.deepcopy([atom])[0] is atom


def test_identifiers_are_compared_by_all_their_parts() -> None:
    make: list[Callable[[int], Any]] = [
        lambda last: Pid(NODE, 1, 2, last),
        lambda last: Reference(NODE, 1, (2, last)),
        lambda last: Port(NODE, 1, last),
        lambda last: Export(Atom("m"), Atom("f"), last),
    ]
    made = [each(last) for each in make for last in (0, 1)]
    again = [each(last) for each in make for last in (0, 1)]
    assert made == again
    assert len({*made, *again}) == len(made)
    assert copy.deepcopy(made) == made


def test_identifiers_show_and_match_their_parts() -> None:
    pid = Pid(NODE, 1, 2, 3)
    assert repr(pid) == "Pid(node=Atom('a@b'), id=1, serial=2, creation=3)"
    match pid:
        case Pid(Atom(node), number):
            assert (node, number) == ("a@b", 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        pid.id = 5  # type: ignore[misc]


def test_an_improper_list_keeps_its_elements_as_a_tuple() -> None:
    assert ImproperList([1, 2], 3) == ImproperList((1, 2), 3)
    assert hash(ImproperList([1], 2)) == hash(ImproperList((1,), 2))
    assert repr(ImproperList([1], Atom("t"))) == "ImproperList((1,), Atom('t'))"


def test_a_map_is_a_mapping_with_any_keys() -> None:
    term = Map([(1, "a"), (1.0, "b"), (True, "c"), ([1], "d"), ({1: [2]}, "e")])
    assert len(term) == 5
    assert [term[1], term[1.0], term[True], term[[1]], term[{1: [2]}]] == list("abcde")
    assert 2 not in term
    assert object() not in term
    assert term.get([2]) is None
    assert [key for key, _value in term.items()] == list(term)
    assert list(term.values()) == list("abcde")
    assert term == Map(reversed(list(term.items())))
    assert term != Map([*list(term.items())[:4], ({1: [2]}, "x")])
    assert Map({"k": 1}) == {"k": 1} == Map({b"k": 1})
    assert Map({"k": 1}) != {"k": 1, object(): 2}
    assert Map() == {}
    assert Map() != []
    assert repr(Map([([], 1)])) == "Map([([], 1)])"
    with pytest.raises(TypeError, match="unhashable"):
        hash(term)
    with pytest.raises(EncodeError, match="same term"):
        Map([("a", 1), (b"a", 2)])


class Colour(enum.IntEnum):
    RED = 7


class Word(enum.StrEnum):
    HI = "hi"


class Point(NamedTuple):
    x: int
    y: int


class Loud(str):
    __slots__ = ()

    def __str__(self) -> str:
        return self.upper()


@pytest.mark.parametrize(
    ("term", "comes_back"),
    [
        ("text", b"text"),
        (Atom("true"), True),
        (Atom("nil"), None),
        (Colour.RED, 7),
        (Word.HI, b"hi"),
        (Loud("hi"), b"hi"),
        (NodeName("a@b"), b"a@b"),
        (Point(1, 2), (1, 2)),
        (bytearray(b"x"), b"x"),
        (memoryview(b"x"), b"x"),
        (OrderedDict(a=1), {b"a": 1}),
        (defaultdict(int, {1: 2}), {1: 2}),
        (MappingProxyType({1: [2]}), {1: [2]}),
        (Map({1: 2}), {1: 2}),
    ],
    # not a repr with an address in it, which differs from run to run
    ids=lambda value: type(value).__name__,
)
def test_what_comes_back_as_another_type(term: Any, comes_back: Any) -> None:
    for wrapped, back in ((term, comes_back), ([(term,)], [(comes_back,)])):
        result = decode(encode(wrapped))
        assert result == back
        assert type(result) is type(back)


# What cannot be encoded


def test_an_encode_error_is_a_value_error_of_ours() -> None:
    assert issubclass(EncodeError, ValueError)
    assert issubclass(EncodeError, _errors.BarnacleError)


@pytest.mark.parametrize(
    ("term", "match"),
    [
        (float("inf"), "infinite"),
        (float("nan"), "not a number"),
        ("\ud800", "surrogates"),
        (object(), "object is not a term"),
        ({1, 2}, "set is not a term"),
        (1j, "complex is not a term"),
        (Atom, "type is not a term"),
        ({"a": 1, b"a": 2}, "same term"),
        ({None: 1, Atom("nil"): 2}, "same term"),
        ({True: 1, Atom("true"): 2}, "same term"),
        ({("a",): 1, (b"a",): 2}, "same term"),
        ({("\ud800",): 1}, "surrogates"),
        (2 ** (8 * 1785), "an integer of 1786 bytes"),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_what_has_no_encoding(term: Any, match: str) -> None:
    for wrapped in (term, [1, (term,)], {"k": term}, ImproperList([1], term)):
        with pytest.raises(EncodeError, match=match):
            encode(wrapped)


def test_a_message_of_an_error_never_shows_the_value() -> None:
    class Secret:
        def __repr__(self) -> str:
            return "hunter2"

    with pytest.raises(EncodeError) as caught:
        encode([Secret()])
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (Atom, ("a" * 256,)),
        (Atom, ("\N{SNOWMAN}" * 256,)),
        (Atom, ("\ud800",)),
        (Pid, (NODE, 2**32, 0, 0)),
        (Pid, (NODE, 0, -1, 0)),
        (Reference, (NODE, 0, ())),
        (Reference, (NODE, 0, (1,) * 6)),
        (Reference, (NODE, 0, (2**32,))),
        (Port, (NODE, 2**64, 0)),
        (Port, (NODE, -1, 0)),
        (Export, (Atom("m"), Atom("f"), 256)),
        (BitString, (b"x", 0)),
        (BitString, (b"x", 8)),
        (BitString, (b"", 3)),
        (ImproperList, ([], 1)),
        (ImproperList, ([1], [2])),
        (ImproperList, ([1], ImproperList([2], 3))),
        (Fun, (b"",)),
        (Fun, (b"p\0\0\0\5",)),
    ],
    ids=lambda value: ascii(value)[-30:],
)
def test_terms_that_cannot_be(kind: type, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(EncodeError):
        kind(*arguments)


def test_names_and_nodes_are_of_the_right_type() -> None:
    for make in (
        lambda: Atom(b"ok"),  # type: ignore[arg-type]
        lambda: Pid("a@b", 1, 2, 3),  # type: ignore[arg-type]
        lambda: Reference("a@b", 1, (2,)),  # type: ignore[arg-type]
        lambda: Port("a@b", 1, 2),  # type: ignore[arg-type]
        lambda: Export("m", Atom("f"), 2),  # type: ignore[arg-type]
        lambda: decode("text"),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError):
            make()


def test_structures_that_contain_themselves() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    twice: list[Any] = []
    twice += [twice, twice]
    ring: dict[str, Any] = {}
    ring["k"] = (1, [ring])
    for term in (cycle, twice, ring):
        with pytest.raises(EncodeError, match="deeper than 512"):
            encode(term)


def test_a_deep_structure_never_meets_pythons_limit_on_recursion() -> None:
    term: Any = ()
    for _ in range(30_000):
        term = [(term, 1)]
    with pytest.raises(EncodeError, match="deeper"):
        encode(term)
    data = encode(term, limits=Limits(max_depth=1_000_000))
    assert data.count(b"h\2") == 30_000
    while term:  # its destructor would go down as deep
        ((term, _),) = term


def test_a_small_structure_that_is_a_huge_term() -> None:
    doubling: Any = [1]
    for _ in range(100):
        doubling = [doubling, doubling]
    with pytest.raises(EncodeError, match="more than 1000000 elements"):
        encode(doubling)
    with pytest.raises(EncodeError, match="bytes"):
        encode([bytes(1 << 20)] * 65)
    with pytest.raises(EncodeError, match="bytes"):
        encode(["x" * 200] * 10, limits=Limits(max_bytes=1000))


def test_keys_with_maps_in_one_another() -> None:
    term: Any = {1: 2}
    for _ in range(8):
        term = Map([(term, 0)])
    assert decode(encode(term)) == term
    with pytest.raises(EncodeError, match="in one another"):
        Map([(term, 0)])


def test_large_terms_are_copied_once() -> None:
    data = bytes(8 << 20)
    assert sys.getsizeof(encode(data)) - len(data) < 100
    assert decode(encode(data)) == data
