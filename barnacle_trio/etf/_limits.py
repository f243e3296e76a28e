"""How much a term may cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on one term, in both directions: what is over them is refused, never cut.

    Args:
      max_bytes: size of the encoded term. The default has room for a binary of 64 MiB and for what
        stands around it.
      max_depth: how deep containers may stand in one another. Within Python's own limit on
        recursion, so that a decoded term can be printed and compared.
      max_elements: elements of all tuples, lists and strings together, and keys and values of all
        maps. What bounds memory: the smallest element takes one byte on the wire and about sixty
        here.
      max_atoms: atoms in one term that were not met of late (decoding only).
      max_bignum_bytes: size of one integer. The default is the largest of which Python prints the
        digits without being told to (`sys.set_int_max_str_digits`).
      max_inflated_bytes: size of a compressed term after decompression (decoding only).
    """

    max_bytes: int = 64 * 1024 * 1024 + 64 * 1024
    max_depth: int = 512
    max_elements: int = 1_000_000
    max_atoms: int = 65_536
    max_bignum_bytes: int = 1785
    max_inflated_bytes: int = 16 * 1024 * 1024


DEFAULT_LIMITS = Limits()
