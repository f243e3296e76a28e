"""Faults in bytes, the same ones for the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

_NUMBERS = (0, 1, 2, 3, 127, 128, 254, 255)
_TOKENS = (
    b"\x83", b"\x83D\0", b"\x83E", b"\x83F", b"\x83P", b"p\x83",  # how things begin
    b"h\x02", b"l\0\0\0\1", b"j", b"t\0\0\0\1", b"m\0\0\0\1", b"w\1a", b"a\1", b"k\0\1",
    b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\1", b"\xff\xff",
    b"@", b"\n", b"\0", b"'", b'"', b".", b"\\", b"-", b" ", b"{", b"}", b"[", b"]", b"null",
    b"\xc3\xa9", b"\xe2\x80\xae", b"\xff\xfe",
)  # fmt: skip


def mutated(data: bytes, rng: Random, others: Sequence[bytes] = ()) -> bytes:
    """The bytes with one to three faults, most of them small.

    Args:
      data: what is right.
      rng: what decides.
      others: of which pieces may be taken.
    """
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _spoil(result, rng, others)
    return bytes(result)


def _spoil(data: bytearray, rng: Random, others: Sequence[bytes]) -> None:
    place = rng.randrange(len(data) + 1)
    match rng.randrange(9):
        case 0:
            data[place : place + 1] = bytes([rng.randrange(256)])
        case 1:
            data[place : place + 1] = bytes([rng.choice(_NUMBERS)])
        case 2 if place < len(data):
            data[place] ^= 1 << rng.randrange(8)
        case 3 if place < len(data):
            data[place] = (data[place] + rng.choice((-1, 1))) % 256
        case 4:
            del data[place : place + rng.randrange(1, 5)]
        case 5:
            data[place:place] = rng.choice(_TOKENS)
        case 6:  # some of it twice
            start = rng.randrange(len(data) + 1)
            data[place:place] = data[start : start + rng.randrange(1, 17)]
        case 7 if others:  # the end of another one
            other = rng.choice(others)
            data[place:] = other[rng.randrange(len(other) + 1) :]
        case _:
            del data[place:]
