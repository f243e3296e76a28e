"""What a node needs of a port mapper, and two ways to give it that."""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, Protocol

import trio

from barnacle_trio._errors import (
    ConfigurationError,
    NameTakenError,
    PeerUnreachable,
    RemoteProtocolError,
)
from barnacle_trio._logs import RateLimited
from barnacle_trio._names import NodeName
from barnacle_trio.epmd._client import (
    Registration,
    lookup,
    mapper_port,
    names,
    open_registration,
)
from barnacle_trio.epmd._embedding import Embedding, open_embedding

logger = logging.getLogger("barnacle_trio.epmd")

START_DEADLINE: Final = 5.0
"""Seconds in which a first registration must succeed where the port is taken but mute."""

TAKEN_PATIENCE: Final = 0.5
"""Seconds in which a taken name may become free: its last bearer may have gone a moment ago, as
where a node is started again at once, and a port mapper hears of that when it comes to it."""

_STABLE = 1.0  # seconds after which a lost registration is tried again without a pause
_FIRST_USEFUL_CREATION = 4  # smaller ones come from very old port mappers, which repeat them


class PortMapper(Protocol):
    """How a node is found by its peers, and finds them."""

    @property
    def fixed(self) -> int | None:
        """The port that every node listens on, where that is agreed; None where it is looked up."""
        ...

    async def serve_registration(
        self,
        name: NodeName,
        *,
        port: int,
        hidden: bool,
        addresses: Sequence[str],
        task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Keep a node registered for ever. If cancelled, its name is free at once.

        Args:
          name: of the node.
          port: where it accepts connections.
          hidden: whether it is a hidden node.
          addresses: the literal addresses that it accepts connections at.
          task_status: ``started`` gives the node's creation, 4 to 2^32-1. It stays the node's
            own, whatever later registrations are given.

        Raises:
          NameTakenError: another node bears the name. Only before ``started``.
          PeerUnreachable: no port mapper answers and none can be run. Only before ``started``.
          RemoteProtocolError: what answers is no port mapper. Only before ``started``.
        """
        ...

    async def lookup(self, name: NodeName) -> int:
        """The port that a peer listens on.

        Raises:
          PeerUnreachable: no port mapper answers at its host within 5 seconds, or it does not
            know the name.
          RemoteProtocolError: the answer is malformed, or names our own port for another node.
        """
        ...

    async def names(self, host: str) -> dict[str, int]:
        """The nodes registered at a host: a port for each base name.

        Raises:
          PeerUnreachable: no port mapper answers there within 5 seconds.
          RemoteProtocolError: the answer is malformed.
        """
        ...


class Epmd(PortMapper):
    """The port mapper on this host's loopback, whoever runs it, or one inside this process.

    Args:
      port: None is ``ERL_EPMD_PORT`` or 4369, here and at all peers.
      embed: run one where none answers. If False, somebody else must.

    Raises:
      ConfigurationError: the port is none.
    """

    def __init__(self, *, port: int | None = None, embed: bool = True) -> None:
        self._port = mapper_port(port)
        self._embed = embed
        # A name is in it twice for as long as it takes to refuse the second one.
        self._registered: list[tuple[NodeName, int]] = []

    def __repr__(self) -> str:
        return f"Epmd(port={self._port}, embed={self._embed})"

    @property
    def fixed(self) -> None:
        """None: ports are looked up."""
        return None

    async def serve_registration(
        self,
        name: NodeName,
        *,
        port: int,
        hidden: bool,
        addresses: Sequence[str],
        task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Keep a node registered with whoever serves the port, or serve it.

        When the port mapper in use ends, the name is registered again: at once, then every 0.1
        to 0.5 s, for ever. A first registration bears for half a second that the name is taken.
        See `PortMapper`.
        """
        started = False
        async with self._open_embedding(name, port, addresses) as embedding:
            self._registered.append((name, port))
            try:
                while True:
                    async with AsyncExitStack() as stack:
                        registration = await self._register(
                            stack, name, port, hidden, embedding, again=started
                        )
                        if started:
                            logger.info("%s is registered again", name)
                        else:
                            started = True
                            task_status.started(_creation(registration.creation))
                        since = trio.current_time()
                        await registration.wait_lost()
                    logger.info("the port mapper that knew %s is gone", name)
                    if trio.current_time() - since < _STABLE:
                        await trio.sleep(_pause())
            finally:
                self._registered.remove((name, port))

    async def lookup(self, name: NodeName) -> int:
        """The port that a peer listens on. See `PortMapper`."""
        entry = await lookup(name.basename, name.host, self._port)
        if entry is None:
            raise PeerUnreachable(f"{name} is not registered with the port mapper at its host")
        for own, port in self._registered:
            if port == entry.port and own.host == name.host and own != name:
                raise RemoteProtocolError(f"the port given for {name} is that of {own}, here")
        return entry.port

    async def names(self, host: str) -> dict[str, int]:
        """The nodes registered at a host. See `PortMapper`."""
        return await names(host, self._port)

    @asynccontextmanager
    async def _open_embedding(
        self, name: NodeName, port: int, addresses: Sequence[str]
    ) -> AsyncIterator[Embedding | None]:
        if not self._embed:
            yield None
            return
        node = (name.basename, port)
        async with open_embedding(self._port, node=node, addresses=addresses) as embedding:
            yield embedding

    async def _register(
        self,
        stack: AsyncExitStack,
        name: NodeName,
        port: int,
        hidden: bool,
        embedding: Embedding | None,
        *,
        again: bool,
    ) -> Registration:
        """Register, and try for ever if it is not for the first time."""
        complaints = RateLimited(logger, every=60.0)
        began = trio.current_time()
        attempts = 0
        while True:
            attempts += 1
            taken = False
            try:
                registration = await stack.enter_async_context(
                    open_registration(name.basename, port, port=self._port, hidden=hidden)
                )
            except (NameTakenError, RemoteProtocolError) as error:
                taken = isinstance(error, NameTakenError)
                if again:
                    complaints.warning("%s cannot be registered again yet: %s", name, error)
                elif not taken or trio.current_time() - began >= TAKEN_PATIENCE:
                    raise
            except PeerUnreachable as error:
                served = self._try_serve(embedding, error, again=again)
                if served and attempts == 1:
                    continue
                if not again and trio.current_time() - began >= START_DEADLINE:
                    raise
                if attempts > 1:
                    complaints.warning("%s cannot be registered yet: %s", name, error)
            else:
                if embedding is not None:
                    embedding.listen_for_neighbours()
                return registration
            # Whoever bound the port before us answers in a moment, and who frees a name does so in
            # one; later tries are spread out.
            soon = attempts == 1 or (taken and not again)
            await trio.sleep(_pause() / 10 if soon else _pause())

    def _try_serve(
        self, embedding: Embedding | None, error: PeerUnreachable, *, again: bool
    ) -> bool:
        """Whether this process serves the port now; the first registration fails if it cannot."""
        try:
            if embedding is not None:
                return embedding.try_serve()
        except OSError as fault:
            if not again:
                raise PeerUnreachable(f"{error}, and none can be run here: {fault}") from fault
            logger.debug("no port mapper can be run here: %s", fault)
        if embedding is None and not again:
            raise error
        return False


class FixedPort(PortMapper):
    """No port mapper at all: every node, here and at all peers, listens on one agreed port.

    A BEAM is told so by ``-start_epmd false -erl_epmd_port 9100``. Since nobody watches over the
    names, two nodes of one name are found out only by the peers that both of them dial.

    Raises:
      ConfigurationError: the port is none.
    """

    def __init__(self, port: int) -> None:
        self._port = mapper_port(port)

    def __repr__(self) -> str:
        return f"FixedPort({self._port})"

    @property
    def fixed(self) -> int:
        """The port that every node listens on."""
        return self._port

    async def serve_registration(
        self,
        name: NodeName,
        *,
        port: int,
        hidden: bool,
        addresses: Sequence[str],
        task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Draw a creation; there is nothing to keep.

        Raises:
          ConfigurationError: the node listens on another port.
        """
        if port != self._port:
            raise ConfigurationError(f"{name} listens on port {port}, all agreed on {self._port}")
        task_status.started(_creation(0))
        await trio.sleep_forever()

    async def lookup(self, name: NodeName) -> int:
        """The agreed port."""
        await trio.lowlevel.checkpoint()
        return self._port

    async def names(self, host: str) -> dict[str, int]:
        """There is nobody to ask.

        Raises:
          ConfigurationError: always.
        """
        await trio.lowlevel.checkpoint()
        raise ConfigurationError("with a fixed port there is no port mapper that knows names")


def _pause() -> float:
    """Seconds until the next try; those who lost the same port mapper should not come at once."""
    return random.uniform(0.1, 0.5)


def _creation(given: int) -> int:
    """The one that was given, or a random one where that cannot tell incarnations apart."""
    if given >= _FIRST_USEFUL_CREATION:
        return given
    return _FIRST_USEFUL_CREATION + secrets.randbelow(2**32 - _FIRST_USEFUL_CREATION)
