"""Certificates of tests' own authorities, and BEAM nodes that speak TLS with them."""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from barnacle_trio import Node, TlsOptions, open_node
from barnacle_trio.epmd import lookup
from tests.beam import COOKIE, unique
from tests.erlang import DEMANDED, LIBS, Erlang, require_erlangs

LONG_AGO = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
YESTERDAY = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)

SERVE = ExtendedKeyUsageOID.SERVER_AUTH
DIAL = ExtendedKeyUsageOID.CLIENT_AUTH


def require_tls_erlangs() -> list[Erlang]:
    """Those with the application that TLS distribution needs; in CI, all that are demanded.

    Raises:
      RuntimeError: one is missing.
    """
    found = [erlang for erlang in require_erlangs() if erlang.has("ssl")]
    missing = DEMANDED - {erlang.version for erlang in found}
    if not found or (missing and os.environ.get("CI")):
        raise RuntimeError(
            f"tests need the ssl application for OTP {' and '.join(sorted(missing))}: Debian's is "
            f"erlang-ssl, and {LIBS.format(28)} is for what .ci/ssl-for-otp28 prints"
        )
    return found


TLS_ERLANGS = require_tls_erlangs()
"""Each release with TLS once, the oldest first."""


class Lab:
    """An authority, and a folder in which the files of its certificates lie."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.ca = trustme.CA()
        self.ca_file = folder / "ca.pem"
        self.ca.cert_pem.write_to_path(str(self.ca_file))

    def options(self, *names: str, file: str = "node", **options: Any) -> TlsOptions:
        """Issue a certificate, by default for 127.0.0.1; trustme's."""
        return self.write(self.ca.issue_cert(*(names or ("127.0.0.1",))), file, **options)

    def for_erlang(self, *addresses: str, file: str = "both", **options: Any) -> TlsOptions:
        """The same, with each address among the DNS names: Erlang's clients look there alone."""
        addresses = addresses or ("127.0.0.1",)
        cert, key = special_cert(self.ca, dns=addresses, addresses=addresses)
        return self.write_pem(cert, key, file, **options)

    def write(self, cert: trustme.LeafCert, file: str = "node", **options: Any) -> TlsOptions:
        """Put a certificate and its key into files of their own, in the place of older ones."""
        chain = b"".join(each.bytes() for each in cert.cert_chain_pems)
        return self.write_pem(chain, cert.private_key_pem.bytes(), file, **options)

    def write_pem(self, chain: bytes, key: bytes, file: str = "node", **options: Any) -> TlsOptions:
        cert_file, key_file = self.folder / f"{file}.pem", self.folder / f"{file}.key"
        for path, content in ((cert_file, chain), (key_file, key)):
            draft = path.with_suffix(".draft")
            draft.write_bytes(content)
            draft.replace(path)
        return TlsOptions(cert_file, key_file, **{"ca": self.ca_file, **options})

    def special(self, file: str = "special", **asked: Any) -> TlsOptions:
        """Issue a certificate that trustme would not make; see `special_cert`."""
        cert, key = special_cert(self.ca, **asked)
        return self.write_pem(cert, key, file)

    def encrypted(self, secret: str, **options: Any) -> TlsOptions:
        """A certificate for 127.0.0.1, with an encrypted key."""
        key = ec.generate_private_key(ec.SECP256R1())
        cert, _ = special_cert(self.ca, addresses=["127.0.0.1"], key=key)
        options = {"password": secret, **options}
        return self.write_pem(cert, pem(key, secret.encode()), "encrypted", **options)

    def flags(
        self,
        tls: TlsOptions,
        *,
        versions: Iterable[str] = (),
        verify: bool = True,
        client_cert: bool = True,
    ) -> tuple[str, ...]:
        """A BEAM node's flags, for the same certificate in both roles."""
        optfile = self.folder / f"{Path(tls.cert).stem}.conf"
        own = f'{{certfile, "{tls.cert}"}}, {{keyfile, "{tls.key}"}}'
        common = f'{{cacertfile, "{tls.ca}"}}'
        common += ", {verify, verify_peer}" if verify else ", {verify, verify_none}"
        if versions:
            common += f", {{versions, [{', '.join(f'{each!r}' for each in versions)}]}}"
        demand = ", {fail_if_no_peer_cert, true}" if verify else ""
        shown = f"{own}, " if client_cert else ""
        optfile.write_text(
            f"[{{server, [{own}, {common}{demand}]}},\n {{client, [{shown}{common}]}}].\n"
        )
        return ("-proto_dist", "inet_tls", "-ssl_dist_optfile", str(optfile))


def special_cert(
    ca: trustme.CA,
    *,
    dns: Iterable[str] = (),
    addresses: Iterable[str] = (),
    usage: Iterable[x509.ObjectIdentifier] = (SERVE, DIAL),
    not_before: datetime.datetime = LONG_AGO,
    not_after: datetime.datetime = datetime.datetime(3000, 1, 1, tzinfo=datetime.UTC),
    self_signed: bool = False,
    key: ec.EllipticCurvePrivateKey | None = None,
) -> tuple[bytes, bytes]:
    """A certificate, and its key, with whatever is asked for and nothing else."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    authority = x509.load_pem_x509_certificate(ca.cert_pem.bytes())
    names: list[x509.GeneralName] = [x509.DNSName(each) for each in dns]
    names += [x509.IPAddress(ipaddress.ip_address(each)) for each in addresses]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if self_signed else authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(list(usage)), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    signer: Any = key
    if not self_signed:
        signer = load_pem_private_key(ca.private_key_pem.bytes(), None)
    cert = builder.sign(signer, hashes.SHA256())
    return cert.public_bytes(Encoding.PEM), pem(key)


def pem(key: Any, password: bytes | None = None) -> bytes:
    """A private key in a file's form."""
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    written: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    return written


@asynccontextmanager
async def two(
    dialling: TlsOptions | None, dialled: TlsOptions | None, **options: Any
) -> AsyncIterator[tuple[Node, Node]]:
    """A node that is to dial another one."""
    async with (
        open_node(unique("dialling"), cookie=COOKIE, tls=dialling, **options) as one,
        open_node(unique("dialled"), cookie=COOKIE, tls=dialled, **options) as other,
    ):
        yield one, other


async def port_of(node: Node) -> int:
    entry = await lookup(node.name.basename, "127.0.0.1")
    assert entry is not None
    return entry.port


async def eventually(condition: Callable[[], bool], seconds: float = 5) -> None:
    """Wait for what another task is about to do."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - not everything that is waited for tells
            await trio.sleep(0.005)


def open_sockets() -> int:
    """How many sockets this process has."""
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found += str(entry.readlink()).startswith("socket:")
        except FileNotFoundError:
            continue
    return found
