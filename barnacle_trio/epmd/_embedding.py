"""A port mapper inside the programs that need one: who serves the port, and who goes on with it.

Every node that registers through `Epmd` opens an `Embedding`. Where nobody serves the port, one
of them binds it. One that leaves hands over to a neighbour (another node in the same process),
else, where foreign names stand, to a detached process. One that is killed hands over nothing: then
whoever of the others binds the port first serves it.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio

from barnacle_trio._errors import NodeCrashed
from barnacle_trio._names import shorten
from barnacle_trio._scopes import open_background
from barnacle_trio.epmd._detached import hand_to_detached
from barnacle_trio.epmd._estate import Estate
from barnacle_trio.epmd._listening import EVERYWHERE
from barnacle_trio.epmd._server import EpmdServer
from barnacle_trio.epmd._wire import PortEntry

logger = logging.getLogger("barnacle_trio.epmd")

LEAVE_DEADLINE: Final = 2.0
"""Seconds that leaving may take, even when everything is being cancelled."""

_neighbourhoods: trio.lowlevel.RunVar[dict[int, list[Embedding]]] = trio.lowlevel.RunVar(
    "barnacle_trio.epmd"
)


class Embedding:
    """One node's part in serving the port. Made by `open_embedding`."""

    def __init__(
        self,
        nursery: trio.Nursery,
        neighbours: list[Embedding],
        *,
        port: int,
        node: tuple[str, int],
        addresses: Sequence[str],
    ) -> None:
        self._nursery = nursery
        self._neighbours = neighbours  # all of this port in this run of Trio, this one included
        self._port = port
        self._node = node
        self._addresses = addresses
        self._server: EpmdServer | None = None
        # The server outlives the cancellation of its node until it is handed over, which `leave`
        # does within its deadline.
        self._serving = trio.CancelScope()
        self._bequest: Estate | None = None

    def try_serve(self) -> bool:
        """Serve the port, if nobody does; whether this node serves it now.

        Raises:
          OSError: it cannot be listened at, though not because somebody does.
        """
        if self._server is None:
            try:
                server = EpmdServer(self._port, on_registered=self._registered)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return False
                raise
            logger.info("no port mapper answers on port %d: this process serves it", self._port)
            self._start(server)
        return True

    def listen_for_neighbours(self) -> None:
        """Have whoever of this process serves the port be asked where its nodes can be reached."""
        for neighbour in self._neighbours:
            if neighbour._server is not None:
                neighbour._listen([each for one in self._neighbours for each in one._addresses])

    def inherit(self, estate: Estate) -> None:
        """Go on with what a neighbour leaves."""
        self._bequest = estate
        self._nursery.start_soon(self._accept_bequest)

    @trio.lowlevel.enable_ki_protection
    async def _accept_bequest(self) -> None:
        if self._bequest is not None:  # else it was passed on in the same moment
            estate, self._bequest = self._bequest, None
            self._start(EpmdServer(self._port, estate=estate, on_registered=self._registered))
        await trio.lowlevel.checkpoint()

    def _start(self, server: EpmdServer) -> None:
        self._server = server
        self._serving = trio.CancelScope(shield=True)
        self._nursery.start_soon(self._serve, server, self._serving)
        self.listen_for_neighbours()

    @trio.lowlevel.enable_ki_protection
    async def _serve(self, server: EpmdServer, scope: trio.CancelScope) -> None:
        with scope:
            await server.run()

    def _registered(self, entry: PortEntry) -> None:
        if (entry.name, entry.port) not in {each._node for each in self._neighbours}:
            # A node of another program, which may be reachable at any address of this host.
            self._listen(public_addresses())

    def _listen(self, addresses: Sequence[str]) -> None:
        assert self._server is not None  # noqa: S101  # for the type checker
        for address in addresses:
            try:
                self._server.listen(address)
            except (OSError, ValueError) as error:
                logger.warning(
                    "the port mapper cannot be asked at %s, port %d: %s",
                    shorten(address),
                    self._port,
                    error,
                )

    def stop(self) -> None:
        """Stop serving at once, with nothing handed over that is not handed over already."""
        self._serving.cancel("the node leaves")

    async def leave(self) -> None:
        """Hand over and stop serving; whoever else holds a name keeps it, if anybody can go on.

        Raises:
          OSError: nobody can. The others know at once, and register anew with who serves next.
        """
        await trio.lowlevel.checkpoint()
        estate, self._bequest = self._bequest, None
        if self._server is not None:
            estate = await self._server.hand_over()
            self.stop()
        if estate is None:
            return
        # Asked for now, and not before: what was awaited may have seen neighbours leave.
        heir = next(iter(self._neighbours), None)
        if heir is not None:
            heir.inherit(estate)
        elif estate.names:
            logger.info("handing the port mapper on port %d over to a new process", self._port)
            await hand_to_detached(estate)
        else:
            estate.close()


@asynccontextmanager
async def open_embedding(
    port: int, *, node: tuple[str, int], addresses: Sequence[str]
) -> AsyncIterator[Embedding]:
    """Have a part in serving the port for as long as the block lasts.

    Args:
      port: the port mapper's.
      node: base name and port of the node that this is done for.
      addresses: literal ones at which that node can be reached.

    Leaving takes up to two seconds when the port mapper is to be handed over, also if cancelled.
    """
    try:
        neighbourhood = _neighbourhoods.get()
    except LookupError:
        neighbourhood = {}
        _neighbourhoods.set(neighbourhood)
    neighbours = neighbourhood.setdefault(port, [])
    async with open_background("the port mapper", NodeCrashed) as nursery:
        embedding = Embedding(nursery, neighbours, port=port, node=node, addresses=addresses)
        neighbours.append(embedding)
        try:
            yield embedding
        finally:
            neighbours.remove(embedding)
            try:
                with trio.move_on_after(LEAVE_DEADLINE, shield=True) as leaving:
                    try:
                        await embedding.leave()
                    except OSError as error:
                        logger.warning("the port mapper could not be handed over: %s", error)
                if leaving.cancelled_caught:
                    logger.warning("the port mapper could not be handed over in time")
            finally:
                embedding.stop()


def public_addresses() -> Sequence[str]:
    """Where a port mapper answers look-ups: everywhere, or as ``ERL_EPMD_ADDRESS`` says."""
    chosen = os.environ.get("ERL_EPMD_ADDRESS", "").split(",")
    return [each.strip() for each in chosen if each.strip()] or EVERYWHERE
