r"""The External Term Format: Erlang's values as bytes, both ways.

    encode((Atom("ok"), [1, 2.5], {"key": None}))
    decode(b"\x83h\x02w\x02oka\x01")     # (Atom('ok'), 1)

| Erlang | Python |
|---|---|
| ``nil``, ``true``, ``false`` | `None`, `True`, `False` |
| any other atom, ``undefined`` too | `Atom` |
| integer, float | `int`, `float` |
| binary | `bytes`; a `str` is encoded as its UTF-8 |
| bit string | `BitString` |
| tuple, list | `tuple`, `list` |
| ``"text"``, a list of integers | `list` of `int` |
| ``[a \| b]`` | `ImproperList` |
| map | `dict`, or `Map` where a `dict` would confuse its keys |
| pid, reference, port | `Pid`, `Reference`, `Port` |
| ``fun m:f/1``, a closure | `Export`, `Fun` |

`decode` undoes `encode`, and the other way round, up to what is one and the same to Erlang: `str`
comes back as `bytes`, ``Atom("true")`` as `True`, a subclass as its base, and a `Map` that a `dict`
can hold as a `dict`. Bytes of a peer come back in our spelling of the same term.
"""

from barnacle_trio.etf._decode import decode, decode_prefix
from barnacle_trio.etf._encode import encode
from barnacle_trio.etf._errors import DecodeError, EncodeError
from barnacle_trio.etf._limits import Limits
from barnacle_trio.etf._map import Map
from barnacle_trio.etf._terms import (
    Atom,
    BitString,
    Export,
    Fun,
    ImproperList,
    Pid,
    Port,
    Reference,
)

__all__ = [
    "Atom",
    "BitString",
    "DecodeError",
    "EncodeError",
    "Export",
    "Fun",
    "ImproperList",
    "Limits",
    "Map",
    "Pid",
    "Port",
    "Reference",
    "decode",
    "decode_prefix",
    "encode",
]
