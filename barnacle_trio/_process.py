"""A barnacle as a process of the node, for ``GenServer.call`` from elsewhere in the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from barnacle_trio._errors import BarnacleError
from barnacle_trio._events import RefreshResult, Status
from barnacle_trio.etf import Atom

if TYPE_CHECKING:
    from barnacle_trio._barnacle import Barnacle

ANSWER_WITHIN = 4.0
"""Seconds; ``GenServer.call`` waits 5 by default."""
MAX_CALLS = 100
"""Calls answered at once, so that who asks for the status does not wait for somebody's refresh."""


class BarnacleProcess:
    """Answers the calls ``refresh``, ``pause``, ``resume``, ``nodes`` and ``status``.

    The answers are ``ok`` or ``{ok, What}``, else ``{error, Reason}``: an atom, or a text.
    """

    def __init__(self, barnacle: Barnacle) -> None:
        self._barnacle = barnacle

    async def call(self, request: object, _sender: object = None) -> object:
        """Answer a request, within 4 s: ``{error, pending}`` if it goes on beyond that."""
        await trio.lowlevel.checkpoint()
        try:
            with trio.move_on_after(ANSWER_WITHIN):
                return await self._answer(request)
        except trio.ClosedResourceError:
            return Atom("error"), Atom("closed")
        except BarnacleError as error:
            return Atom("error"), str(error)
        return Atom("error"), Atom("pending")

    async def cast(self, message: object) -> None:
        """Ignore a message: nothing is cast to a barnacle."""

    async def info(self, message: object) -> None:
        """Ignore a message: whatever somebody sent to the registered name."""

    async def _answer(self, request: object) -> object:
        barnacle = self._barnacle
        if request == Atom("refresh"):
            return Atom("ok"), _result(await barnacle.refresh())
        await trio.lowlevel.checkpoint()
        if request == Atom("pause"):
            await barnacle.pause()
            return Atom("ok")
        if request == Atom("resume"):
            await barnacle.resume()
            return Atom("ok")
        if request == Atom("nodes"):
            return Atom("ok"), _names(barnacle.nodes.value)
        if request == Atom("status"):
            return Atom("ok"), _status(barnacle.status())
        return Atom("error"), Atom("unknown_request")


def _names(names: frozenset[str]) -> list[Atom]:
    return [Atom(name) for name in sorted(names)]


def _result(result: RefreshResult) -> dict[object, object]:
    return {
        Atom("nodes"): _names(frozenset(result.nodes)),
        Atom("connected"): _names(frozenset(result.connected)),
        Atom("disconnected"): _names(frozenset(result.disconnected)),
        Atom("failed"): {name: str(error) for name, error in result.failed.items()},
        Atom("discovery_error"): _text(result.discovery_error),
    }


def _status(status: Status) -> dict[object, object]:
    return {
        Atom("state"): Atom(status.state),
        Atom("nodes"): _names(frozenset(status.nodes)),
        Atom("peers"): {Atom(name): Atom(peer.state) for name, peer in status.peers.items()},
        Atom("last_error"): _text(status.last_error),
        Atom("refreshes"): status.refreshes,
        Atom("restarts"): status.restarts,
        Atom("missed"): status.missed,
    }


def _text(error: Exception | None) -> str | None:
    return None if error is None else str(error) or type(error).__name__
