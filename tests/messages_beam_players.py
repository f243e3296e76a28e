"""What our side of a connection holds, seen from here and from a puppet."""

from __future__ import annotations

from barnacle_trio.distribution._mailbox import Mailbox
from barnacle_trio.etf import Atom, Pid
from tests.puppets import Puppet, Stage

NORMAL, NOPROC, NOCONNECTION = Atom("normal"), Atom("noproc"), Atom("noconnection")
PROCESS, DOWN, EXIT = Atom("process"), Atom("DOWN"), Atom("EXIT")


def links(stage: Stage, box: Mailbox) -> set[Pid]:
    """The processes that a mailbox of ours takes itself to be linked to."""
    process = stage.node._processes._table.by_pid[box.pid]
    return {pid for pid, link in process.links.items() if link.active}


async def links_there(puppet: Puppet) -> set[Pid]:
    """The processes that a puppet takes itself to be linked to."""
    return set(await puppet.run("element(2, process_info(self(), links))"))
