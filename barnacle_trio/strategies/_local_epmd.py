"""Nodes by what the port mapper of this host lists."""

from __future__ import annotations

from collections.abc import Iterable

from barnacle_trio._errors import DiscoveryError, PeerUnreachable, RemoteProtocolError
from barnacle_trio._names import Match, NodeName
from barnacle_trio._strategy import Strategy
from barnacle_trio.epmd import names
from barnacle_trio.strategies._parts import checked_match, choose, kept


def local_epmd(*, match: Match | Iterable[Match] | None = None) -> Strategy:
    """Discover the names registered with the port mapper on this node's host, save one's own.

    The port mapper knows base names only, so each gets the local node's host part:
    ``other@127.0.0.1`` beside ``my_app@127.0.0.1``. It lists whatever runs on the host, other
    programs and remote shells too: choose by ``match``.

    It is asked on loopback (of either family), where every port mapper listens, whatever address
    the node's own name holds, and on the usual port (``ERL_EPMD_PORT``, 4369). No port mapper
    there is a failed answer.

    Args:
      match: a glob (``"worker*"``), a predicate, or several of these; None is every name.

    Raises:
      ConfigurationError: not a match.
    """
    return _LocalEpmd(match)


class _LocalEpmd:
    def __init__(self, match: Match | Iterable[Match] | None) -> None:
        self._match = kept(match)
        self._wanted = checked_match(self._match)

    def __repr__(self) -> str:
        return "local_epmd()" if self._match is None else f"local_epmd(match={self._match!r})"

    async def __call__(self, local: NodeName) -> list[str]:
        try:
            registered = await names("localhost")
        except (PeerUnreachable, RemoteProtocolError) as error:
            raise DiscoveryError(str(error)) from error
        others = [f"{basename}@{local.host}" for basename in registered]
        return choose([name for name in others if name != local], self._wanted)
