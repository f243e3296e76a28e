"""A group leader: takes what remote code prints, so that it never waits for an answer of ours.

Source: "The Erlang I/O Protocol" of OTP's "stdlib".
"""

from __future__ import annotations

import logging
import re
import reprlib
from collections.abc import Callable
from typing import Any

import trio

from barnacle_trio._names import NodeName, shorten
from barnacle_trio.distribution import _control as control
from barnacle_trio.distribution._processes import Processes
from barnacle_trio.etf import Atom, ImproperList, Pid

logger = logging.getLogger("barnacle_trio.io")

LINES_A_SECOND = 100
"""Lines that are logged within a second, from all peers together; others are counted."""
MAX_TEXT = 16 * 1024
"""Characters of one request that are looked at."""
MAX_LINE = 400
"""Characters of one line that are logged."""

OK = Atom("ok")
EOF = Atom("eof")
ERROR = Atom("error")
ENOTSUP = Atom("enotsup")
IO_REPLY = Atom("io_reply")
_OPTIONS = [(Atom("binary"), True), (Atom("encoding"), Atom("unicode"))]


class GroupLeader:
    """A pid of this node that answers as an output device does; its lines go to the log.

    Lines are logged by ``barnacle_trio.io`` at level INFO. Nothing can be read from it.

    Args:
      processes: the table of processes.
    """

    def __init__(self, processes: Processes) -> None:
        self.pid = processes.identifiers.make_pid()
        self._processes = processes
        self._ration = _Ration(LINES_A_SECOND, trio.current_time)
        processes.serve(self.pid, self._answer)

    def _answer(self, peer: NodeName, message: Any) -> None:
        match message:
            case (Atom("io_request"), Pid() as sender, reply_as, request) if (
                sender.node.name == peer
            ):
                reply, text = perform(request)
                self._log(peer, text)
                answer = (IO_REPLY, reply_as, reply)
                self._processes.emit(peer, control.Send(self.pid, sender, answer))

    def _log(self, peer: NodeName, text: str) -> None:
        for line in text.splitlines():
            if line.strip() and self._ration.take():
                if self._ration.kept_back:
                    logger.info("%d lines before this were not logged", self._ration.kept_back)
                    self._ration.kept_back = 0
                logger.info("[%s] %s", peer, shorten(line, MAX_LINE))


class _Ration:
    """So many in each second."""

    def __init__(self, amount: int, clock: Callable[[], float]) -> None:
        self._amount = amount
        self._clock = clock
        self._left = amount
        self._until = float("-inf")
        self.kept_back = 0

    def take(self) -> bool:
        now = self._clock()
        if now >= self._until:
            self._until = now + 1.0
            self._left = self._amount
        if self._left:
            self._left -= 1
            return True
        self.kept_back += 1
        return False


def perform(request: Any) -> tuple[Any, str]:
    """The reply to an I/O request, and the text that it prints."""
    match request:
        case (Atom("put_chars"), Atom("unicode" | "latin1" as encoding), chars):
            return OK, characters(chars, encoding)
        case (Atom("put_chars"), Atom("unicode" | "latin1"), Atom(), Atom() as function, [*args]):
            return OK, formatted(function, args)
        case (Atom("put_chars"), Atom(), Atom() as function, [*args]):  # of before Unicode
            return OK, formatted(function, args)
        case (Atom("put_chars"), chars):
            return OK, characters(chars, "latin1")
        case (Atom("get_line" | "get_chars" | "get_until" | "get_password"), *_):
            return EOF, ""
        case (Atom("requests"), [*requests]):
            return _perform_all(requests)
        case (Atom("setopts"), _):
            return OK, ""
        case Atom("getopts"):
            return _OPTIONS, ""
        case (Atom("get_geometry"), _):
            return (ERROR, ENOTSUP), ""
    return (ERROR, Atom("request")), ""


def _perform_all(requests: list[Any]) -> tuple[Any, str]:
    """Those up to the first that fails; the reply is the last one's."""
    reply: Any = OK
    texts: list[str] = []
    for each in requests:
        reply, text = perform(each)
        texts.append(text)
        if isinstance(reply, tuple) and reply[0] is ERROR:
            break
    return reply, "".join(texts)[:MAX_TEXT]


def characters(chars: Any, encoding: str = "unicode") -> str:
    """The text of Erlang's chardata: integers and binaries in lists in lists. Bad parts show."""
    codec = "latin-1" if encoding == "latin1" else "utf-8"
    parts: list[str] = []
    room = MAX_TEXT
    stack = [chars]
    while stack and room > 0:
        each = stack.pop()
        if isinstance(each, list):
            stack.extend(reversed(each))
            continue
        if isinstance(each, ImproperList):
            stack.append(each.tail)
            stack.extend(reversed(each.elements))
            continue
        if isinstance(each, bytes):
            parts.append(each[: 4 * room].decode(codec, "replace")[:room])
        elif _is_character(each):
            parts.append(chr(each))
        else:
            parts.append("\ufffd")
        room -= len(parts[-1])
    return "".join(parts)


# ~F.P.PadModC: width, precision, padding, modifiers and what to write ("io:fwrite/3").
_DIRECTIVE = re.compile(r"~(-?(?:\d+|\*))?(?:\.(\d+|\*)?(?:\..)?)?[tlkK]*(.)", re.DOTALL)
_terms = reprlib.Repr()
_terms.maxstring = _terms.maxother = MAX_LINE


def formatted(function: Atom, args: list[Any]) -> str:
    """About what ``io_lib`` would make of it: the node cannot run the code, but can show it."""
    match args:
        case [template, [*values]] if function.name in {"format", "fwrite"}:
            text = template.name if isinstance(template, Atom) else characters(template)
            return _filled(text, values)
    return " ".join(map(_shown, args))


def _filled(template: str, values: list[Any]) -> str:
    rest = iter(values)

    def fill(match: re.Match[str]) -> str:
        width, precision, what = match.groups()
        for size in (width, precision):
            if size and size.endswith("*"):
                next(rest, None)
        match what:
            case "n":
                return "\n"
            case "~":
                return "~"
            case "i":
                next(rest, None)
                return ""
        value: Any = next(rest, Atom("?"))
        if what == "s" and not isinstance(value, Atom):
            return characters(value)
        return chr(value) if what == "c" and _is_character(value) else _shown(value)

    return _DIRECTIVE.sub(fill, template)[:MAX_TEXT]


def _is_character(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 0x10FFFF and not 0xD800 <= value <= 0xDFFF


def _shown(term: Any) -> str:
    return term.name if isinstance(term, Atom) else _terms.repr(term)
