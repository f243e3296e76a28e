"""``barnacle ping``: is that node there, and does it live?"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Sequence

import trio

from barnacle_trio import (
    ConnectError,
    NodeName,
    PeerUnreachable,
    RemoteProtocolError,
    TlsOptions,
    open_node,
)
from barnacle_trio.cli._edge import OK, Failed
from barnacle_trio.cli._output import write_line
from barnacle_trio.distribution._addresses import is_literal, is_loopback
from barnacle_trio.epmd import PortMapper, lookup, names


async def ping(
    peer: NodeName,
    *,
    cookie: str | bytes | None,
    tls: TlsOptions | None,
    fixed_port: int | None,
    patience: float,
) -> int:
    """Connect a peer as a hidden node of a random name, ask for a sign of life, and leave.

    Raises:
      Failed: there is no answer; it says why.
      ConfigurationError: the cookie is none, or a certificate cannot be used.
    """
    name = NodeName(f"barnacle_{secrets.token_hex(6)}@{await own_host(peer.host)}")
    try:
        connected, answered = await time_signs_of_life(
            peer, name=name, cookie=cookie, tls=tls, fixed_port=fixed_port, patience=patience
        )
    except Failed as failure:
        raise Failed(f"pang from {peer}: {failure}") from failure
    await write_line(
        f"pong from {peer}: connected in {1000 * connected:.1f} ms, "
        f"answered in {1000 * answered:.1f} ms"
    )
    return OK


async def time_signs_of_life(
    peer: NodeName,
    *,
    name: NodeName,
    cookie: str | bytes | None,
    tls: TlsOptions | None,
    fixed_port: int | None,
    patience: float,
) -> tuple[float, float]:
    """Seconds that a peer took to be connected, and to answer.

    Nobody is asked to register ``name`` and no port mapper is run, so nothing is left behind.

    Raises: as `ping` does.
    """
    async with open_node(
        name,
        cookie=cookie,
        hidden=True,
        # Nobody dials us: loopback will do wherever the peer is.
        listen=("localhost", 0),
        epmd=_CallerOnly(fixed_port),
        tls=tls,
        connect_timeout=patience,
        allow=[peer],
    ) as node:
        began = trio.current_time()
        try:
            await node.connect(peer)
            connected = trio.current_time()
            answered = await node.ping(peer)
        except (ConnectError, RemoteProtocolError) as error:
            raise Failed(str(error)) from error
        if not answered:
            raise Failed("it let us in, but does not answer")
        return connected - began, trio.current_time() - connected


class _CallerOnly(PortMapper):
    """Finds peers, and is found by nobody."""

    def __init__(self, agreed: int | None) -> None:
        self._agreed = agreed

    @property
    def fixed(self) -> None:
        """None: the port we listen on is nobody's business."""
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
        """Draw a creation, and register nothing."""
        task_status.started(4 + secrets.randbelow(2**32 - 4))
        await trio.sleep_forever()

    async def lookup(self, name: NodeName) -> int:
        """The agreed port, or what the port mapper at the peer's host says."""
        if self._agreed is not None:
            await trio.lowlevel.checkpoint()
            return self._agreed
        entry = await lookup(name.basename, name.host)
        if entry is None:
            raise PeerUnreachable(f"{name} is not registered with the port mapper at its host")
        return entry.port

    async def names(self, host: str) -> dict[str, int]:
        """As the port mapper there says."""
        return await names(host)


async def own_host(host: str) -> str:
    """What a node here is called after the ``@``, to suit a peer whose host part is ``host``.

    A literal loopback address for one, ``localhost`` or a short name for a short name (a BEAM with
    short names takes no other), else the address from which the peer is reached.
    """
    await trio.lowlevel.checkpoint()
    if host == "localhost":
        return host
    if "." not in host and ":" not in host:
        return socket.gethostname().partition(".")[0] or "localhost"
    if is_literal(host) and is_loopback(host):
        return "::1" if ":" in host else "127.0.0.1"
    try:
        found = await trio.socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)
    except OSError:
        return "127.0.0.1"  # the dial will tell what is wrong with the name
    for family, kind, protocol, _, address in found:
        with trio.socket.socket(family, kind, protocol) as sock:
            try:
                await sock.connect(address)  # of a datagram socket: nothing is sent
                return str(sock.getsockname()[0])
            except OSError:
                continue
    return "127.0.0.1"
