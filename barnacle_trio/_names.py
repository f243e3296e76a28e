"""Node names: what they are, and patterns that choose among them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from itertools import accumulate
from typing import Self, TypeAlias

from barnacle_trio._errors import ConfigurationError

# Erlang's distribution gives a node name one byte of length in the port mapper and 255 on the
# wire, and refuses names beyond ASCII with the status `nok` ("Distribution Protocol").
MAX_NAME_BYTES = 255
_PRINTABLE = re.compile(r"[!-~]+")


class NodeName(str):
    """A validated node name, ``basename@host``, e.g. ``my_app@10.0.0.7`` or ``my_app@fdaa:0:1::3``.

    It is a plain `str` in every respect (equal, hashable, sortable, printable) that has been
    checked once. An IPv6 host is written as Erlang writes it: without brackets.

    Raises:
      ValueError: the text is no node name; the message says what is wrong with it.
      TypeError: not a `str` at all.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        if type(text) is cls:
            return text
        if not isinstance(text, str):
            raise TypeError(f"a node name is a str, not {type(text).__name__}")
        complaint = _complaint(text)
        if complaint is not None:
            raise ValueError(f"{shorten(text)} is not a node name: {complaint}")
        return super().__new__(cls, text)

    @property
    def basename(self) -> str:
        """The part before the ``@``, under which the node is known to the port mapper."""
        return self.partition("@")[0]

    @property
    def host(self) -> str:
        """The part after the ``@``: a host name, or a literal IPv4 or IPv6 address."""
        return self.partition("@")[2]


def _complaint(text: str) -> str | None:
    if not text:
        return "it is empty"
    if text.count("@") != 1:
        found = "has no '@'" if "@" not in text else "has more than one '@'"
        return f"it {found}; write basename@host"
    basename, _, host = text.partition("@")
    if not basename:
        return "nothing stands before the '@'"
    if not host:
        return "nothing stands after the '@'"
    if not _PRINTABLE.fullmatch(text):
        return "only printable ASCII characters without spaces are allowed"
    if len(text) > MAX_NAME_BYTES:
        return f"it is {len(text)} bytes long, the limit is {MAX_NAME_BYTES}"
    if host.startswith("[") or host.endswith("]"):
        return "write an IPv6 host without brackets"
    return None


def shorten(value: object, limit: int = 80) -> str:
    """An escaped form of what a peer or a user gave, short enough for one line of a log."""
    text = value if isinstance(value, str) else str(value)
    cut = text[:limit]
    if not cut.isascii() or not cut.isprintable():
        sizes = accumulate(len(ascii(each)) - 2 for each in cut)  # one letter may become ten
        cut = cut[: sum(size <= limit for size in sizes)]
    return ascii(cut) if cut == text else f"{cut!a}..."


def show(value: object, limit: int = 80) -> str:
    """A value as it is written in Python, escaped and shortened like that."""
    text = repr(value)
    cut = "".join(each if " " <= each <= "~" else ascii(each)[1:-1] for each in text[:limit])
    return cut if len(text) <= limit else f"{cut}..."


Match: TypeAlias = str | Callable[[NodeName], bool]
"""A choice of node names: a glob over the whole name (``"my_app@*"``), or a predicate."""


def matcher(match: Match | Iterable[Match] | None) -> Callable[[NodeName], bool]:
    """Turn a glob, a predicate, several of them (any one will do) or None (all) into a predicate.

    A glob without ``@`` is held against the base name alone: ``"worker*"``. Matching is
    case-sensitive, as Erlang's names are.

    Raises:
      ConfigurationError: a glob that no name can ever match; the message says why.
    """
    if match is None:
        return lambda _name: True
    if callable(match):
        return match
    if isinstance(match, str):
        pattern = match
        flaw = _flaw(pattern)
        if flaw is not None:
            raise ConfigurationError(f"{shorten(pattern)} matches no node name: {flaw}")
        if "@" in pattern:
            return lambda name: fnmatchcase(name, pattern)
        return lambda name: fnmatchcase(name.basename, pattern)
    choices = [matcher(each) for each in match]
    return lambda name: any(choice(name) for choice in choices)


def _flaw(glob: str) -> str | None:
    """Why a glob is a slip rather than a choice; `fnmatch` itself takes everything."""
    if not glob:
        return "it is empty"
    if not _PRINTABLE.fullmatch(glob):
        return "only printable ASCII characters without spaces are allowed"
    outside = re.sub(r"\[!?+\]?+[^]]*\]", "", glob)
    if "[" in outside:
        return "a '[' is not closed"
    if outside.count("@") > 1:
        return "it has more than one '@'"
    return None
