"""The options by which a command becomes a node, and what `open_node` makes of them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import trio
from cyclopts import Parameter

from barnacle_trio import ConfigurationError, FixedPort, Node, NodeName, TlsOptions, open_node
from barnacle_trio._names import shorten
from barnacle_trio.distribution._options import erl_flags

COOKIE_VARIABLE = "BARNACLE_COOKIE"
PASSWORD_VARIABLE = "BARNACLE_TLS_PASSWORD"  # noqa: S105 - its name, not its value
_MAX_COOKIE_FILE = 4096  # bytes

_COOKIE = Parameter(group="Cookie", show_default=False)
_TLS = Parameter(group="TLS", negative=(), show_default=False)
_SHOWN = Parameter(group="Node")
_SILENT = Parameter(group="Node", negative=(), show_default=False)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class CookieOptions:
    """Where the cookie comes from. The first that is given counts.

    Args:
      cookie: the cluster's secret. Everybody on this machine can read a command line: rather set
        BARNACLE_COOKIE, or give --cookie-file. Where nothing gives one: -setcookie in ERL_FLAGS (if
        that gives the name, too), then ~/.erlang.cookie, as for Erlang.
      cookie_file: a file whose one line is the cookie, e.g. a mounted secret.
    """

    cookie: Annotated[str | None, _COOKIE] = None
    cookie_file: Annotated[Path | None, _COOKIE] = None

    async def read(self, environ: Mapping[str, str] | None = None) -> str | bytes | None:
        """The cookie; None leaves it to `open_node`.

        Raises:
          ConfigurationError: the file cannot be read, or is too long for a cookie's.
        """
        environ = os.environ if environ is None else environ
        if self.cookie is not None:
            await trio.lowlevel.checkpoint()
            return self.cookie
        if self.cookie_file is None:
            await trio.lowlevel.checkpoint()
            return environ.get(COOKIE_VARIABLE)  # an empty one is an error, not none
        try:
            async with await trio.open_file(self.cookie_file, "rb") as file:
                content: bytes = await file.read(_MAX_COOKIE_FILE + 1)
        except OSError as error:
            raise ConfigurationError(
                f"the cookie file {shorten(self.cookie_file)}: {error.strerror or error}"
            ) from error
        if len(content) > _MAX_COOKIE_FILE:
            raise ConfigurationError(f"the cookie file {shorten(self.cookie_file)} is too long")
        return content.rstrip(b"\r\n")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """Certificates, where the cluster's connections are inside TLS (-proto_dist inet_tls).

    The password of an encrypted key is taken from BARNACLE_TLS_PASSWORD.

    Args:
      tls_cert: a file of this node's certificate (PEM). With it everything goes inside TLS.
      tls_key: a file of its private key, if that is not in the same one.
      tls_ca: a file of the authorities whose certificates are believed.
      tls_check_name: whether a certificate has to be for the host in the peer's name.
      tls_insecure: believe any certificate. Who stands in between can read and change everything.
    """

    tls_cert: Annotated[Path | None, _TLS] = None
    tls_key: Annotated[Path | None, _TLS] = None
    tls_ca: Annotated[Path | None, _TLS] = None
    tls_check_name: Annotated[Literal["host", "any"], Parameter(group="TLS")] = "host"
    tls_insecure: Annotated[bool, _TLS] = False

    def options(self, environ: Mapping[str, str] | None = None) -> TlsOptions | None:
        """What `open_node` takes; None where nothing speaks of TLS.

        Raises:
          ConfigurationError: what is given does not go together.
        """
        environ = os.environ if environ is None else environ
        if self.tls_cert is None:
            if self.tls_key or self.tls_ca or self.tls_insecure:
                raise ConfigurationError("TLS needs --tls-cert, a certificate of this node")
            return None
        if self.tls_ca is None and not self.tls_insecure:
            raise ConfigurationError("TLS needs --tls-ca, the authorities to believe")
        return TlsOptions(
            self.tls_cert,
            self.tls_key,
            self.tls_ca,
            verify=not self.tls_insecure,
            check_name=self.tls_check_name,
            password=environ.get(PASSWORD_VARIABLE),
        )


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class NodeOptions:
    """How this process is a node.

    Args:
      name: the node's name, basename@host. Without it ERL_FLAGS, ERL_AFLAGS and ERL_ZFLAGS are
        read, as Gleam and Elixir programs read them.
      hidden: be a hidden node, which nodes() of a BEAM does not list.
      listen: HOST:PORT to listen on; HOST is an address ([::1]:9100 for IPv6) or localhost, port 0
        is any. By default an address in the name is the one, and a host name means all.
      fixed_port: no port mapper: every node of the cluster listens on this port.
      allow: names or globs that may connect and be dialled; may be given repeatedly.
      failure_timeout: seconds of silence after which a peer is down.
      connect_timeout: seconds that one dial may take.
      insecure_cookie: accept a short cookie although others than this host can reach the node.
    """

    name: Annotated[str | None, _SILENT] = None
    hidden: Annotated[bool, _SILENT] = False
    listen: Annotated[str | None, _SILENT] = None
    fixed_port: Annotated[int | None, _SILENT] = None
    allow: Annotated[tuple[str, ...], _SILENT] = ()
    failure_timeout: Annotated[float, _SHOWN] = 10.0
    connect_timeout: Annotated[float, _SHOWN] = 7.0
    insecure_cookie: Annotated[bool, _SILENT] = False

    @asynccontextmanager
    async def open(
        self, cookie: CookieOptions, tls: TlsOptions | None = None
    ) -> AsyncIterator[Node]:
        """Open the node. Raises what `open_node` does."""
        name = self.name if self.name is None else checked_name(self.name)
        if name is None and not _named_by_flags():
            raise ConfigurationError(
                "nothing names this node: give --name basename@host, or ERL_FLAGS a -name or -sname"
            )
        async with open_node(
            name,
            cookie=await cookie.read(),
            hidden=self.hidden,
            listen=None if self.listen is None else parse_listen(self.listen),
            epmd=None if self.fixed_port is None else FixedPort(self.fixed_port),
            tls=tls,
            allow=self.allow or None,
            failure_timeout=self.failure_timeout,
            connect_timeout=self.connect_timeout,
            insecure_cookie=self.insecure_cookie,
        ) as node:
            yield node


def _named_by_flags() -> bool:
    return any(flag in ("name", "sname") for flag, _ in erl_flags(os.environ))


def checked_name(text: str) -> NodeName:
    """A node name from the command line.

    Raises:
      ConfigurationError: it is none; the message says why.
    """
    try:
        return NodeName(text)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def parse_listen(text: str) -> tuple[str, int]:
    """Read ``HOST:PORT`` or ``[IPV6]:PORT``.

    Raises:
      ConfigurationError: it is neither.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""  # IPv6 without brackets: where the port begins is anybody's guess
    if not (colon and host and port.isascii() and port.isdigit() and int(port[:9]) <= 0xFFFF):
        raise ConfigurationError(
            f"{shorten(text)} is nothing to listen on: write HOST:PORT, or [::1]:PORT for IPv6"
        )
    return host, int(port)
