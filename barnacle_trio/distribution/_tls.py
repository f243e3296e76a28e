"""What a user says about TLS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from barnacle_trio._errors import ConfigurationError
from barnacle_trio._names import NodeName

NameCheck: TypeAlias = Literal["host", "any"] | Callable[[NodeName, Mapping[str, Any]], bool]
"""How a peer's certificate is held against its node name, see `TlsOptions`."""

FilePath: TypeAlias = str | Path


@dataclass(frozen=True)
class TlsOptions:
    """Certificates for distribution inside TLS (Erlang's ``-proto_dist inet_tls``).

    All nodes of a cluster use it, or none: nothing in the protocol announces it. The cookie is
    checked inside of it all the same. Files are PEM. They are looked at again when connections are
    made, and read again where they have changed: a new certificate needs no restart, and while
    what lies there cannot be used (a key that does not belong to the certificate) the last good
    ones stay in use. Connections that are up stay up.

    Args:
      cert: the file of this node's certificate, with those of intermediate authorities after it.
      key: the file of its private key. None: it is in ``cert``, too.
      ca: the file of the authorities that are believed; no others are, the system's neither. To be
        given unless ``verify`` is off.
      verify: demand of every peer a certificate by one of them: of who is dialled, and of who
        dials. Off, strangers between the nodes can read and change everything.
      client_certificates: demand one of who dials, too. Off, who is dialled alone is verified, and
        who dials has to know the cookie only.
      check_name: what a verified certificate has to say, in both roles: of who is dialled for the
        name that is dialled, of who dials for the name it claims. ``"host"``: its subject
        alternative names hold the part of the node name after the ``@``: an address or a name,
        which may begin with ``*.`` in place of one label. An address may stand among the DNS names,
        where Erlang looks for it. ``"any"``: any certificate by the authorities will do for any
        name, as for a cluster that shares one. A function is called with the name and the
        certificate (as ``ssl.SSLSocket.getpeercert`` gives it), and says whether they fit.
      client_cert: the file of another certificate for dialling, where one is not for both roles.
      client_key: the file of its key. None: it is in ``client_cert``, too.
      password: of the private keys, if they are encrypted.
      minimum_version: ``"1.2"`` or ``"1.3"``. OTP 25 speaks 1.2 unless it is told otherwise.

    Revocation lists are not looked at: replace the authority's certificate in ``ca``.

    Raises:
      ConfigurationError: what is given does not go together.
    """

    cert: FilePath
    key: FilePath | None = None
    ca: FilePath | None = None
    verify: bool = True
    client_certificates: bool = field(default=True, kw_only=True)
    check_name: NameCheck = field(default="host", kw_only=True)
    client_cert: FilePath | None = field(default=None, kw_only=True)
    client_key: FilePath | None = field(default=None, kw_only=True)
    password: str | bytes | None = field(default=None, repr=False, kw_only=True)
    minimum_version: Literal["1.2", "1.3"] = field(default="1.2", kw_only=True)

    def __post_init__(self) -> None:
        if self.verify and self.ca is None:
            raise ConfigurationError(
                "TLS that verifies needs ca=, a file of the authorities to believe"
            )
        if self.client_key is not None and self.client_cert is None:
            raise ConfigurationError("client_key= is of no use without client_cert=")
        if self.check_name not in ("host", "any") and not callable(self.check_name):
            raise ConfigurationError(
                f"check_name is 'host', 'any' or a function, not {self.check_name!r}"
            )
        if self.minimum_version not in ("1.2", "1.3"):
            raise ConfigurationError(
                f"minimum_version is '1.2' or '1.3', not {self.minimum_version!r}"
            )
