"""What a node says it can do: the capability flags of the handshake.

Source: OTP's "Distribution Protocol", section "Distribution Flags", except for
`Flag.MANDATORY_25_DIGEST`: the document gives bit 36, every runtime uses bit 26.
"""

from __future__ import annotations

from enum import IntFlag
from functools import reduce
from operator import or_


class Flag(IntFlag):
    """The capabilities by OTP's own names, without their ``DFLAG_``."""

    PUBLISHED = 1 << 0
    ATOM_CACHE = 1 << 1
    EXTENDED_REFERENCES = 1 << 2
    DIST_MONITOR = 1 << 3
    FUN_TAGS = 1 << 4
    DIST_MONITOR_NAME = 1 << 5
    HIDDEN_ATOM_CACHE = 1 << 6
    NEW_FUN_TAGS = 1 << 7
    EXTENDED_PIDS_PORTS = 1 << 8
    EXPORT_PTR_TAG = 1 << 9
    BIT_BINARIES = 1 << 10
    NEW_FLOATS = 1 << 11
    UNICODE_IO = 1 << 12
    DIST_HDR_ATOM_CACHE = 1 << 13
    SMALL_ATOM_TAGS = 1 << 14
    UTF8_ATOMS = 1 << 16
    MAP_TAG = 1 << 17
    BIG_CREATION = 1 << 18
    SEND_SENDER = 1 << 19
    BIG_SEQTRACE_LABELS = 1 << 20
    EXIT_PAYLOAD = 1 << 22
    FRAGMENTS = 1 << 23
    HANDSHAKE_23 = 1 << 24
    UNLINK_ID = 1 << 25
    MANDATORY_25_DIGEST = 1 << 26
    SPAWN = 1 << 32
    NAME_ME = 1 << 33
    V4_NC = 1 << 34
    ALIAS = 1 << 35
    LOCAL_EXT = 1 << 36
    ALTACT_SIG = 1 << 37
    NATIVE_RECORDS = 1 << 38  # of OTP 29, which sends them to whoever does not offer it, too


MANDATORY = (
    Flag.EXTENDED_REFERENCES
    | Flag.FUN_TAGS
    | Flag.NEW_FUN_TAGS
    | Flag.EXTENDED_PIDS_PORTS
    | Flag.EXPORT_PTR_TAG
    | Flag.BIT_BINARIES
    | Flag.NEW_FLOATS
    | Flag.UTF8_ATOMS
    | Flag.MAP_TAG
    | Flag.BIG_CREATION
    | Flag.HANDSHAKE_23
)
"""What we demand of a peer, as OTP 25 does. Bit 26 alone stands for all of them."""

OUR_FLAGS = (
    MANDATORY
    | Flag.DIST_MONITOR
    | Flag.DIST_MONITOR_NAME
    | Flag.UNICODE_IO
    | Flag.SMALL_ATOM_TAGS
    | Flag.SEND_SENDER
    | Flag.BIG_SEQTRACE_LABELS
    | Flag.EXIT_PAYLOAD
    | Flag.FRAGMENTS
    | Flag.UNLINK_ID
    | Flag.MANDATORY_25_DIGEST
    | Flag.SPAWN
    | Flag.V4_NC
    | Flag.ALIAS
)
"""What we offer; a visible node adds `Flag.PUBLISHED`.

Not the atom cache: what it saves on the wire costs more here than it gives, as atoms are known by
their bytes anyway.
"""

PLAIN = OUR_FLAGS & ~Flag.FRAGMENTS
"""The same towards a peer that takes no fragments, and so no distribution headers either."""

_KNOWN = int(reduce(or_, Flag))


def known(flags: int) -> Flag:
    """The flags of a peer's 64-bit word that have a meaning here; the others are dropped."""
    return Flag(flags & _KNOWN)


def missing_flags(theirs: int) -> list[str]:
    """The names of the mandatory flags that a peer's word lacks; empty if it may connect."""
    if theirs & Flag.MANDATORY_25_DIGEST:
        return []
    return [flag.name or hex(flag) for flag in MANDATORY & ~theirs]
