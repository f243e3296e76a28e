"""The files of certificates and keys: read, looked at again, tried out."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import trio

from barnacle_trio._errors import ConfigurationError
from barnacle_trio._names import NodeName
from barnacle_trio.distribution._tls import FilePath, TlsOptions
from barnacle_trio.distribution._tls_names import name_fault

logger = logging.getLogger("barnacle_trio.node")

CHECK_EVERY = 1.0
"""Seconds for which the files are not looked at again."""
READ_PATIENCE = 1.0
"""Seconds after which a connection does not wait for a disk, and uses what was read before."""

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_Stamps: TypeAlias = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Contexts:
    """What the files came to: one context to dial with, one to accept with."""

    dial: ssl.SSLContext
    accept: ssl.SSLContext


class Keyring:
    """A node's certificates as they lie on the disk, and whom it believes.

    ``generation`` counts how often they were read: it tells whether they have changed since.

    Args:
      options: where they are.
      name: of this node, whose own certificate is tried out.
    """

    def __init__(self, options: TlsOptions, name: NodeName) -> None:
        self.options = options
        self.generation = 0
        self._name = name
        self._contexts: Contexts | None = None
        self._stamps: _Stamps = ()
        self._next_check = float("-inf")
        self._complaint: str | None = None

    async def open(self) -> None:
        """Read the files for the first time, and log what peers will find fault with.

        Raises:
          ConfigurationError: they cannot be used.
        """
        await self._read()
        if not self.options.verify:
            logger.warning("TLS without verification: it keeps out nobody who stands in between")

    async def contexts(self) -> Contexts:
        """What the files hold by now; what they held before, where that cannot be used."""
        now = trio.current_time()
        if now >= self._next_check:
            self._next_check = now + CHECK_EVERY
            # Others do not wait for this one: a disk that hangs must not keep out everybody.
            with trio.move_on_after(READ_PATIENCE):
                await self._read_again()
        await trio.lowlevel.checkpoint()
        assert self._contexts is not None, "it was not opened"  # noqa: S101 - says so
        return self._contexts

    async def _read_again(self) -> None:
        await trio.lowlevel.checkpoint()
        try:
            if await self._read():
                self._complaint = None
                logger.info("the certificates have changed: new connections use the new ones")
        except ConfigurationError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                logger.warning("the last good certificates stay in use: %s", error)

    async def _read(self) -> bool:
        """Read the files; False where they have not changed."""
        read = await trio.to_thread.run_sync(
            partial(_load, self.options, self._stamps), abandon_on_cancel=True
        )
        if read is None:
            return False
        self._stamps, self._contexts = read
        self.generation += 1
        if self.options.verify:
            fault = _rehearse(self._contexts, self._name, self.options)
            if fault is not None:
                logger.warning("peers will refuse the certificate of this node: %s", fault)
        return True


def _load(options: TlsOptions, known: _Stamps) -> tuple[_Stamps, Contexts] | None:
    """Read all files. Blocks. None: they are those that are known."""
    # The stamps are older than what is read: a change in between is found at the next look.
    stamps = tuple(_stamp(path) for path in _paths(options))
    if stamps == known:
        return None
    dial = _context(ssl.PROTOCOL_TLS_CLIENT, options)
    # The name is checked after the handshake, in both roles alike: `name_fault`.
    dial.check_hostname = False
    accept = _context(ssl.PROTOCOL_TLS_SERVER, options)
    # A session that is resumed skips the certificates, which may have expired since.
    accept.num_tickets = 0
    accept.options |= ssl.OP_NO_TICKET
    if options.client_cert is None:
        _load_pair(dial, options.cert, options.key, options)
    else:
        _load_pair(dial, options.client_cert, options.client_key, options)
    _load_pair(accept, options.cert, options.key, options)
    dial.verify_mode = ssl.CERT_REQUIRED if options.verify else ssl.CERT_NONE
    demanded = options.verify and options.client_certificates
    accept.verify_mode = ssl.CERT_REQUIRED if demanded else ssl.CERT_NONE
    return stamps, Contexts(dial, accept)


def _paths(options: TlsOptions) -> Iterator[FilePath]:
    for path in (options.cert, options.key, options.ca, options.client_cert, options.client_key):
        if path is not None:
            yield path


def _stamp(path: FilePath) -> tuple[int, ...]:
    try:
        found = Path(path).stat()
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror or error}") from error
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _context(protocol: Any, options: TlsOptions) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = _VERSIONS[options.minimum_version]
    context.options |= ssl.OP_NO_RENEGOTIATION
    if options.ca is not None:
        try:
            context.load_verify_locations(cafile=options.ca)
        except ssl.SSLError as error:
            raise ConfigurationError(f"{options.ca} holds no certificates") from error
        except OSError as error:
            raise ConfigurationError(f"{options.ca}: {error.strerror}") from error
    return context


def _load_pair(
    context: ssl.SSLContext, cert: FilePath, key: FilePath | None, options: TlsOptions
) -> None:
    where = str(cert) if key is None else f"{cert} and {key}"
    asked: list[bool] = []

    def password() -> str | bytes:
        asked.append(True)  # without a function OpenSSL would ask the terminal
        return options.password or b""

    try:
        context.load_cert_chain(cert, key, password)
    except ssl.SSLError as error:
        reason = (error.reason or "unreadable").replace("_", " ").lower()
        if asked:
            reason = f"the key is encrypted, and password= does not fit ({reason})"
        raise ConfigurationError(f"{where}: no certificate and its key: {reason}") from error
    except OSError as error:
        raise ConfigurationError(f"{where}: {error.strerror}") from error


def _rehearse(contexts: Contexts, name: NodeName, options: TlsOptions) -> str | None:
    """Have this node dial itself, in memory: what peers of the same options would complain of."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = contexts.dial.wrap_bio(to_client, to_server)
    server = contexts.accept.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (client, server):
            try:
                with suppress(ssl.SSLWantReadError):
                    side.do_handshake()
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
            except ssl.SSLError as error:
                return (error.reason or str(error)).replace("_", " ").lower()
    for certificate in (client.getpeercert(), server.getpeercert()):
        if certificate:
            fault = name_fault(certificate, name, options.check_name)
            if fault is not None:
                return fault
    return None
