"""Terms of hostile peers: forms that lie, and bytes at random."""

from __future__ import annotations

import ast
import random
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barnacle_trio import etf
from barnacle_trio.etf import (
    Atom,
    BitString,
    DecodeError,
    ImproperList,
    Map,
    Pid,
    decode,
    decode_prefix,
    encode,
)
from tests.etf_hostile_players import V, refused
from tests.terms import terms

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
