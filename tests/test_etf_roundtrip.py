"""Terms of every kind survive the way out and back."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings

from barnacle_trio.etf import decode, decode_prefix, encode
from tests.terms import normal, same, terms


@given(terms())
@settings(max_examples=250, deadline=None)
def test_decode_undoes_encode(term: Any) -> None:
    assert same(decode(encode(term)), normal(term))


@given(terms(), terms())
@settings(max_examples=100, deadline=None)
def test_terms_one_behind_the_other_are_told_apart(one: Any, other: Any) -> None:
    frame = b"\x70" + encode(one) + encode(other)
    first, offset = decode_prefix(frame, 1)
    second, end = decode_prefix(frame, offset)
    assert same(first, normal(one))
    assert same(second, normal(other))
    assert end == len(frame)


@given(terms())
@settings(max_examples=100, deadline=None)
def test_a_decoded_term_is_encoded_as_before(term: Any) -> None:
    data = encode(term)
    assert encode(decode(data)) == data


@given(terms(max_leaves=6))
@settings(max_examples=100, deadline=None)
def test_any_buffer_is_read_alike(term: Any) -> None:
    data = encode(term)
    assert same(decode(bytearray(data)), decode(data))
    assert same(decode(memoryview(data)), decode(data))
