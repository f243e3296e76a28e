"""`open_node`: from what a user says to a running node."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

import trio

from barnacle_trio._errors import ConfigurationError
from barnacle_trio._names import Match, NodeName, matcher
from barnacle_trio.distribution._addresses import is_loopback, listen_addresses
from barnacle_trio.distribution._cookie import Cookies, read_cookie_file
from barnacle_trio.distribution._detector import Patience
from barnacle_trio.distribution._network import Network
from barnacle_trio.distribution._node import Node, run_node
from barnacle_trio.distribution._options import NodeOptions
from barnacle_trio.distribution._tcp import TcpNetwork
from barnacle_trio.distribution._tls import TlsOptions
from barnacle_trio.distribution._tls_files import Keyring
from barnacle_trio.distribution._tls_flags import read_optfile
from barnacle_trio.distribution._tls_network import TlsNetwork
from barnacle_trio.epmd import Epmd, FixedPort, PortMapper
from barnacle_trio.etf import Limits

MAX_MESSAGE = 64 * 1024 * 1024
MOST_MESSAGE = 2**31
TLS_SHARE = 0.7
"""Of a dial's time, what the TLS handshake may take."""
AROUND = 64 * 1024
"""Bytes of a message beside its largest part."""


@asynccontextmanager
async def open_node(
    name: str | NodeOptions | None = None,
    *,
    cookie: str | bytes | None = None,
    cookies: Mapping[str, str | bytes] | None = None,
    hidden: bool = False,
    listen: tuple[str, int] | None = None,
    epmd: PortMapper | None = None,
    tls: TlsOptions | None = None,
    net_ticktime: float = 60.0,
    failure_timeout: float = 10.0,
    connect_timeout: float = 7.0,
    allow: Match | Iterable[Match] | None = None,
    insecure_cookie: bool = False,
    max_message: int = MAX_MESSAGE,
) -> AsyncIterator[Node]:
    """Make this process a node of Distributed Erlang for as long as the block runs.

    ``async with open_node("my_app@127.0.0.1", cookie="my_cookie") as node: ...``

    Args:
      name: ``basename@host``, or `NodeOptions`. None takes name, cookie and the rest from
        ``ERL_AFLAGS``, ``ERL_FLAGS`` and ``ERL_ZFLAGS``; explicit arguments win over those.
      cookie: the secret that the cluster shares. None reads ``~/.erlang.cookie`` as Erlang does,
        and creates it where there is none.
      cookies: other cookies for some peers, by node name or glob.
      hidden: connect as a hidden node, as ``-hidden`` in those variables says too. Visible is the
        default, as for a BEAM node.
      listen: host and port to listen on. None: a literal address in the name is the one bound,
        ``localhost`` is loopback, any other host name means all addresses; any free port.
        ``("0.0.0.0", 9100)`` overrides; port 0 is any.
      epmd: how ports are found. None uses the port mapper on the usual port (``ERL_EPMD_PORT``,
        4369) and runs one in this process where none answers. ``FixedPort(9100)``: none at all.
      tls: certificates for connections inside TLS, with the nodes of ``-proto_dist inet_tls`` and
        with no others. Where the variables say that, too, and this is None, the file of their
        ``-ssl_dist_optfile`` is read.
      net_ticktime: seconds of silence after which a peer that does not answer probes is down.
      failure_timeout: seconds of silence after which a peer that answers probes is down, with
        reason ``silent``; any other, where its host acknowledges nothing for as long (on Linux).
        ``math.inf``: judge all by ``net_ticktime``.
      connect_timeout: seconds that one dial may take.
      allow: names or globs (or a predicate) that may connect and be dialled. None is all.
      insecure_cookie: accept a cookie of fewer than 16 characters although the node can be reached
        from beyond loopback.
      max_message: bytes of the largest message, either way; what stands around a binary of that
        size comes on top. A peer that sends a larger one is disconnected. Where those that are on
        their way from one peer at once come to more than four times that, and than 256 MiB, one
        is dropped, and told in the log.

    Raises:
      ConfigurationError: an argument, a flag, the cookie file or a certificate cannot work, or the
        address or port cannot be bound.
      ValueError: the name is no node name.
      NameTakenError: another live node bears the name.
      PeerUnreachable: no port mapper answers and none may be run here.
      NodeCrashed: a background task of the node failed for good; the cause is inside.

    What the body raises comes out plain. Leaving the block, cancelled or not, says goodbye, closes
    every connection and frees the name.
    """
    options = _options(name)
    if not 0 < max_message < MOST_MESSAGE:
        raise ConfigurationError(
            f"max_message is a number of bytes from 1 to {MOST_MESSAGE - 1}, not {max_message!r}"
        )
    _check_seconds("net_ticktime", net_ticktime, infinite=False)
    _check_seconds("failure_timeout", failure_timeout, infinite=True)
    _check_seconds("connect_timeout", connect_timeout, infinite=False)
    if listen is None and options.listen_host is not None:
        listen = (options.listen_host, 0)
    addresses = listen_addresses(options.name, listen)
    mapper = _mapper(epmd, options)
    per_peer: dict[str, str | bytes] = dict(options.cookies.items())
    per_peer.update(cookies or {})
    secrets = await _cookies(options.cookie if cookie is None else cookie, per_peer)
    secrets.check_strength(
        beyond_loopback=not all(is_loopback(address) for address in addresses),
        insecure_cookie=insecure_cookie,
    )
    keyring = await _keyring(tls, options)
    hidden = hidden or options.hidden
    network: Network = TcpNetwork(
        options.name,
        addresses=addresses,
        ports=_ports(listen, mapper, options),
        mapper=mapper,
        hidden=hidden,
    )
    if keyring is not None:
        network = TlsNetwork(network, keyring, patience=TLS_SHARE * connect_timeout)
    async with run_node(
        options.name,
        network,
        cookies=secrets,
        hidden=hidden,
        patience=Patience(failure_timeout=failure_timeout, net_ticktime=net_ticktime),
        connect_timeout=connect_timeout,
        allowed=matcher(allow),
        limits=Limits(max_bytes=max_message + AROUND),
    ) as node:
        yield node


def _options(name: str | NodeOptions | None) -> NodeOptions:
    if name is None:
        options = NodeOptions.from_erl_flags()
    elif isinstance(name, NodeOptions):
        options = name
    else:
        options = NodeOptions(name=NodeName(name))
    return options


async def _keyring(tls: TlsOptions | None, options: NodeOptions) -> Keyring | None:
    if tls is None and options.tls:
        if options.ssl_dist_optfile is None:
            raise ConfigurationError(
                f"-proto_dist {options.proto_dist} needs certificates: give tls=TlsOptions(...), "
                "or -ssl_dist_optfile"
            )
        tls = await trio.to_thread.run_sync(read_optfile, options.ssl_dist_optfile)
    await trio.lowlevel.checkpoint()
    if tls is None:
        return None
    keyring = Keyring(tls, options.name)
    await keyring.open()
    return keyring


def _check_seconds(what: str, value: float, *, infinite: bool) -> None:
    if not value > 0 or (math.isinf(value) and not infinite):
        raise ConfigurationError(f"{what} is a positive number of seconds, not {value!r}")


def _mapper(epmd: PortMapper | None, options: NodeOptions) -> PortMapper:
    if epmd is not None:
        return epmd
    if options.epmd_port is not None:
        return FixedPort(options.epmd_port)
    return Epmd(embed=options.start_epmd)


async def _cookies(cookie: str | bytes | None, cookies: Mapping[str, str | bytes]) -> Cookies:
    if cookie is None:
        cookie = await trio.to_thread.run_sync(read_cookie_file)
    else:
        await trio.lowlevel.checkpoint()
    return Cookies(cookie, cookies)


def _ports(
    listen: tuple[str, int] | None, mapper: PortMapper, options: NodeOptions
) -> Sequence[int]:
    if mapper.fixed is not None:
        if listen is not None and listen[1] not in (0, mapper.fixed):
            raise ConfigurationError(
                f"listen={listen!r}, but every node is looked for on port {mapper.fixed}"
            )
        return (mapper.fixed,)
    if listen is not None and listen[1] != 0:
        return (listen[1],)
    if options.listen_ports is not None:
        first, last = options.listen_ports
        return range(first, last + 1)
    return (0,)
