"""How a pod reaches its API server: the service account's token and the cluster's CA.

Source: the Kubernetes documentation, "Accessing the Kubernetes API from a Pod".

Everything is read anew for each access, since the kubelet replaces tokens long before they expire.
Nothing that is raised here holds a token or a key.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from barnacle_trio._errors import DiscoveryError
from barnacle_trio._names import shorten
from barnacle_trio.strategies._files import read_file

SERVICE_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
MAX_FILE = 1024 * 1024
"""Bytes of the longest file that is read."""

_TOKEN = re.compile(r"[!-~]+")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # a label of RFC 1123


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where an API server is, how it proves who it is, and how we do.

    ``tls_name`` is the name in its certificate, where that is another than in ``server``.
    """

    server: str
    namespace: str
    tls: ssl.SSLContext | None = field(repr=False)
    tls_name: str | None = None
    token: str | None = field(default=None, repr=False)


async def read_service_account(folder: Path, environ: Mapping[str, str] | None = None) -> Access:
    """The access that a pod has by its service account.

    Raises:
      DiscoveryError: this is no pod, or something is missing. Nothing stands in for it: least of
        all is a server believed that cannot be verified.
    """
    environ = os.environ if environ is None else environ
    host = environ.get("KUBERNETES_SERVICE_HOST")
    if not host:
        raise DiscoveryError("KUBERNETES_SERVICE_HOST is not set: this is not a pod")
    port = environ.get("KUBERNETES_SERVICE_PORT_HTTPS") or environ.get("KUBERNETES_SERVICE_PORT")
    return Access(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port or 443}",
        namespace=checked_namespace((await read_text(folder / "namespace")).strip()),
        tls=verifying_context(await read_text(folder / "ca.crt"), str(folder / "ca.crt")),
        token=checked_token(await read_text(folder / "token"), str(folder / "token")),
    )


def verifying_context(authorities: str, where: str) -> ssl.SSLContext:
    """TLS that believes these certificates (PEM) and no others.

    Raises:
      DiscoveryError: there is none among them.
    """
    # Not `ssl.create_default_context`: it believes all the world where it is given nothing.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=authorities)
    except (ssl.SSLError, ValueError) as error:
        raise DiscoveryError(f"{where} holds no certificate") from error
    # What is given is believed, be it a root or not, as by every other client of Kubernetes.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def checked_token(token: str, where: str) -> str:
    """A token without the blanks around it.

    Raises:
      DiscoveryError: it cannot be one; the message shows nothing of it.
    """
    stripped = token.strip()
    if not _TOKEN.fullmatch(stripped):
        raise DiscoveryError(f"{where} holds no token")
    return stripped


def checked_namespace(namespace: str) -> str:
    """The name of a namespace, safe to stand in a path.

    Raises:
      DiscoveryError: it is none.
    """
    if not _NAMESPACE.fullmatch(namespace):
        raise DiscoveryError(f"{shorten(namespace)} is not the name of a namespace")
    return namespace


async def read_text(path: Path) -> str:
    """A short file's text.

    Raises:
      DiscoveryError: it cannot be read, is no file, too long, or not text.
    """
    try:
        return (await read_file(path, limit=MAX_FILE)).decode()
    except OSError as error:
        raise DiscoveryError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise DiscoveryError(f"{path} is not text") from None  # the error would quote it
