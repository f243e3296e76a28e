"""The envelope of gen_server's calls and casts, which all of OTP's behaviours share.

Sans-IO. Source: the "gen" module of OTP, and what its two ends were seen to say.
"""

from __future__ import annotations

from typing import Any

from barnacle_trio.distribution._messages import AliasSend, Send
from barnacle_trio.etf import Atom, ImproperList, Pid, Reference

ALIAS = Atom("alias")
GEN_CALL = Atom("$gen_call")
GEN_CAST = Atom("$gen_cast")


def reply_to(sender: Pid, caller: Pid, tag: Any, reply: Any) -> Send | AliasSend:
    """The answer to ``{'$gen_call', {caller, tag}, Request}``; the tag is given back unchanged.

    It goes to the alias that stands in the tag, else to the caller. Tags are ``[alias|Ref]``, in a
    request collection ``[[alias|Ref]|Label]``, and a plain ``Ref`` or ``{Ref, Node}`` of old.
    """
    answer = (tag, reply)
    alias = tag
    if isinstance(alias, ImproperList) and isinstance(alias.elements[0], ImproperList):
        alias = alias.elements[0]
    if isinstance(alias, ImproperList) and isinstance(alias.tail, Reference):
        return AliasSend(sender, alias.tail, answer, owner=caller)
    return Send(sender, caller, answer)
