"""Where a BEAM node and ours judge a frame differently, and what a BEAM node dies of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from barnacle_trio.distribution._messages import Op, Unread
from barnacle_trio.etf import Atom, DecodeError, Pid, Reference
from barnacle_trio.etf._decode import decode_bare
from tests.frame_judges import THROWER, Place, Verdict

# -- what frames hold ----------------------------------------------------------------------------

_TOKENS = {12: 3, 13: 3, 16: 4, 18: 3, 23: 3, 25: 3, 27: 3, 30: 6, 32: 5, 34: 3}
_KNOWN = frozenset(Op) - {Op.NODE_LINK, Op.ALTACT_SIG_SEND}


def control_term(body: bytes) -> tuple[Any, ...]:
    """The control term of a frame; an empty tuple where there is none."""
    start = {b"\x83D": 3, b"\x83E": 19}.get(body[:2], 2)  # the plain form begins with any byte
    try:
        term, _ = decode_bare(body, start)
    except DecodeError:
        return ()
    if type(term) is not tuple or not term:
        return ()
    return term


def _identifiers(term: Any) -> Iterator[Pid | Reference]:
    if isinstance(term, Pid | Reference):
        yield term
    elif isinstance(term, tuple | list):
        for each in term:
            yield from _identifiers(each)


def _made_up(term: Any, place: Place) -> bool:
    """Whether it names a pid or reference that the BEAM node might have made, and has not."""
    return any(
        (each.node, each.creation) == (place.target.node, place.target.creation)
        and each not in (place.target, place.alias, place.monitor)
        for each in _identifiers(term)
    )


# -- what kills ----------------------------------------------------------------------------------

MANY_PIECES = 1 << 20


class Killers:
    """Knows what a BEAM node dies of (all that there are, unless it is said): for each connection.

    None of it is ever written by us: the numbers of our pieces are those that are due, there is no
    atom cache, no token, and nobody speaks for others.
    """

    def __init__(self) -> None:
        self._due: dict[int, int] = {}  # by sequence: the number of the next piece

    def why(self, bodies: Sequence[bytes], place: Place) -> str | None:
        """Why it would die of these frames, if it would."""
        for body in bodies:
            why = self._why_of_pieces(body, place) or _why(body, place)
            if why is not None:
                return why
        return None

    def _why_of_pieces(self, body: bytes, place: Place) -> str | None:
        sequence, number = int.from_bytes(body[2:10]), int.from_bytes(body[10:18])
        match body[:2]:
            case b"\x83E" if len(body) > 18:
                if number > MANY_PIECES:
                    return "room for as many pieces as a message announces"
                if not control_term(body) or _made_up(control_term(body), place):
                    return "the control term of a message in pieces cannot be read"
                self._due[sequence] = number - 1
            case b"\x83F" if len(body) < 18:  # it reads on, in whatever comes next
                return "a piece ends within its header"
            case b"\x83F" if sequence in self._due:
                if not 1 <= number <= self._due[sequence]:
                    return "a piece has a number beyond those that are due"
                self._due[sequence] = number - 1
        return None


def _why(body: bytes, place: Place) -> str | None:
    at = {b"\x83D": 2, b"\x83E": 18}.get(body[:2])
    if at is not None and body[at : at + 1] not in (b"", b"\0"):
        return "a header refers to an atom cache that was not agreed on"
    if b"M\0\0\0\0\0" in body:
        return "a BIT_BINARY of no bytes (OTP 28)"
    term = control_term(body)
    if not term or type(term[0]) is not int:
        return None
    token = _TOKENS.get(term[0])
    if token is not None and term[token:] and not _is_token(term[token]):
        return "a trace token that is none"
    if term[0] in (8, 18, 26, 27) and _is_of(term[1:2], place.target.node):
        return "an exit signal from a process of its own"
    if term[0] in (29, 30) and term[2:3] and not _is_of(term[2:3], place.one.node):
        return "a spawn request from a process that is not its sender's"
    if term[0] == 20 and term[3:4] in ((place.alias,), (place.monitor,)):
        return "the end of a monitor of its own, under a reference that lives"
    return None


def _is_token(term: Any) -> bool:
    match term:
        case (int(), int(), _, Pid(), int()):
            return True
    return False


def _is_of(fields: tuple[Any, ...], node: Atom) -> bool:
    return any(isinstance(each, Pid) and each.node == node for each in fields)


# -- what is judged differently ------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A case and what came of it."""

    place: Place
    term: tuple[Any, ...]
    ours: Verdict
    theirs: Verdict

    @property
    def op(self) -> Any:
        return self.term[0] if self.term else None

    @property
    def reason(self) -> str:
        return self.ours.closed or ""

    def is_of(self, *ops: int) -> bool:
        return type(self.op) is int and self.op in ops

    @property
    def is_foreign(self) -> bool:
        """Whether it speaks for or to a process that is at neither end of the connection."""
        ends = {(THROWER, self.place.one.creation)}
        ends.add((self.place.target.node.name, self.place.target.creation))
        pids = [each for each in _identifiers(self.term) if isinstance(each, Pid)]
        return any((pid.node.name, pid.creation) not in ends for pid in pids)

    @property
    def speaks_for_its_receiver(self) -> bool:
        """Whether it comes from a process of the node that it goes to, as it says."""
        sender = self.term[2:3] if self.is_of(35, 36) else self.term[1:2]
        return _is_of(sender, self.place.target.node)

    @property
    def is_for_its_sender(self) -> bool:
        """Whether it is for a process of the node that it comes from."""
        receiver = self.term[3:4] if self.is_of(35, 36) else self.term[2:3]
        return _is_of(receiver, self.place.one.node)

    @property
    def nothing_came_of_it(self) -> bool:
        """Whether nobody was given anything on either side. What is dead may say so."""
        return not (self.ours.got or self.theirs.got or self.ours.killed or self.theirs.killed)


_DOWN = Atom("DOWN")

Test = Callable[[Case], bool]

# A message is read where its receiver takes it, and by nobody where there is none; so is a reason.
_UNREAD = (
    "tag", "a term begins with", "the name of an atom", "an atom is due", "no number in the float",
    "the text of a float", "a fun", "what a fun", "a map that", "an integer", "a creation",
    "a reference", "the first word", "the arity", "atom ",
)  # fmt: skip


def _cannot_be_read(case: Case) -> bool:
    reason = case.reason
    return (
        reason.startswith(_UNREAD)
        or "bytes end inside" in reason
        or "bytes announced at byte" in reason
        or "bytes inside a binary" in reason
        or "bits in the last of" in reason
        or "came without its payload" in reason
    )


# We close the connection, it does not. No node sends any of these.
STRICTER: dict[str, Test] = {
    "nobody is there to read the payload, which is none": lambda case: (
        _cannot_be_read(case) and case.nothing_came_of_it
    ),
    "the plain form begins with another byte than 112: it never looks": lambda case: (
        re.match("a form of message .*: '..83", case.reason) is not None
    ),
    "the sender of a message is no pid: it never looks": lambda case: (
        case.is_of(22, 23, 33, 34) and "is not built" in case.reason
    ),
    "a link to what is no pid: it answers that this is dead": lambda case: (
        case.is_of(1) and "is not built" in case.reason and case.nothing_came_of_it
    ),
    "a number out of its range, in an answer that nobody waits for: it never looks": lambda case: (
        case.is_of(31, 32, 36) and "is not built" in case.reason and case.nothing_came_of_it
    ),
    "options of a spawn request are no list: it says badopt": lambda case: (
        case.is_of(29, 30) and "is not built" in case.reason and case.nothing_came_of_it
    ),
}

# It closes the connection, we do not. Nothing is delivered here but what is said so.
LAXER: dict[str, Test] = {
    "an op of the future: told in the log": lambda case: (
        case.nothing_came_of_it and not case.is_of(*_KNOWN)
    ),
    "an unlink of before OTP 25 where ids were agreed on": lambda case: (
        case.nothing_came_of_it and case.is_of(4)
    ),
    "for or from a process of neither end: ignored, or noproc": lambda case: (
        case.nothing_came_of_it and case.is_foreign
    ),
    "between two of the BEAM node's, or two of the other's: ignored, or noproc": lambda case: (
        case.nothing_came_of_it and (case.speaks_for_its_receiver or case.is_for_its_sender)
    ),
    "the answer to a spawn request that nobody made: ignored": lambda case: (
        case.nothing_came_of_it and case.is_of(31, 32)
    ),
    "a spawn request under a reference of the BEAM node's own: refused": lambda case: (
        case.nothing_came_of_it and case.is_of(29, 30)
    ),
    "a pid or reference of the BEAM node's that it cannot have made: a dead one": lambda case: (
        case.nothing_came_of_it and _made_up(case.term, case.place)
    ),
    "the same where it has no meaning, or in a message: delivered": lambda case: _made_up(
        (case.term, case.ours.got), case.place
    ),
    "a payload beyond the limits, of which the rest is not read: dropped": lambda case: (
        not case.theirs.got
        and bool(case.ours.got)
        and all(isinstance(each, Unread) for each in case.ours.got)
    ),
    "a monitor ends by its reference, whoever it is for: delivered": lambda case: (
        case.is_of(21, 28) and not case.theirs.got and case.ours.got[0][0] is _DOWN
    ),
}
# Neither closes the connection, but not the same comes of it.
DIFFERENT: dict[str, Test] = {
    "functions that are not exposed are not called": lambda case: (
        case.is_of(29, 30) and case.nothing_came_of_it
    ),
    "what ended is what was monitored, and not what the signal says": lambda case: (
        case.is_of(21, 28) and all(each[0] is _DOWN for each in case.ours.got + case.theirs.got)
    ),
    "the answer to a spawn request that nobody made: undone there": lambda case: (
        case.is_of(31, 32) and case.nothing_came_of_it and not case.ours.said
    ),
    "a reference of the BEAM node's that it cannot have made comes back shorter": lambda case: (
        len(case.ours.got) == len(case.theirs.got)
        and _made_up((case.term, case.ours.got), case.place)
    ),
}


def judged(case: Case, alike: bool) -> str | None:
    """In which class a case is; None: one that has no explanation yet."""
    ours, theirs = case.ours.closed is not None, case.theirs.closed is not None
    if ours and theirs:
        return "both close"
    if not ours and not theirs and alike:
        return "both accept"
    name, table = (
        ("stricter", STRICTER) if ours else ("laxer", LAXER) if theirs else ("different", DIFFERENT)
    )
    for why, test in table.items():
        if test(case):
            return f"{name}: {why}"
    return None
