"""What a peer may send to hurt, by the numbers of the list of hostile inputs, and what comes of it.

Only `DecodeError` ever comes out, in time and memory that the input's size bounds.
"""

from __future__ import annotations

import ast
import gc
import random
import sys
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barnacle_trio import _errors, etf
from barnacle_trio.etf import (
    Atom,
    BitString,
    DecodeError,
    ImproperList,
    Limits,
    Map,
    Pid,
    _terms,
    decode,
    decode_prefix,
    encode,
)
from barnacle_trio.etf import _leaves as leaves
from tests.terms import terms

MIB = 1024 * 1024
V = b"\x83"


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


def refused(data: bytes, match: str | None = None, **options: Any) -> None:
    with pytest.raises(DecodeError, match=match):
        decode(data, **options)


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


# 78


@pytest.mark.parametrize(("size", "bits"), [(1, 0), (1, 9), (1, 255), (0, 0), (0, 1), (0, 8)])
def test_78_bits_that_cannot_be(size: int, bits: int) -> None:
    refused(V + b"M" + size.to_bytes(4) + bytes([bits]) + bytes(size), "bits in the last")


def test_78_what_others_would_die_of_is_not_passed_on_inside_a_fun() -> None:
    """Its bytes are kept as they came, and OTP 28 dies of a BIT_BINARY without any."""
    rest = b"\0" + bytes(16) + bytes(4) + (1).to_bytes(4) + b"w\1ma\0a\0"
    rest += Pid(Atom("a@127.0.0.1"), 1, 2, 3).wire
    for free, match in ((b"a\1", None), (b"M\0\0\0\0\0", "bits in the last")):
        fun = V + b"p" + (len(rest) + 4 + len(free)).to_bytes(4) + rest + free
        if match is None:
            assert encode(decode(fun)) == fun
        else:
            refused(fun, match)


def test_78_bits_that_are_not_used_do_not_tell_terms_apart() -> None:
    assert decode(V + b"M\0\0\0\1\3\xff") == decode(V + b"M\0\0\0\1\3\xe0") == BitString(b"\xe0", 3)


# 79


def pairs(*keys: bytes) -> bytes:
    return V + b"t" + len(keys).to_bytes(4) + b"".join(key + b"a\0" for key in keys)


@pytest.mark.parametrize(
    "key",
    [b"a\1", b"w\1a", b"j", b"m\0\0\0\0", b"l\0\0\0\1a\1j", b"t\0\0\0\0", b"h\1t\0\0\0\0"],
)
def test_79_a_key_twice(key: bytes) -> None:
    assert len(decode(pairs(key))) == 1
    refused(pairs(key, key), "same term")
    refused(pairs(b"w\1x", key, b"a\2", key), "same term")


def test_79_a_key_twice_in_two_spellings() -> None:
    refused(pairs(b"a\1", b"b\0\0\0\1"), "same term")
    refused(pairs(b"w\1a", b"d\0\1a"), "same term")
    refused(pairs(b"k\0\1a", b"l\0\0\0\1aaj"), "same term")
    one, other = b"t\0\0\0\2a\1jw\1aj", b"t\0\0\0\2w\1aja\1j"  # two orders of one map
    refused(pairs(one, other), "same term")


def test_79_keys_that_python_takes_for_one() -> None:
    one = b"F" + bytes.fromhex("3ff0000000000000")
    term = decode(pairs(b"a\1", one, b"w\4true"))
    assert isinstance(term, Map)
    assert [type(key) for key in term] == [int, float, bool]
    term = decode(pairs(b"h\1a\1", b"h\1" + one))
    assert isinstance(term, Map)
    assert [type(key[0]) for key in term] == [int, float]


def test_79_keys_that_have_no_hash() -> None:
    term = decode(pairs(b"j", b"t\0\0\0\0", b"h\1j", b"l\0\0\0\1jw\1t"))
    assert isinstance(term, Map)
    assert list(term) == [[], {}, ([],), ImproperList([[]], Atom("t"))]
    assert term[[]] == term[{}] == 0


def test_79_maps_in_keys_of_maps_in_keys_cost_no_more_than_their_bytes() -> None:
    def nested(levels: int, inside: bytes) -> bytes:
        for _ in range(levels):
            inside = b"t\0\0\0\1" + inside + b"a\0"
        return V + inside

    filling = b"l" + (20_000).to_bytes(4) + b"a\7" * 20_000 + b"j"
    started = time.process_time()
    for levels in range(1, 8):
        decode(nested(levels, filling))
    refused(nested(300, filling), "in one another inside")
    assert time.process_time() - started < 5


# 80


def fun(free: bytes = b"", count: int = 0, size: int | None = None, *, pid: bytes = b"") -> bytes:
    pid = pid or Pid(Atom("a@b"), 1, 0, 0).wire
    rest = bytes(21) + count.to_bytes(4) + b"w\1m" + b"a\0" + b"a\0" + pid + free
    return V + b"p" + (len(rest) + 4 if size is None else size).to_bytes(4) + rest


def test_80_lengths_of_funs_exports_and_references_that_lie() -> None:
    assert decode(fun())
    assert decode(fun(b"a\1j", 2))
    size = len(fun()) - 2
    refused(fun(size=size - 1), "size")
    refused(fun(size=size + 1), "size")
    refused(fun(size=2**32 - 1), "size")
    refused(fun(size=0), "size")
    refused(fun(count=1), "end inside")
    refused(fun(count=256), "256 free variables")
    refused(fun(count=2**32 - 1), "free variables")
    refused(fun(pid=b"a\0"), "belongs")
    for words in (0, 6, 7, 65535):
        refused(V + b"Z" + words.to_bytes(2) + b"w\3a@b" + bytes(4 + 4 * words), "words")
        refused(V + b"r" + words.to_bytes(2) + b"w\3a@b" + bytes(1 + 4 * words), "words")
    refused(V + b"Z\0\5w\3a@b" + bytes(23), "end inside")
    refused(V + b"qw\1mw\1fb\0\0\1\0", "arity")
    refused(V + b"qw\1mw\1fb\xff\xff\xff\xff", "arity")
    refused(V + b"qw\1mw\1fw\1a", "an integer is due")
    refused(V + b"qw\1ma\1a\1", "an atom is due")


def test_80_old_forms_hold_no_more_than_they_have_bits_for() -> None:
    refused(V + b"gw\3a@b" + bytes(8) + b"\4", "creation")
    refused(V + b"fw\3a@b" + bytes(4) + b"\4", "creation")
    refused(V + b"ew\3a@b" + bytes(4) + b"\4", "creation")
    refused(V + b"r\0\1w\3a@b\4" + bytes(4), "creation")
    refused(V + b"ew\3a@b\0\4\0\0\0", "18 bits")
    refused(V + b"r\0\1w\3a@b\0\0\4\0\0", "18 bits")


def test_80_nested_funs_are_told_apart() -> None:
    inner = fun(b"j", 1)[1:]
    outer = fun(inner + inner + b"a\1", 3)
    assert encode(decode(outer)) == outer
    refused(fun(inner[:-1], 1))


# 81


def test_81_text_in_double_quotes_and_tails_are_exact() -> None:
    assert decode(V + b"k\0\2hi") == decode(V + b"l\0\0\0\2ahaij") == [104, 105]
    assert decode(V + b"m\0\0\0\2hi") == b"hi"
    assert decode(V + b"l\0\0\0\1ahk\0\1i") == [104, 105]
    assert decode(V + b"l\0\0\0\1ahai") == ImproperList([104], 105)
    assert decode(V + b"l\0\0\0\1ahm\0\0\0\1i") == ImproperList([104], b"i")
    refused(V + b"l\0\0\0\1ah", "end inside")
    refused(V + b"k\0\3hi", "announced")


# 82


def test_82_bytes_after_the_term() -> None:
    data = encode((1, 2)) + b"\0"
    refused(data, "1 bytes after the term")
    assert decode(data, trailing=True) == (1, 2)
    assert decode_prefix(data) == ((1, 2), len(data) - 1)


# 83


def test_83_integers_chosen_to_have_one_hash() -> None:
    modulus = sys.hash_info.modulus
    count = 30_000  # as keys of a dict they take minutes
    colliding = [encode(number * modulus)[1:] for number in range(1, count + 1)]
    data = pairs(*colliding)
    started = time.process_time()
    term = decode(data)
    assert time.process_time() - started < 5
    assert isinstance(term, Map)
    assert len(term) == count
    assert term[5 * modulus] == 0
    assert encode(term) == data


def test_83_keys_that_share_hashes_by_chance_are_still_a_dict() -> None:
    term = dict.fromkeys(product((-1, -2), range(1000)), 0)  # hash(-1) == hash(-2)
    assert type(decode(encode(term))) is dict


# 84


def test_84_nothing_of_a_peers_is_ever_run() -> None:
    package = Path(etf.__file__).parent
    for module in package.glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not names & {"pickle", "marshal", "shelve", "importlib"}, module
            elif isinstance(node, ast.Name):
                assert node.id not in {"eval", "exec", "compile", "__import__"}, module


# Tags, the end of input, and bytes at random.


def test_tags_that_no_peer_may_send() -> None:
    known = {67, 70, 77, 82, 88, 89, 90, *range(97, 117), 118, 119, 120}
    for tag in range(256):
        if tag not in known:  # 121, LOCAL_EXT, among them
            refused(V + bytes([tag]) + bytes(60), f"tag {tag} at byte 1 begins no term")


@pytest.mark.parametrize("data", [b"", b"\x82a\1", b"\0", b"a\1", b"\x83", b"\x84a\1"])
def test_what_does_not_begin_as_a_term(data: bytes) -> None:
    refused(data)


@given(terms())
@settings(max_examples=40, deadline=None)
def test_a_term_that_is_cut_off_anywhere(term: Any) -> None:
    data = encode(term)
    for end in range(len(data)):
        refused(data[:end])


@given(terms(), st.data())
@settings(max_examples=200, deadline=None)
def test_a_term_with_bytes_changed(term: Any, choice: st.DataObject) -> None:
    data = bytearray(encode(term))
    for _ in range(choice.draw(st.integers(1, 4))):
        place = choice.draw(st.integers(1, len(data)))
        data[place : place + 1] = choice.draw(st.binary(max_size=3))
    try:
        found = decode(data, compressed=True)
    except DecodeError:
        return
    assert encode(found)  # what was taken can be sent on


def test_bytes_at_random_and_frames_with_faults() -> None:
    rng = random.Random(71)
    tags = bytes((70, 77, 80, 82, 88, 89, 90, *range(97, 122)))
    seed = encode([{"k": (1, 2.5, Atom("a"))}, ImproperList([1], Map([([], 2)])), 2**70, "text"])
    taken = 0
    for turn in range(12_000):
        if turn % 2:
            body = bytearray(seed)
            for _ in range(rng.randrange(1, 5)):
                body[rng.randrange(1, len(body))] = (
                    rng.choice(tags) if turn % 4 == 1 else rng.randrange(256)
                )
            data = bytes(body)
        else:
            data = V + bytes(rng.choices(tags + b"\0\0\0\0\1\1\2\3", k=rng.randrange(1, 40)))
        try:
            term, _end = decode_prefix(data)
        except DecodeError:
            continue
        taken += 1
        encode(term)
    assert taken > 300
