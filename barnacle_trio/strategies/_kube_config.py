"""How a developer reaches an API server: the files that ``kubectl`` reads.

Source: the Kubernetes documentation, "Organizing Cluster Access Using kubeconfig Files", and the
reference "kubeconfig (v1)". Nothing that is raised here holds a token or a key.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import trio

from barnacle_trio._errors import DiscoveryError
from barnacle_trio._names import shorten
from barnacle_trio.strategies._kube_access import (
    Access,
    checked_namespace,
    checked_token,
    read_text,
    verifying_context,
)
from barnacle_trio.strategies._kube_objects import mapping, sequence, text

# Ways to come by credentials that are not offered here.
_UNKNOWN = ("exec", "auth-provider", "username", "password", "as", "as-groups", "as-uid")


@dataclass(frozen=True, slots=True)
class _Part:
    """A cluster, a user or a context, and the folder from which its relative paths lead."""

    content: Mapping[str, Any] = field(repr=False)
    folder: Path
    what: str  # for errors

    def text(self, key: str) -> str:
        return text(self.content.get(key))

    async def material(self, key: str) -> str | None:
        """A certificate or key, given in place (``KEY-data``, which goes first) or by a path."""
        await trio.lowlevel.checkpoint()
        inline = self.text(f"{key}-data")
        if inline:
            try:
                return base64.b64decode(inline, validate=True).decode()
            except (binascii.Error, ValueError):
                raise DiscoveryError(f"{self.what}: {key}-data is not base64") from None
        path = self.path(key)
        return None if path is None else await read_text(path)

    def path(self, key: str) -> Path | None:
        given = self.text(key)
        return self.folder / given if given else None


def kubeconfig_paths(given: Path | None, environ: Mapping[str, str] | None = None) -> list[Path]:
    """The files to read: the one given, those of ``KUBECONFIG``, or the one in the home folder."""
    environ = os.environ if environ is None else environ
    if given is not None:
        return [given]
    named = [each for each in environ.get("KUBECONFIG", "").split(os.pathsep) if each]
    if named:
        # As kubectl does: of several, those that exist.
        return [Path(each) for each in named if Path(each).exists()] or [Path(named[0])]
    return [Path(environ.get("HOME") or "~").expanduser() / ".kube" / "config"]


async def read_kubeconfig(paths: list[Path], context: str | None = None) -> Access:
    """The access that the current context of a kubeconfig gives, or another one of its contexts.

    Of several files the first that says something about a name counts.

    Raises:
      DiscoveryError: something is missing, or of a kind that is not offered: servers that are not
        verified, and credentials that another program has to be run for.
    """
    parts: dict[tuple[str, str], _Part] = {}
    for path in paths:
        content = _parsed(path, await read_text(path))
        context = context or text(content.get("current-context")) or None
        for key, part in _parts(content, path):
            parts.setdefault(key, part)
    if context is None:
        raise DiscoveryError(f"{_told(paths)} has no current-context: choose one by context=...")
    chosen = _part(parts, "context", context, paths)
    cluster = _part(parts, "cluster", chosen.text("cluster"), paths)
    user = chosen.text("user")
    return await _access(
        cluster,
        _part(parts, "user", user, paths) if user else _Part({}, Path(), "no user"),
        checked_namespace(chosen.text("namespace") or "default"),
    )


def _parts(content: Mapping[str, Any], path: Path) -> Iterator[tuple[tuple[str, str], _Part]]:
    for what in ("context", "cluster", "user"):
        for each in map(mapping, sequence(content.get(f"{what}s"))):
            name = text(each.get("name"))
            part = _Part(mapping(each.get(what)), path.parent, f"{what} {shorten(name)} of {path}")
            yield (what, name), part


def _part(parts: Mapping[tuple[str, str], _Part], what: str, name: str, paths: list[Path]) -> _Part:
    part = parts.get((what, name))
    if part is None:
        raise DiscoveryError(f"{_told(paths)} has no {what} {shorten(name)}")
    return part


async def _access(cluster: _Part, user: _Part, namespace: str) -> Access:
    for key in _UNKNOWN:
        if user.content.get(key):
            raise DiscoveryError(
                f"{user.what} has {key!r}, which is not offered: use a token, a client certificate "
                "or `kubectl proxy`"
            )
    if cluster.content.get("proxy-url"):
        raise DiscoveryError(f"{cluster.what} has 'proxy-url', which is not offered")
    server = cluster.text("server").rstrip("/")
    token = await _token(user)
    certificate = await user.material("client-certificate")
    private_key = await user.material("client-key")
    if _is_local_proxy(server) and token is None and certificate is None:
        return Access(server=server, namespace=namespace, tls=None)
    if urlsplit(server).scheme != "https":
        raise DiscoveryError(f"{cluster.what}: the server {shorten(server)} is not https")
    if cluster.content.get("insecure-skip-tls-verify"):
        raise DiscoveryError(
            f"{cluster.what} has 'insecure-skip-tls-verify': a server is always verified here; "
            "give its certificate-authority"
        )
    authorities = await cluster.material("certificate-authority")
    if authorities is None:
        tls = ssl.create_default_context()  # a server with a certificate for all the world
    else:
        tls = verifying_context(authorities, f"{cluster.what}: certificate-authority")
    if certificate is not None:
        pem = f"{certificate}\n{private_key or ''}\n"
        await trio.to_thread.run_sync(_show_certificate, tls, pem, user.what)
    return Access(
        server=server,
        namespace=namespace,
        tls=tls,
        tls_name=cluster.text("tls-server-name") or None,
        token=token,
    )


async def _token(user: _Part) -> str | None:
    await trio.lowlevel.checkpoint()
    path = user.path("tokenFile")
    if path is not None:
        return checked_token(await read_text(path), str(path))
    given = user.text("token")
    return checked_token(given, user.what) if given else None


def _is_local_proxy(server: str) -> bool:
    """Whether this is ``kubectl proxy`` or its like, on this host and without TLS."""
    parts = urlsplit(server)
    try:
        return parts.scheme == "http" and ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return parts.scheme == "http" and parts.hostname == "localhost"


def _show_certificate(tls: ssl.SSLContext, pem: str, what: str) -> None:
    # OpenSSL reads them from files only.
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:  # mode 0600
        file.write(pem)
        file.flush()
        try:
            tls.load_cert_chain(file.name, password=lambda: "")  # never ask the terminal
        except (OSError, ValueError) as error:
            raise DiscoveryError(f"{what}: no usable client-certificate and client-key") from error


def _parsed(path: Path, content: str) -> Mapping[str, Any]:
    try:
        return mapping(json.loads(content))  # is YAML too, and needs no extra
    except (ValueError, RecursionError):
        pass
    try:
        import yaml
    except ImportError as error:
        raise DiscoveryError(
            f"{path} is YAML, to read which needs an extra: pip install 'barnacle-trio[kubernetes]'"
        ) from error
    try:
        return mapping(yaml.safe_load(content))
    except (yaml.YAMLError, ValueError, RecursionError):
        raise DiscoveryError(f"{path} is neither YAML nor JSON") from None  # it would be quoted


def _told(paths: list[Path]) -> str:
    return ", ".join(map(str, paths))
