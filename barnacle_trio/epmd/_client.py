"""Asking a port mapper, and holding a registration with one."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import trio

from barnacle_trio._errors import (
    ConfigurationError,
    NameTakenError,
    PeerUnreachable,
    RemoteProtocolError,
)
from barnacle_trio._names import MAX_NAME_BYTES, shorten
from barnacle_trio.epmd._wire import (
    HIDDEN_NODE,
    MAX_NAMES_ANSWER,
    MAX_PORT_ANSWER,
    NORMAL_NODE,
    AliveRequest,
    NamesAnswer,
    NamesRequest,
    PortEntry,
    PortRequest,
    Request,
    encode_request,
    parse_alive_answer,
    parse_names_answer,
    parse_port_answer,
)

logger = logging.getLogger("barnacle_trio.epmd")

DEFAULT_PORT: Final = 4369

QUERY_DEADLINE: Final = 5.0
"""Seconds for one whole query: resolving the host, connecting, asking and being answered."""

# A port mapper that serves one family only is reached by the other of these.
_LOOPBACK = ("127.0.0.1", "::1")


def mapper_port(port: int | None = None) -> int:
    """The port mapper's port: the one given, else ``ERL_EPMD_PORT``, else 4369.

    Raises:
      ConfigurationError: it is no TCP port.
    """
    source, text = "port", str(port)
    if port is None:
        source, text = "ERL_EPMD_PORT", os.environ.get("ERL_EPMD_PORT", str(DEFAULT_PORT))
    if not (text.isascii() and text.isdigit() and 0 < int(text[:9]) <= 0xFFFF):
        raise ConfigurationError(f"{source} must be a TCP port, 1 to 65535, not {shorten(text)}")
    return int(text)


async def names(host: str = "127.0.0.1", port: int | None = None) -> dict[str, int]:
    """The nodes that are registered with the port mapper at ``host``, and the ports they listen on.

    Args:
      host: a host name, or a literal IPv4 or IPv6 address (without brackets).
      port: the port mapper's; None is ``ERL_EPMD_PORT`` or 4369.

    Returns: a port for the base name of each node (the part before the ``@``). Entries that no
    node can have are left out, and told in the log by their number.

    Raises:
      PeerUnreachable: no port mapper answered there within 5 seconds.
      RemoteProtocolError: something else did, or the list was longer than 1 MiB.
      ConfigurationError: the port is none.

    If cancelled, the connection is closed.
    """
    answer = await ask_names(host, port)
    if answer.skipped:
        logger.warning(
            "the port mapper at %s lists %d names that were left out", shorten(host), answer.skipped
        )
    return answer.names


async def ask_names(host: str, port: int | None = None) -> NamesAnswer:
    """As `names`, with the number of entries that were left out."""
    port = mapper_port(port)
    data = await _query(host, port, NamesRequest(), limit=MAX_NAMES_ANSWER)
    return parse_names_answer(data)


async def lookup(basename: str, host: str, port: int | None = None) -> PortEntry | None:
    """Where the node ``basename@host`` listens; None where it is not registered.

    Args:
      basename: the part of the node's name before the ``@``, which is all a port mapper knows.
      host: a host name, or a literal IPv4 or IPv6 address (without brackets).
      port: the port mapper's; None is ``ERL_EPMD_PORT`` or 4369.

    Raises:
      PeerUnreachable: no port mapper answered there within 5 seconds.
      RemoteProtocolError: something else did, or the answer is malformed.
      ConfigurationError: the name or the port is none.

    If cancelled, the connection is closed.
    """
    _check_basename(basename)
    port = mapper_port(port)
    data = await _query(host, port, PortRequest(basename), limit=MAX_PORT_ANSWER)
    return parse_port_answer(data, name=basename)


class Registration:
    """A name that is registered for as long as this stands. Made by `open_registration`.

    ``creation`` is what the port mapper handed out to tell this incarnation of the node from
    others; 0 to 3 come from very old ones and hardly do that.
    """

    def __init__(self, stream: trio.SocketStream, creation: int) -> None:
        self.creation = creation
        self._stream = stream

    async def wait_lost(self) -> None:
        """Return once the port mapper has dropped the registration, or has died.

        One that is frozen, or a host that vanished, does not show. If cancelled, the registration
        stands.
        """
        try:
            await self._stream.receive_some(1)  # it owes us nothing but the end of the stream
        except trio.BrokenResourceError:
            await trio.lowlevel.checkpoint()


@asynccontextmanager
async def open_registration(
    basename: str,
    listen_port: int,
    *,
    host: str = "localhost",
    port: int | None = None,
    hidden: bool = False,
    extra: bytes = b"",
) -> AsyncIterator[Registration]:
    """Register a node with a running port mapper. Leaving the block frees the name at once.

    Nothing is healed here: see `Epmd` for a registration that outlives its port mapper.

    Args:
      basename: the part of the node's name before the ``@``.
      listen_port: where the node accepts connections.
      host: where the port mapper runs; all of them take registrations from their own host only.
      port: the port mapper's; None is ``ERL_EPMD_PORT`` or 4369.
      hidden: told to the port mapper; no runtime acts on it.
      extra: bytes that look-ups of this name are given.

    Raises:
      NameTakenError: a node of this name is registered (or the name was refused otherwise).
      PeerUnreachable: no port mapper answered there within 5 seconds.
      RemoteProtocolError: something else did.
      ConfigurationError: the name or one of the ports is none.
    """
    _check_basename(basename)
    if not 0 < listen_port <= 0xFFFF:
        raise ConfigurationError(f"a node cannot listen on port {listen_port}")
    port = mapper_port(port)
    entry = PortEntry(
        name=basename,
        port=listen_port,
        node_type=HIDDEN_NODE if hidden else NORMAL_NODE,
        extra=extra,
    )
    with _translated(host, port):
        stream = await _connect(host, port)
        try:
            await stream.send_all(encode_request(AliveRequest(entry)))
            answer, data = None, b""
            while answer is None:
                more = await stream.receive_some(64)
                if not more:
                    raise PeerUnreachable(
                        f"the port mapper at {_place(host, port)} closed without an answer to the "
                        f"registration of {shorten(basename)}"
                    )
                data += more
                answer = parse_alive_answer(data)
            if answer.result != 0:
                raise NameTakenError(
                    f"{shorten(basename)} is taken: the port mapper at {_place(host, port)} "
                    f"refused it"
                )
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
    try:
        yield Registration(stream, answer.creation)
    finally:
        await trio.aclose_forcefully(stream)


async def _query(host: str, port: int, request: Request, *, limit: int) -> bytes:
    """Ask, and read up to the end of the stream or one byte beyond ``limit``."""
    with _translated(host, port):
        stream = await _connect(host, port)
        try:
            await stream.send_all(encode_request(request))
            answer = bytearray()
            async for data in stream:
                answer += data
                if len(answer) > limit:
                    raise RemoteProtocolError(
                        f"the port mapper at {_place(host, port)} answered by more than "
                        f"{limit} bytes"
                    )
        finally:
            await trio.aclose_forcefully(stream)
    if not answer:
        raise PeerUnreachable(f"the port mapper at {_place(host, port)} closed without an answer")
    return bytes(answer)


async def _connect(host: str, port: int) -> trio.SocketStream:
    if host != "localhost":
        return _not_oneself(await trio.open_tcp_stream(host, port))
    # Both families, whatever the resolver says of the name; loopback refuses at once.
    first: OSError | None = None
    for address in _LOOPBACK:
        try:
            return _not_oneself(await trio.open_tcp_stream(address, port))
        except OSError as error:
            first = first or error
    assert first is not None  # noqa: S101  # for the type checker
    raise first


def _not_oneself(stream: trio.SocketStream) -> trio.SocketStream:
    """Refuse a socket that was connected to itself.

    TCP does so when nobody listens and the port, being one of those that are handed out to
    clients, is by chance picked as the local one.
    """
    try:
        if stream.socket.getsockname() == stream.socket.getpeername():
            raise ConnectionRefusedError("nobody listens there")
    except OSError:  # that, or the connection is reset already and has no peer
        stream.socket.close()
        raise
    return stream


@contextmanager
def _translated(host: str, port: int) -> Iterator[None]:
    """One deadline around a query, and foreign errors turned into ours at this edge."""
    place = _place(host, port)
    try:
        with trio.fail_after(QUERY_DEADLINE):
            yield
    except trio.TooSlowError as error:
        raise PeerUnreachable(
            f"the port mapper at {place} did not answer within {QUERY_DEADLINE:g} s"
        ) from error
    except trio.BrokenResourceError as error:
        raise PeerUnreachable(f"the port mapper at {place} broke the connection") from error
    except socket.gaierror as error:
        raise PeerUnreachable(f"no address is known for {shorten(host)}: {error}") from error
    except OSError as error:
        raise PeerUnreachable(f"no port mapper answers at {place}: {error}") from error
    except UnicodeError as error:  # from the encoding of host names
        raise PeerUnreachable(f"{shorten(host)} is no host: {error}") from error


def _place(host: str, port: int) -> str:
    return f"{shorten(host)}, port {port}"


def _check_basename(basename: str) -> None:
    fits = basename.isprintable() and not set(basename) & {"@", " "}
    if not fits or not 0 < len(basename.encode()) <= MAX_NAME_BYTES:
        raise ConfigurationError(
            f"{shorten(basename)} cannot be looked up or registered: a port mapper knows nodes by "
            "what stands before the '@' of their names"
        )
