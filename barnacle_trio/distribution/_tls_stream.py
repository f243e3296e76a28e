"""One stream inside TLS: `trio.SSLStream`, and reasons that people can act upon."""

from __future__ import annotations

import re
import ssl
from contextlib import suppress
from typing import Any, cast

import trio

from barnacle_trio._errors import (
    BarnacleError,
    HandshakeRefused,
    PeerUnreachable,
    RemoteProtocolError,
)
from barnacle_trio._names import NodeName
from barnacle_trio.distribution._addresses import is_literal
from barnacle_trio.distribution._tls import TlsOptions
from barnacle_trio.distribution._tls_names import name_fault

ALERT_PATIENCE = 1.0
"""Seconds in which a peer may take the alert that tells it why."""
PROTOCOL_VERSION_ALERT = bytes.fromhex("15 0303 0002 02 46")
"""What a peer without TLS is told, by which it knows that there is TLS here (RFC 8446, 6)."""

# Of OpenSSL's names for faults: those that mean that what came is no TLS at all.
_NO_TLS = frozenset(
    {
        "HTTP_REQUEST",
        "HTTPS_PROXY_REQUEST",
        "PACKET_LENGTH_TOO_LONG",
        "RECORD_LAYER_FAILURE",
        "UNKNOWN_PROTOCOL",
        "WRONG_VERSION_NUMBER",
    }
)
_ALERT = re.compile(r"\balert ([a-z]+(?: [a-z]+)*)")
_NOTHING_IN_COMMON = frozenset(
    {"NO_PROTOCOLS_AVAILABLE", "NO_SHARED_CIPHER", "UNSUPPORTED_PROTOCOL"}
)


class TlsRefused(HandshakeRefused):
    """One of the two does not believe the other's certificate, or they have no TLS in common."""


class TlsStream(trio.abc.Stream):
    """A stream inside TLS; the handshake is made by whatever comes first.

    Until the peer has said something inside of it, a failure comes as a `BarnacleError` that says
    why; later as Trio's streams break. One task may send while another one receives.

    Args:
      stream: what TLS goes over; closed with this one.
      context: of the role, see `Contexts`.
      options: whether and how the peer is verified.
      dialled: the node at the other end; None where that one dialled us.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        context: ssl.SSLContext,
        options: TlsOptions,
        *,
        dialled: NodeName | None = None,
    ) -> None:
        self.transport_stream = stream
        self._options = options
        self._dialled = dialled
        self._peer = "the peer" if dialled is None else str(dialled)
        self._tap = _Tap(context)
        self._tls = trio.SSLStream(
            stream,
            cast(ssl.SSLContext, self._tap),
            server_side=dialled is None,
            server_hostname=None if dialled is None else _indication(dialled.host),
            https_compatible=True,  # Erlang may close without saying so
        )
        self._made = False
        self._heard = False

    async def do_handshake(self) -> None:
        """Make the handshake, unless it is made already, and check the name of who was dialled.

        Raises:
          TlsRefused: one of the two does not believe the other's certificate, or it is for
            another host.
          PeerUnreachable: the peer broke off.
          RemoteProtocolError: what came is no TLS.
        """
        if self._made:
            await trio.lowlevel.checkpoint()
            return
        try:
            await self._tls.do_handshake()
        except trio.BrokenResourceError as error:
            explained = self._explain(error)
            if not isinstance(explained, PeerUnreachable):
                await self._tell_why(explained)  # noqa: ASYNC120 - the deadline may win
            raise explained from error
        if self._dialled is not None:
            fault = self.name_fault(self._dialled)
            if fault is not None:
                raise TlsRefused(f"{self._dialled}: {fault}")
        self._made = True

    def name_fault(self, name: NodeName) -> str | None:
        """What in the peer's certificate speaks against that name; see `TlsOptions.check_name`.

        None after the handshake only, and also where peers of this role are not verified.
        """
        options = self._options
        if not options.verify or (self._dialled is None and not options.client_certificates):
            return None
        return name_fault(self._tls.getpeercert() or {}, name, options.check_name)

    def version(self) -> str | None:
        """The version of TLS, e.g. ``TLSv1.3``; None before the handshake."""
        found: str | None = self._tls.version()
        return found

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """See `trio.abc.ReceiveStream`."""
        if self._heard:
            return await self._tls.receive_some(max_bytes)
        await self.do_handshake()
        try:
            data = await self._tls.receive_some(max_bytes)
        except trio.BrokenResourceError as error:
            # TLS 1.3: who dials is done before its certificate was looked at, and hears of it here.
            if _alert(error) is not None:
                raise self._explain(error) from error
            raise
        self._heard = bool(data)
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See `trio.abc.SendStream`."""
        if not self._heard:
            await self.do_handshake()
        await self._tls.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """See `trio.abc.SendStream`."""
        await self._tls.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close the stream below; nothing is said before (frames have their lengths)."""
        await self._tls.aclose()

    async def _tell_why(self, explained: BarnacleError) -> None:  # noqa: ASYNC910 - it sends
        """Send the alert that OpenSSL has made, which `trio.SSLStream` would keep to itself."""
        alert = self._tap.outgoing.read()
        if not alert and self._dialled is None and isinstance(explained, RemoteProtocolError):
            alert = PROTOCOL_VERSION_ALERT
        with (
            trio.move_on_after(ALERT_PATIENCE),
            suppress(trio.BrokenResourceError, trio.ClosedResourceError),
        ):
            await self.transport_stream.send_all(alert)

    def _explain(self, broken: trio.BrokenResourceError) -> BarnacleError:
        error, peer = broken.__cause__, self._peer
        if isinstance(error, ssl.SSLCertVerificationError):
            return TlsRefused(f"{peer}: its certificate is refused: {error.verify_message}")
        if not isinstance(error, ssl.SSLError) or isinstance(error, ssl.SSLEOFError):
            hint = "" if self._dialled is None else ", as a node without TLS does"
            return PeerUnreachable(f"{peer} broke off in the TLS handshake{hint}")
        reason = error.reason or "UNKNOWN"
        alert = _alert(broken)
        if alert is not None:
            return TlsRefused(f"{peer} refused this node's TLS: {alert}")
        if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
            return TlsRefused(f"{peer} shows no certificate")
        text = reason.replace("_", " ").lower()
        if reason in _NOTHING_IN_COMMON:
            return TlsRefused(f"{peer} and this node have no TLS in common: {text}")
        if reason in _NO_TLS:
            return RemoteProtocolError(f"{peer} speaks no TLS, as a node without it does not")
        return RemoteProtocolError(f"{peer} speaks broken TLS: {text}")


def handshake_header(stream: trio.abc.Stream) -> int:
    """Bytes of the length of a message of the handshake between nodes.

    As OTP 25 and 28 have it; its documents tell of the 2 alone.
    """
    return 4 if isinstance(stream, TlsStream) else 2


class _Tap:
    """Stands in for a context, once, to keep hold of what `trio.SSLStream` is about to send."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, **more: Any
    ) -> ssl.SSLObject:
        self.outgoing = outgoing
        return self._context.wrap_bio(incoming, outgoing, **more)


def _alert(broken: trio.BrokenResourceError) -> str | None:
    """The alert by which the peer broke off, in words; None where it sent none."""
    # The text, as Python does not know the reason's name in every version of OpenSSL.
    found = _ALERT.search(str(broken.__cause__).lower())
    return None if found is None else found[1]


def _indication(host: str) -> str | None:
    """The host as SNI has it: no address, and no name that cannot be one."""
    if is_literal(host):
        return None
    try:
        host.encode("idna")
    except UnicodeError:
        return None
    return None if host.startswith(".") else host
