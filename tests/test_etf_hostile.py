"""Terms of hostile peers: depth, size, and what Python would choke on."""

from __future__ import annotations

import gc
import sys
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest

from barnacle_trio import _errors
from barnacle_trio.etf import Atom, DecodeError, ImproperList, Limits, Map, _terms, decode, encode
from barnacle_trio.etf import _leaves as leaves
from tests.etf_hostile_players import V, refused

MIB = 1024 * 1024


@contextmanager
def cheap(memory: int = 2 * MIB) -> Iterator[None]:
    """The body takes no more memory than that, at any time."""
    gc.collect()
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < memory


def test_a_decode_error_is_the_peers_fault() -> None:
    assert issubclass(DecodeError, _errors.RemoteProtocolError)


# 71


@pytest.mark.parametrize(
    "opening",
    [b"h\1", b"i\0\0\0\1", b"l\0\0\0\1", b"l\0\0\0\1a\1h\1", b"t\0\0\0\1a\1", b"t\0\0\0\1"],
    ids=["tuple", "large tuple", "list", "tail", "map value", "map key"],
)
def test_71_nesting_of_a_million_levels(opening: bytes) -> None:
    data = V + opening * 1_000_000
    with cheap():
        refused(data, "deeper than 512")


def test_71_no_nesting_meets_pythons_limit_on_recursion() -> None:
    limits = Limits(max_depth=2_000_000, max_elements=2_000_000)
    depth = 1_000_000
    term = decode(V + b"h\1" * depth + b"a\7", limits=limits)
    data = encode(term, limits=limits)
    assert data == V + b"h\1" * depth + b"a\7"
    for _ in range(depth):  # taken apart here, since its destructor would go down as deep
        (term,) = term
    assert term == 7


def test_71_the_limit_is_exact_and_the_same_both_ways() -> None:
    data = V + b"h\1" * 512 + b"a\7"
    assert encode(decode(data)) == data
    refused(V + b"h\1" + data[1:], "deeper than 512")


def test_71_deep_keys_of_a_map_are_exact() -> None:
    key: Any = Atom("bottom")
    for _ in range(500):
        key = ImproperList([key], 0)
    limit = sys.getrecursionlimit()
    data = encode(Map([(key, 1)]))
    assert encode(decode(data)) == data
    assert sys.getrecursionlimit() == limit
    assert repr(decode(data))


def test_71_a_tail_of_lists_is_one_list_however_long() -> None:
    count = 200_000
    term = decode(V + b"l\0\0\0\1a\1" * count + b"j")
    assert term == [1] * count
    refused(V + b"l\0\0\0\0" * count + b"h", "end inside")


# 72, 73


def compressed(plain: bytes, announced: int | None = None) -> bytes:
    size = len(plain) if announced is None else announced
    return V + b"P" + size.to_bytes(4) + zlib.compress(plain, 9)


@cache
def bomb(size: int) -> bytes:
    """``size`` zeros, compressed without ever being there all at once."""
    deflater = zlib.compressobj(9)
    block = bytes(MIB)
    return b"".join(deflater.compress(block) for _ in range(size // MIB)) + deflater.flush()


def test_72_compressed_that_announces_four_gigabytes() -> None:
    with cheap():
        refused(V + b"P\xff\xff\xff\xff" + bomb(MIB), "at most", compressed=True)


@pytest.mark.parametrize("announced", [2, 10_000, MIB])
def test_72_a_bomb_that_announces_little(announced: int) -> None:
    data = V + b"P" + announced.to_bytes(4) + bomb(128 * MIB)
    with cheap(8 * MIB):
        refused(data, "not the size", compressed=True)


def test_72_sizes_that_lie_and_streams_that_break() -> None:
    good = compressed(b"a\1")
    assert decode(good, compressed=True) == 1
    refused(compressed(b"a\1", 3), "not the size", compressed=True)
    refused(compressed(b"a\1", 1), "not the size", compressed=True)
    refused(compressed(b"a\1a\1"), "after the term", compressed=True)
    refused(V + b"P\0\0\0\2junk", "damaged", compressed=True)
    for end in range(len(good)):
        refused(good[:end], compressed=True)


def test_73_compressed_inside_another_term() -> None:
    inner = compressed(b"a\1")[1:]
    refused(compressed(inner), "tag 80", compressed=True)
    refused(V + b"h\1" + inner, "tag 80", compressed=True)
    refused(V + b"l\0\0\0\1a\1" + inner, "tag 80", compressed=True)


# 74


@pytest.mark.parametrize(
    "start", [b"l", b"i", b"t", b"m", b"o", b"M", b"h\xff", b"k\xff\xff", b"w\xff", b"v\xff\xff"]
)
@pytest.mark.parametrize("rest", [b"", b"\0", b"a\1" * 10])
def test_74_lengths_beyond_the_bytes_that_are_there(start: bytes, rest: bytes) -> None:
    announced = b"\xff\xff\xff\xff" if len(start) == 1 else b""
    with cheap(MIB // 4):
        refused(V + start + announced + rest)


def test_74_elements_are_bounded_even_where_the_bytes_are_there() -> None:
    limits = Limits(max_elements=1000)
    many = (1001).to_bytes(4)
    for data in (
        b"l" + many + b"j" * 1002,
        b"i" + many + b"j" * 1001,
        b"t" + (501).to_bytes(4) + b"j" * 1002,
        b"l\0\0\0\1j" + b"l" + many + b"j" * 1002,
        b"k\3\xe9" + bytes(1001),
        b"l\0\0\0\1a\1" + b"k\3\xe9" + bytes(1001),
        b"h\5" + (b"k\1\0" + bytes(256)) * 5,
        b"l\0\0\0\1j" * 1001 + b"j",
        b"h\1" * 400 + b"l\0\0\3\0" + b"j" * 0x301,
    ):
        refused(V + data, "more than 1000 elements", limits=limits)


def test_74_a_million_elements_are_taken_and_no_more() -> None:
    assert len(decode(V + b"l" + (1_000_000).to_bytes(4) + b"a\1" * 1_000_000 + b"j")) == 1_000_000
    data = V + b"l" + (1_000_001).to_bytes(4) + b"a\1" * 1_000_001 + b"j"
    with cheap():
        refused(data, "more than 1000000 elements")


def test_74_a_term_larger_than_the_limit() -> None:
    limits = Limits(max_bytes=100)
    assert decode(encode(b"x" * 94), limits=limits) == b"x" * 94
    refused(encode(b"x" * 96), "more than 100 bytes", limits=limits)


# 75


def test_75_integers_of_a_hundred_megabytes() -> None:
    data = V + b"o" + (100 * MIB).to_bytes(4) + b"\0" + bytes(100 * MIB)
    with cheap():
        refused(data, "an integer of")


def test_75_every_integer_that_is_taken_can_be_printed() -> None:
    size = Limits().max_bignum_bytes
    number = decode(V + b"o" + size.to_bytes(4) + b"\1" + b"\xff" * size)
    assert number == -(256**size) + 1
    assert len(repr(number)) > 4000
    refused(V + b"o" + (size + 1).to_bytes(4) + b"\1" + b"\xff" * (size + 1))


# 76


@pytest.mark.parametrize("text", ["7ff0000000000000", "fff0000000000000", "7ff8000000000000"])
def test_76_floats_that_are_no_numbers(text: str) -> None:
    refused(V + b"F" + bytes.fromhex(text), "float")


@pytest.mark.parametrize(
    "text",
    ["nan", "inf", "-inf", "", "1", "1.", ".5", "1e5", "1.0e", " 1.0", "1.0 ", "1_0.0", "1.0e400"],
)
def test_76_texts_that_are_no_floats(text: str) -> None:
    refused(V + b"c" + text.encode().ljust(31, b"\0"), "float")


def test_76_the_text_of_a_float_without_an_end() -> None:
    refused(V + b"c1." + b"3" * 29, "float")
    refused(V + b"c1.5\0", "announced")


# 77


@pytest.mark.parametrize(
    "data",
    [
        b"v\1\0" + b"a" * 256,
        b"d\1\0" + b"a" * 256,
        b"v\3\0" + "\N{SNOWMAN}".encode() * 256,
        b"w\1\xff",
        b"w\2\xc0\x80",
        b"w\3\xed\xa0\x80",
        b"w\4\xf4\x90\x80\x80",
    ],
    ids=["long", "long latin-1", "long wide", "not utf-8", "overlong", "surrogate", "beyond"],
)
@pytest.mark.parametrize("inside", [b"", b"X", b"Y", b"q", b"Z\0\1"])
def test_77_atoms_that_are_too_long_or_no_text(data: bytes, inside: bytes) -> None:
    refused(V + inside + data + bytes(20), "atom")


def distinct_atoms(count: int, start: int = 0) -> bytes:
    return b"".join(b"w\x08%08d" % number for number in range(start, start + count))


def test_77_more_distinct_atoms_than_a_term_may_have() -> None:
    data = V + b"l" + (70_000).to_bytes(4) + distinct_atoms(70_000) + b"j"
    refused(data, "more than 65536 new atoms")


def test_77_atoms_and_pids_are_not_kept_for_ever() -> None:
    held = Atom("held on to")
    for start in range(0, 40_000, 10_000):
        decode(V + b"l" + (10_000).to_bytes(4) + distinct_atoms(10_000, start) + b"j")
        pids = b"".join(b"Xw\3a@b" + (start + n).to_bytes(12) for n in range(10_000))
        decode(V + b"l" + (10_000).to_bytes(4) + pids + b"j")
    assert len(leaves.atom_values) <= leaves.MAX_KNOWN
    assert len(leaves.pids) <= leaves.MAX_KNOWN
    gc.collect()
    assert len(_terms._atoms) < 3 * leaves.MAX_KNOWN
    assert Atom("held on to") is held
    assert decode(encode(held)) is held
