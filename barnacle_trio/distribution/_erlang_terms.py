"""Erlang terms as files of options hold them: text in, Python values out.

Source: the OTP documents "Erlang Reference Manual", Data Types, and ``file:consult/1``. Read are
atoms, integers, strings, binaries of plain text, lists and tuples; each term ends with a full stop.
"""

from __future__ import annotations

import re
from typing import Any

from barnacle_trio.etf import Atom

MAX_DEPTH = 30
"""How deep terms may be nested."""

_TOKEN = re.compile(
    r"""
      (?P<blank> (?: \s | %[^\n]* )+ )
    | (?P<binary> << \s* "(?P<bytes> (?: [^"\\] | \\. )*+ )" (?: \s* /utf8 )? \s* >> )
    | (?P<string> "(?: [^"\\] | \\. )*+" )
    | (?P<quoted> '(?: [^'\\] | \\. )*+' )
    | (?P<atom> [a-z][0-9A-Za-z_@]* )
    | (?P<integer> -?[0-9]++ (?![0-9A-Za-z_#.]*[0-9A-Za-z_#]) )
    | (?P<stop> \. (?= \s | % | \Z ) )
    | (?P<mark> [\[\]{},] )
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(
    r"\\(?:x\{(?P<braced>[0-9A-Fa-f]{1,6})\}|x(?P<hex>[0-9A-Fa-f]{2})|(?P<octal>[0-7]{1,3})"
    r"|\^(?P<control>.)|(?P<letter>.))",
    re.DOTALL,
)
_LETTERS = {"b": "\b", "d": "\x7f", "e": "\x1b", "f": "\f", "n": "\n", "r": "\r", "s": " "}
_LETTERS |= {"t": "\t", "v": "\v"}
_CLOSING = {"[": "]", "{": "}"}


def parse_terms(text: str) -> list[Any]:
    """Read all terms of a text: atoms as `Atom`, strings as `str`, binaries as `bytes`.

    Raises:
      ValueError: something else stands there; the message gives the line, and nothing of the text.
    """
    return _Reader(text).read_all()


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._kind = ""
        self._mark = ""
        self._next()

    def read_all(self) -> list[Any]:
        terms: list[Any] = []
        while self._kind:
            terms.append(self._term(0))
            if self._kind != "stop":
                raise self._error("a full stop is missing")
            self._next()
        return terms

    def _term(self, depth: int) -> Any:
        kind, text = self._kind, self._mark
        if depth > MAX_DEPTH:
            raise self._error("it is nested too deeply")
        if kind == "mark" and text in _CLOSING:
            items = self._items(_CLOSING[text], depth)
            return items if text == "[" else tuple(items)
        if kind in ("", "mark", "stop"):
            raise self._error("a term is missing")
        self._next()
        match kind:
            case "integer":
                return int(text)
            case "atom":
                return Atom(text)
            case "quoted":
                return Atom(_unescape(text[1:-1]))
            case "string":
                return _unescape(text[1:-1])
        return _unescape(text[text.index('"') + 1 : text.rindex('"')]).encode()

    def _items(self, closing: str, depth: int) -> list[Any]:
        items: list[Any] = []
        self._next()
        while self._mark != closing or self._kind != "mark":
            items.append(self._term(depth + 1))
            if self._kind == "mark" and self._mark == ",":
                self._next()
                if self._kind == "mark" and self._mark == closing:
                    raise self._error("a term is missing")
            elif self._kind != "mark" or self._mark != closing:
                raise self._error(f"{closing} is missing")
        self._next()
        return items

    def _next(self) -> None:
        while True:
            if self._at == len(self._text):
                self._kind = self._mark = ""
                return
            found = _TOKEN.match(self._text, self._at)
            if found is None:
                raise self._error("this is no term that is read here")
            self._at = found.end()
            kind = found.lastgroup
            self._kind = "binary" if kind == "bytes" else kind or ""
            self._mark = found[0]
            if self._kind != "blank":
                return

    def _error(self, reason: str) -> ValueError:
        line = self._text.count("\n", 0, self._at) + 1
        return ValueError(f"line {line}: {reason}")


def _unescape(text: str) -> str:
    return _ESCAPE.sub(_escaped, text)


def _escaped(escape: re.Match[str]) -> str:
    if escape["letter"] is not None:
        return _LETTERS.get(escape["letter"], escape["letter"])
    if escape["control"] is not None:
        return chr(ord(escape["control"]) & 31)
    octal = escape["octal"]
    code = int(octal, 8) if octal is not None else int(escape["braced"] or escape["hex"], 16)
    return chr(code) if code <= 0x10FFFF else "\ufffd"
