"""Erlang's values that Python has no type of its own for.

Those that go over the wire unchanged carry their encoded form, ``wire`` (without the version byte),
made and checked once. It is what they are compared and hashed by: one term has one such form here,
however a peer spelt it ("External Term Format").
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from struct import Struct
from struct import error as StructError
from typing import TYPE_CHECKING, Any, NoReturn, final
from weakref import WeakValueDictionary

from barnacle_trio.etf._errors import EncodeError

MAX_ATOM_CHARACTERS = 255
MAX_REFERENCE_WORDS = 5
_PID = Struct("!III")
_REFERENCE = Struct("!BH")
_PORT = Struct("!II")
_V4_PORT = Struct("!QI")
_FUN = Struct("!BI")

_put = object.__setattr__


@final
class Atom:
    """An Erlang atom: ``Atom("ok")``. Not a `str`, and never equal to one.

    There is one object for each name at a time, so atoms are compared by identity, and one that
    nobody holds is forgotten. The atoms ``true``, ``false`` and ``nil`` are decoded to Python's
    `True`, `False` and `None`; every other one, ``undefined`` included, is an `Atom`.

    Raises:
      EncodeError: the name has more than 255 characters, or holds lone surrogates.
      TypeError: the name is no `str`.
    """

    __slots__ = ("__weakref__", "name", "wire")
    __match_args__ = ("name",)

    name: str
    wire: bytes

    def __new__(cls, name: str) -> Atom:
        atom = _atoms.get(name)
        return _intern(name) if atom is None else atom

    if not TYPE_CHECKING:  # a type checker would take these for leave to set any attribute

        def __setattr__(self, name: str, value: object) -> NoReturn:
            raise AttributeError("an atom cannot be changed")

        def __delattr__(self, name: str) -> NoReturn:
            raise AttributeError("an atom cannot be changed")

    def __repr__(self) -> str:
        return f"Atom({self.name!r})"

    def __reduce__(self) -> tuple[type[Atom], tuple[str]]:
        return Atom, (self.name,)


_atoms: WeakValueDictionary[str, Atom] = WeakValueDictionary()
_atoms_lock = threading.Lock()


def _intern(name: str) -> Atom:
    if not isinstance(name, str):
        raise TypeError(f"the name of an atom is a str, not {type(name).__name__}")
    name = str.__str__(name)
    if len(name) > MAX_ATOM_CHARACTERS:
        raise EncodeError(f"an atom of {len(name)} characters; at most 255 are allowed")
    try:
        text = name.encode()
    except UnicodeEncodeError as error:
        raise EncodeError("the name of an atom holds lone surrogates") from error
    size = len(text)
    with _atoms_lock:
        atom = _atoms.get(name)
        if atom is None:
            atom = object.__new__(Atom)
            _put(atom, "name", name)
            head = b"w%c" % size if size < 256 else b"v" + size.to_bytes(2)
            _put(atom, "wire", head + text)
            _atoms[name] = atom
    return atom


class _Wired:
    """What is compared and hashed by its encoded form."""

    __slots__ = ()
    wire: bytes

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.wire == other.wire

    def __hash__(self) -> int:
        return hash(self.wire)


def _node_wire(what: str, node: Atom) -> bytes:
    if type(node) is not Atom:
        raise TypeError(f"the node of {what} is an Atom, not {type(node).__name__}")
    return node.wire


def _wire() -> Any:
    return field(init=False, repr=False, default=b"")


@dataclass(frozen=True, slots=True, eq=False)
class Pid(_Wired):
    """A process of any node. ``creation`` tells a node's incarnations apart.

    ``id``, ``serial`` and ``creation`` are 32 bits each, else `EncodeError`.
    """

    node: Atom
    id: int
    serial: int
    creation: int
    wire: bytes = _wire()

    def __post_init__(self) -> None:
        node = _node_wire("a pid", self.node)
        try:
            numbers = _PID.pack(self.id, self.serial, self.creation)
        except StructError as error:
            raise EncodeError(f"a number of a pid is out of range: {error}") from error
        _put(self, "wire", b"X" + node + numbers)


@dataclass(frozen=True, slots=True, eq=False)
class Reference(_Wired):
    """A unique reference: 1 to 5 words, ``ids``, of 32 bits each, else `EncodeError`."""

    node: Atom
    creation: int
    ids: tuple[int, ...]
    wire: bytes = _wire()

    def __post_init__(self) -> None:
        _put(self, "ids", tuple(self.ids))
        node = _node_wire("a reference", self.node)
        words = len(self.ids)
        if not 1 <= words <= MAX_REFERENCE_WORDS:
            raise EncodeError(f"a reference has 1 to 5 words, not {words}")
        try:
            numbers = _WORDS[words].pack(self.creation, *self.ids)
        except StructError as error:
            raise EncodeError(f"a number of a reference is out of range: {error}") from error
        _put(self, "wire", _REFERENCE.pack(90, words) + node + numbers)


_WORDS = {words: Struct(f"!I{words}I") for words in range(1, MAX_REFERENCE_WORDS + 1)}


@dataclass(frozen=True, slots=True, eq=False)
class Port(_Wired):
    """A port of a node: ``id`` has 64 bits, ``creation`` 32, else `EncodeError`."""

    node: Atom
    id: int
    creation: int
    wire: bytes = _wire()

    def __post_init__(self) -> None:
        node = _node_wire("a port", self.node)
        small = 0 <= self.id < 1 << 28  # beyond, peers know only the form that has 64 bits
        try:
            numbers = (_PORT if small else _V4_PORT).pack(self.id, self.creation)
        except StructError as error:
            raise EncodeError(f"a number of a port is out of range: {error}") from error
        _put(self, "wire", (b"Y" if small else b"x") + node + numbers)


@dataclass(frozen=True, slots=True, eq=False)
class Export(_Wired):
    """``fun module:function/arity``: a function by its name. ``arity`` is 0 to 255."""

    module: Atom
    function: Atom
    arity: int
    wire: bytes = _wire()

    def __post_init__(self) -> None:
        for name in (self.module, self.function):
            if type(name) is not Atom:
                raise TypeError(f"an export's names are Atoms, not {type(name).__name__}")
        if not 0 <= self.arity <= 255:
            raise EncodeError(f"an arity is 0 to 255, not {self.arity}")
        _put(self, "wire", b"q%ba%c" % (self.module.wire + self.function.wire, self.arity))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Fun(_Wired):
    """A closure of some BEAM. It means nothing here, and is carried back byte for byte.

    Args:
      wire: its encoded form, from the tag on, as `decode` found it. Nobody else can make one up.
    """

    wire: bytes

    def __post_init__(self) -> None:
        if len(self.wire) < 5 or _FUN.unpack_from(self.wire) != (112, len(self.wire) - 1):
            raise EncodeError("these bytes are not an encoded fun")

    def __repr__(self) -> str:
        return f"<Fun of {len(self.wire)} bytes>"


@dataclass(frozen=True, slots=True)
class BitString:
    """Bits that do not fill their last byte. Those that do are plain `bytes`.

    Args:
      data: the bytes. Unused bits of the last one are set to zero.
      bits: how many bits of the last byte are used, from the top: 1 to 7, else `EncodeError`.
    """

    data: bytes
    bits: int

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 7:
            raise EncodeError(f"1 to 7 bits of the last byte are used, not {self.bits}")
        if not self.data:
            raise EncodeError("a bit string without a byte has no last byte")
        used = self.data[-1] & (0xFF00 >> self.bits) & 0xFF
        _put(self, "data", bytes(self.data[:-1]) + bytes([used]))


@dataclass(frozen=True, slots=True, init=False, repr=False)
class ImproperList:
    """``[a, b | tail]``: a list that does not end in the empty list.

    ``elements`` (at least one) are kept as a tuple. A ``tail`` that is itself a list, proper or
    not, would make another list of the whole: `EncodeError`.
    """

    elements: tuple[Any, ...]
    tail: Any

    def __init__(self, elements: Iterable[Any], tail: Any) -> None:
        _put(self, "elements", tuple(elements))
        _put(self, "tail", tail)
        if not self.elements:
            raise EncodeError("an improper list without elements is its tail")
        if isinstance(tail, (list, ImproperList)):
            raise EncodeError("the tail of an improper list is not a list")

    def __repr__(self) -> str:
        try:
            return f"ImproperList({self.elements!r}, {self.tail!r})"
        except RecursionError:  # a peer's term, in somebody's log line
            return "ImproperList(...)"


# For the decoder, which has checked the parts already: a third of the time of the usual way.


def improper_list(elements: list[Any], tail: Any) -> ImproperList:
    """An `ImproperList` of parts that are known to be right."""
    made = object.__new__(ImproperList)
    _put(made, "elements", tuple(elements))
    _put(made, "tail", tail)
    return made


def reference(node: Atom, creation: int, ids: tuple[int, ...], wire: bytes) -> Reference:
    """A `Reference` of parts that are known to be right, ``wire`` being our spelling of it."""
    made = object.__new__(Reference)
    _put(made, "node", node)
    _put(made, "creation", creation)
    _put(made, "ids", ids)
    _put(made, "wire", wire)
    return made
