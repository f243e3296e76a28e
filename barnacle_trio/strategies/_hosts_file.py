"""The text of `.hosts.erlang`: bytes in, host names and bad lines out.

Source: the OTP documents ``net_adm`` ("Files") and ``file`` (``consult/1``): Erlang terms, each
ended by a full stop and blank space. Erlang refuses a file with one bad term as a whole; here every
other line still counts, and each bad one is told with its number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from barnacle_trio._names import NodeName, shorten

MAX_HOSTS = 10_000
"""How many hosts of one file are read."""
MAX_BAD_LINES = 100
"""How many bad lines of one file are told; what follows them is not read."""

# Blanks and comments, atoms, and the full stop, as Erlang's scanner knows them.
_SPACE = r"[\x00-\x20\x80-\xa0]"
_BLANK = re.compile(rf"(?:{_SPACE}|%[^\n]*)*")
_ATOM = re.compile(r"'((?>[^'\\]|\\\^.|\\.)*+)'|([a-z][0-9A-Za-z_@]*)", re.DOTALL)
_STOP = re.compile(rf"\.(?={_SPACE}|%|\Z)")
_ESCAPE = re.compile(
    r"\\(?:x\{([0-9A-Fa-f]{1,6})\}|x([0-9A-Fa-f]{2})|([0-7]{1,3})|\^(.)|(.))", re.DOTALL
)
_LETTERS = {"b": "\b", "d": "\x7f", "e": "\x1b", "f": "\f", "n": "\n", "r": "\r", "s": " "}
_LETTERS |= {"t": "\t", "v": "\v"}
# Without quotes they are no atoms ("else" and "maybe" since OTP 27).
_RESERVED = re.compile(
    "after|and|andalso|band|begin|bnot|bor|bsl|bsr|bxor|case|catch|cond|div|else|end|fun|if|let|"
    "maybe|not|of|or|orelse|receive|rem|try|when|xor"
)


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line, counted from 1, that holds something else than a host; ``reason`` says what."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class HostsFile:
    """What a file says: its hosts in their order, each once, and the lines that were left out."""

    hosts: tuple[str, ...]
    bad: tuple[BadLine, ...]


def parse_hosts(data: bytes) -> HostsFile:
    """Read the whole content of a file. Nothing is raised, whatever it holds."""
    # Beyond ASCII there is nothing but comments, in whatever encoding.
    text = data.decode("utf-8", "replace")
    hosts: dict[str, None] = {}
    bad: list[BadLine] = []
    at = counted = 0
    line = 1
    while True:
        at = _end_of_blank(text, at)
        line += text.count("\n", counted, at)
        counted = at
        if at == len(text):
            break
        if len(hosts) == MAX_HOSTS:
            bad.append(BadLine(line, f"only {MAX_HOSTS} hosts are read"))
            break
        if len(bad) == MAX_BAD_LINES:
            bad.append(BadLine(line, "too much is wrong, the rest was not read"))
            break
        host, end, reason = _read_term(text, at)
        if reason is None:
            hosts[host] = None
        else:
            bad.append(BadLine(line, reason))
        at = end
    return HostsFile(tuple(hosts), tuple(bad))


def _read_term(text: str, at: int) -> tuple[str, int, str | None]:
    """A host, where to go on, and what is wrong with it, if anything is."""
    atom = _ATOM.match(text, at)
    if atom is None:
        reason = "not a host name in single quotes"
        if text[at] == '"':
            reason = "a host stands in single quotes, not in double ones"
        return "", _next_line(text, at), reason
    quoted, bare = atom.groups()
    stop = _STOP.match(text, _end_of_blank(text, atom.end()))
    if stop is None:
        reason = f"no full stop follows {shorten(atom[0])}"
        if bare is not None and text.startswith(".", atom.end()):
            reason = "a host name with dots stands in single quotes"
        # The documents want one host a line: the next line is the next chance.
        return "", _next_line(text, at), reason
    if bare is not None and _RESERVED.fullmatch(bare):
        return "", stop.end(), f"{bare} is a word of the language and stands in single quotes"
    host = bare if quoted is None else _ESCAPE.sub(_unescaped, quoted)
    return host, stop.end(), _complaint(host)


def _end_of_blank(text: str, at: int) -> int:
    blank = _BLANK.match(text, at)
    return at if blank is None else blank.end()


def _next_line(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def _unescaped(escape: re.Match[str]) -> str:
    braced, digits, octal, control, letter = escape.groups()
    if letter is not None:
        return _LETTERS.get(letter, letter)
    if control is not None:
        return chr(ord(control) & 31)
    code = int(octal, 8) if octal is not None else int(braced or digits, 16)
    return chr(code) if code <= 0x10FFFF else "\ufffd"


def _complaint(host: str) -> str | None:
    try:
        NodeName(f"n@{host}")
    except ValueError:
        return f"{shorten(host)} is not a host name"
    return None
