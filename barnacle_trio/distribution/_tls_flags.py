"""The file of ``-ssl_dist_optfile``, as far as its options mean something here.

Source: the OTP document "Using TLS for Erlang Distribution" of its ``ssl`` application.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from barnacle_trio._errors import ConfigurationError
from barnacle_trio._names import shorten
from barnacle_trio.distribution._erlang_terms import parse_terms
from barnacle_trio.distribution._tls import NameCheck, TlsOptions
from barnacle_trio.etf import Atom

logger = logging.getLogger("barnacle_trio.node")

MAX_FILE = 64 * 1024
"""Bytes of such a file."""

_READ = frozenset(
    {
        "certfile",
        "keyfile",
        "cacertfile",
        "password",
        "verify",
        "fail_if_no_peer_cert",
        "versions",
        "server_name_indication",
    }
)
_DECIDE_WHOM_TO_BELIEVE = frozenset(
    {
        "cacerts",
        "cert",
        "certs_keys",
        "crl_cache",
        "crl_check",
        "customize_hostname_check",
        "depth",
        "key",
        "partial_chain",
        "verify_fun",
    }
)
_VERSIONS = {"tlsv1.3": "1.3", "tlsv1.2": "1.2"}


def read_optfile(path: Path) -> TlsOptions:
    """Read Erlang's options for TLS distribution. Blocks.

    Read are ``certfile``, ``keyfile``, ``cacertfile``, ``password``, ``verify``,
    ``fail_if_no_peer_cert``, ``versions``, and ``{server_name_indication, disable}``, after which
    names are not checked. As since OTP 26 a client verifies unless it says ``verify_none``. A
    server that verifies demands a certificate, even where Erlang would let pass who has none.

    Raises:
      ConfigurationError: the file cannot be read, or says what cannot be done here; the message
        shows no values.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigurationError(f"-ssl_dist_optfile {path}: {error.strerror or error}") from error
    try:
        if len(data) > MAX_FILE:
            raise ValueError(f"it is longer than {MAX_FILE} bytes")
        return parse_optfile(data.decode("utf-8"))
    except UnicodeDecodeError:
        fault = "it is not UTF-8"
    except ValueError as error:
        fault = str(error)
    raise ConfigurationError(f"-ssl_dist_optfile {path}: {fault}; give tls=TlsOptions(...) instead")


def parse_optfile(text: str) -> TlsOptions:
    """The options that a file's text gives, see `read_optfile`.

    Raises:
      ValueError: they cannot be followed here.
    """
    terms = parse_terms(text)
    if len(terms) != 1:
        raise ValueError(f"one list is expected, not {len(terms)} terms")
    roles = _properties(terms[0], "server and client")
    for role in roles.keys() - {"server", "client"}:
        raise ValueError(f"{shorten(role)} is neither server nor client")
    server = _role(roles.get("server", []), "server")
    client = _role(roles.get("client", []), "client")
    if "certfile" not in server:
        raise ValueError("the server has no certfile")
    verify, client_certificates = _verification(server, client)
    versions = {*server.get("versions", ()), *client.get("versions", ())}
    checked: NameCheck = "any" if client.get("server_name_indication") == "disable" else "host"
    return TlsOptions(
        cert=server["certfile"],
        key=server.get("keyfile"),
        ca=_same(server, client, "cacertfile"),
        verify=verify,
        client_certificates=client_certificates,
        check_name=checked,
        client_cert=client.get("certfile"),
        client_key=client.get("keyfile") if "certfile" in client else None,
        password=_same(server, client, "password"),
        minimum_version="1.3" if versions == {"1.3"} else "1.2",
    )


def _properties(term: Any, what: str) -> dict[str, Any]:
    """Erlang's proplist; of an option given repeatedly the first one counts."""
    if not isinstance(term, list):
        raise ValueError(f"a list of {what} is expected")
    found: dict[str, Any] = {}
    for item in term:
        match item:
            case (Atom() as key, value):
                found.setdefault(key.name, value)
            case Atom():
                found.setdefault(item.name, Atom("true"))
            case _:
                raise ValueError(f"something among {what} is no option")
    return found


def _role(term: Any, role: str) -> dict[str, Any]:
    """One role's options, each checked and in Python's terms."""
    options = _properties(term, f"the {role}'s options")
    undone = options.keys() & _DECIDE_WHOM_TO_BELIEVE
    if undone:
        raise ValueError(f"the {role}'s {', '.join(sorted(undone))} cannot be followed here")
    others = options.keys() - _READ
    if others:
        logger.info("not followed of the TLS options: %s", ", ".join(map(shorten, sorted(others))))
    return {key: _value(key, options[key], f"the {role}'s {key}") for key in options.keys() & _READ}


def _value(key: str, value: Any, what: str) -> Any:
    match key, value:
        case "certfile" | "keyfile" | "cacertfile" | "password", str() | bytes():
            return value.decode() if isinstance(value, bytes) else value
        case "verify", Atom("verify_peer" | "verify_none" as how):
            return how == "verify_peer"
        case "fail_if_no_peer_cert", Atom("true" | "false" as truth):
            return truth == "true"
        case "versions", [*versions]:
            named = [each.name if isinstance(each, Atom) else "" for each in versions]
            return [_VERSIONS[each] for each in named if each in _VERSIONS]
        case "server_name_indication", Atom("disable"):
            return "disable"
    raise ValueError(f"{what} makes no sense here")


def _verification(server: dict[str, Any], client: dict[str, Any]) -> tuple[bool, bool]:
    """Whether to verify, and whether to demand certificates of who dials."""
    dialled, dialling = client.get("verify", True), server.get("verify", False)
    if dialling and not dialled:
        raise ValueError("a server that verifies beside a client that does not is not done here")
    if dialled and "cacertfile" not in client and "cacertfile" not in server:
        raise ValueError("the client has neither cacertfile nor {verify, verify_none}")
    return dialled, dialling


def _same(server: dict[str, Any], client: dict[str, Any], key: str) -> Any:
    values = {role[key] for role in (server, client) if key in role}
    if len(values) > 1:
        raise ValueError(f"server and client have each another {key}, which is not done here")
    return next(iter(values), None)
