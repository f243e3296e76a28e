"""A network inside TLS, over any other."""

from __future__ import annotations

from collections.abc import Hashable

import trio

from barnacle_trio._errors import BarnacleError, HandshakeRefused, PeerUnreachable
from barnacle_trio._names import NodeName
from barnacle_trio.distribution._network import Accept, Network
from barnacle_trio.distribution._tls_files import Keyring
from barnacle_trio.distribution._tls_stream import TlsStream


class TlsNetwork:
    """Puts every stream of another network into TLS.

    Args:
      below: the other one.
      keyring: certificates, open.
      patience: seconds for the TLS handshake with who is dialled. Less than a dial as a whole has,
        so that there is time to say why: a BEAM node without TLS takes the greeting for the
        beginning of a long message, and waits 7 s for the rest.
    """

    def __init__(self, below: Network, keyring: Keyring, *, patience: float) -> None:
        self._below = below
        self._keyring = keyring
        self._patience = patience

    async def serve(self, accept: Accept, *, task_status: trio.TaskStatus[int]) -> None:  # noqa: ASYNC128 - passed on
        """See `Network.serve`. The TLS handshake is made by who is given the stream."""

        async def accept_inside(stream: trio.abc.Stream) -> None:
            try:
                contexts = await self._keyring.contexts()
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
            await accept(TlsStream(stream, contexts.accept, self._keyring.options))

        await self._below.serve(accept_inside, task_status=task_status)

    async def withdraw(self) -> None:
        """See `Network.withdraw`."""
        await self._below.withdraw()

    async def dial(self, name: NodeName) -> tuple[trio.abc.Stream, Hashable]:
        """See `Network.dial`.

        Raises:
          HandshakeRefused: one of the two does not believe the other's certificate.
          RemoteProtocolError: what answers speaks no TLS.
        """
        stream, location = await self._below.dial(name)
        try:
            return await self._secure(stream, name, location)
        except BarnacleError:
            found = await self._below.locate(name)  # noqa: ASYNC120 - a cancellation goes first
            if found in (None, location):
                raise
        # The port was remembered, and is another node's today.
        self._below.forget(name)
        stream, location = await self._below.dial(name)
        return await self._secure(stream, name, location)

    async def _secure(
        self, stream: trio.abc.Stream, name: NodeName, location: Hashable
    ) -> tuple[TlsStream, Hashable]:
        place: Hashable = None
        try:
            contexts = await self._keyring.contexts()
            place = self._place(location)
            secured = TlsStream(stream, contexts.dial, self._keyring.options, dialled=name)
            with trio.move_on_after(self._patience):
                await secured.do_handshake()
                return secured, place
            raise PeerUnreachable(
                f"{name} does not answer a TLS greeting, as a node without TLS does not"
            )
        except HandshakeRefused as error:
            error.location = place
            await trio.aclose_forcefully(stream)
            raise
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise

    def forget(self, name: NodeName) -> None:
        """See `Network.forget`."""
        self._below.forget(name)

    async def locate(self, name: NodeName) -> Hashable:
        """See `Network.locate`. It changes with this node's certificates, too: dial anew then."""
        location = await self._below.locate(name)
        await self._keyring.contexts()
        return None if location is None else self._place(location)

    def _place(self, location: Hashable) -> Hashable:
        return location, self._keyring.generation

    def acknowledged(self, stream: trio.abc.Stream) -> int | None:
        """See `Network.acknowledged`: of what goes over the stream below."""
        return self._below.acknowledged(_below(stream))

    def unheard(self, stream: trio.abc.Stream) -> float | None:
        """See `Network.unheard`."""
        return self._below.unheard(_below(stream))


def _below(stream: trio.abc.Stream) -> trio.abc.Stream:
    return stream.transport_stream if isinstance(stream, TlsStream) else stream
