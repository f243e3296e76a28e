"""Terms at random, and the means to compare them as exactly as Erlang's ``=:=`` does."""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from barnacle_trio.etf import (
    Atom,
    BitString,
    Export,
    ImproperList,
    Map,
    Pid,
    Port,
    Reference,
)
from barnacle_trio.etf._encode import canonical
from tests.scale import LONG

Strategy = st.SearchStrategy[Any]

_U32 = st.integers(0, 2**32 - 1)
_text = st.text(st.characters(exclude_categories=["Cs"]))


def atoms() -> Strategy:
    usual = st.sampled_from(["ok", "error", "undefined", "", "Elixir.Math", "a b", "\N{SNOWMAN}"])
    # 255 characters of three bytes each need the atom's longer form
    long = st.just("\N{SNOWMAN}").map(lambda snowman: snowman * 255)
    return (usual | _text.map(lambda text: text[:255]) | long).map(Atom)


def nodes() -> Strategy:
    return st.sampled_from(["a@127.0.0.1", "b@fdaa:0:1::3", "c@host"]).map(Atom)


def pids() -> Strategy:
    return st.builds(Pid, nodes(), _U32, _U32, st.integers(1, 2**32 - 1))


def references() -> Strategy:
    words = st.lists(_U32, min_size=1, max_size=5).map(tuple)
    return st.builds(Reference, nodes(), st.integers(1, 2**32 - 1), words)


def ports() -> Strategy:
    number = st.integers(0, 2**28 - 1) | st.integers(0, 2**64 - 1)
    return st.builds(Port, nodes(), number, st.integers(1, 2**32 - 1))


def exports() -> Strategy:
    return st.builds(Export, atoms(), atoms(), st.integers(0, 255))


def bit_strings() -> Strategy:
    return st.builds(BitString, st.binary(min_size=1), st.integers(1, 7))


def numbers() -> Strategy:
    edges = st.sampled_from([8, 16, 28, 31, 32, 59, 63, 64, 2040, 2048, 5000])
    near = st.builds(lambda bits, off, sign: sign * (2**bits + off), edges, _NEAR, _SIGN)
    floats = st.floats(allow_nan=False, allow_infinity=False)
    return near | st.integers() | floats


_NEAR = st.integers(-2, 2)
_SIGN = st.sampled_from([1, -1])


@st.composite
def leaves(draw: st.DrawFn) -> Any:
    """What holds no other term. (Composite, as are those below, for the sake of a short repr.)"""
    return draw(_LEAVES)


_LEAVES: Strategy = st.one_of(
    st.none(),
    st.booleans(),
    numbers(),
    atoms(),
    st.binary(),
    _text,
    bit_strings(),
    pids(),
    references(),
    ports(),
    exports(),
)


def _no_zero(leaf: Any) -> bool:
    """OTP 25 takes ``0.0`` and ``-0.0`` for one key, OTP 27 and we for two."""
    return not (type(leaf) is float and leaf == 0)


def _tail(term: Any) -> bool:
    return not isinstance(term, list | ImproperList)


def _containers(inner: Strategy, keys: Strategy) -> Strategy:
    several = st.lists(inner, max_size=4)
    pairs = st.lists(
        st.tuples(keys, inner), max_size=4, unique_by=lambda pair: canonical(pair[0])
    ).map(_fitting)
    improper = st.builds(ImproperList, st.lists(inner, min_size=1, max_size=3), inner.filter(_tail))
    return several | several.map(tuple) | pairs | improper | st.lists(st.integers(0, 255))


def _fitting(pairs: list[tuple[Any, Any]]) -> Any:
    """A dict of these pairs where one can hold them, else a `Map`."""
    try:
        plain = dict(pairs)
    except TypeError:
        return Map(pairs)
    return plain if len(plain) == len(pairs) else Map(pairs)


_PLAIN_KEYS = leaves().filter(_no_zero)
# True, 1 and 1.0, often: the keys that a dict confuses
_ALIKE: Strategy = st.sampled_from([True, 1, 1.0, False, 0, 2, 2.0, "a", Atom("a")])
_DEEP_KEYS = st.recursive(_ALIKE, lambda inner: _containers(inner, _ALIKE), max_leaves=4)


@st.composite
def keys(draw: st.DrawFn) -> Any:
    """Terms for the keys of maps: scalars, and lists and maps too."""
    return draw(_ALIKE | _PLAIN_KEYS | _DEEP_KEYS)


def terms(max_leaves: int = 12) -> Strategy:
    """Every kind of term but closures, `str` and maps with keys of all kinds among them."""
    return st.recursive(leaves(), lambda inner: _containers(inner, keys()), max_leaves=max_leaves)


@cache
def random_terms(count: int) -> list[Any]:
    """Terms of every kind, the same ones each time unless it is the long form."""
    found: list[Any] = []

    @settings(
        max_examples=count // 10,
        database=None,
        deadline=None,
        derandomize=not LONG,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(terms(), min_size=10, max_size=12))
    def collect(some: list[Any]) -> None:
        found.extend(some)

    while len(found) < count:
        collect()
    return found[:count]


def normal(term: Any) -> Any:
    """What a term comes back as when it has been encoded and decoded."""
    if isinstance(term, str):
        return term.encode()
    if isinstance(term, Atom):
        return {"true": True, "false": False, "nil": None}.get(term.name, term)
    if isinstance(term, tuple | list):
        return type(term)(map(normal, term))
    if isinstance(term, ImproperList):
        return ImproperList(map(normal, term.elements), normal(term.tail))
    if isinstance(term, dict | Map):
        return _fitting([(normal(key), normal(value)) for key, value in term.items()])
    return term


def same(one: Any, other: Any) -> bool:
    """Whether two terms are alike in type and value, throughout; the order of maps aside."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return struct.pack("!d", one) == struct.pack("!d", other)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, ImproperList):
        return same(one.elements, other.elements) and same(one.tail, other.tail)
    if isinstance(one, dict | Map):
        left = list(other.items())
        for pair in one.items():
            for index, candidate in enumerate(left):
                if same(pair, candidate):
                    del left[index]
                    break
            else:
                return False
        return not left
    return bool(one == other)
