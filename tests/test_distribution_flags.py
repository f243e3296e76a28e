"""Flags: the words that OTP sends, and what is demanded of a peer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barnacle_trio.distribution._flags import MANDATORY, OUR_FLAGS, Flag, known, missing_flags

OTP_25 = 0xD07DF7FBC  # what a BEAM of OTP 25 or 27 sends, without PUBLISHED
OTP_28 = 0x2D07DF7FBC
OTP_29 = 0x6D07DF7FBC


def test_our_word_is_the_sum_of_its_named_bits() -> None:
    assert OUR_FLAGS == 0xD07DF5FBC
    assert not OUR_FLAGS & Flag.PUBLISHED
    assert not OUR_FLAGS & Flag.DIST_HDR_ATOM_CACHE
    assert OUR_FLAGS & Flag.FRAGMENTS


def test_our_word_holds_all_that_otp_25_and_28_demand() -> None:
    assert MANDATORY == 0x1070F94
    assert OUR_FLAGS & 0x1070F94 == 0x1070F94
    assert OUR_FLAGS & 0x403070F94 == 0x403070F94


def test_the_digest_of_mandatory_flags_is_bit_26() -> None:
    assert Flag.MANDATORY_25_DIGEST == 1 << 26
    assert Flag.LOCAL_EXT == 1 << 36


def test_the_default_words_of_otp_are_wholly_known() -> None:
    for word in (OTP_25, OTP_28, OTP_29):
        assert known(word) == word
        assert missing_flags(word) == []


@pytest.mark.parametrize("flag", list(MANDATORY))
def test_each_mandatory_flag_is_missed_by_name(flag: Flag) -> None:
    assert missing_flags(int(MANDATORY) & ~int(flag)) == [flag.name]


def test_bit_26_alone_stands_for_the_mandatory_flags() -> None:
    assert missing_flags(1 << 26) == []
    assert len(missing_flags(0)) == 11


@given(st.integers(0, 2**64 - 1))
def test_unknown_bits_are_dropped(word: int) -> None:
    """Hostile input 39, and every other word: only known flags are kept."""
    kept = known(word)
    assert kept & ~word == 0
    assert all(flag.name for flag in kept)
    assert known(2**64 - 1) == sum(Flag)
