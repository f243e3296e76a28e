"""What the rooms of one node share: who it is, whom it lets in, and where connections go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from barnacle_trio._names import NodeName
from barnacle_trio.distribution._challenges import ChallengeBook
from barnacle_trio.distribution._connection import Connection
from barnacle_trio.distribution._cookie import Cookies
from barnacle_trio.distribution._handshake import Done, Identity
from barnacle_trio.distribution._peers import Peers


class Adopt(Protocol):
    """Makes a connection of a finished handshake and enters it into the table, at once.

    ``rival`` says that the two nodes may have dialled each other at the same time. Returns None
    where an equal connection is there already and is the one that both sides keep.
    """

    def __call__(
        self, stream: trio.abc.Stream, done: Done, *, dialled: bool, rival: bool
    ) -> Connection | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """This node, as the rooms that shake hands know it.

    ``creation`` is known only once the node is registered, so ``identity`` is asked each time.
    """

    identity: Callable[[], Identity]
    peers: Peers
    challenges: ChallengeBook
    cookies: Cookies
    allowed: Callable[[NodeName], bool]
    adopt: Adopt
