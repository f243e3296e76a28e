"""What an examination finds, judged from what is known already. Nothing here asks anybody."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from barnacle_trio import CookieRejected, HandshakeRefused, NodeName
from barnacle_trio._names import shorten
from barnacle_trio.distribution._addresses import is_literal, is_loopback
from barnacle_trio.distribution._flags import Flag, missing_flags
from barnacle_trio.distribution._handshake import HandshakeNok, Identity, WrongNode
from barnacle_trio.distribution._tls_stream import TlsRefused

_MOST_NAMES = 10

State = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One step: what was found, and what to do about it. After ``failed`` no step follows."""

    step: str
    state: State
    found: str
    advice: str | None = None


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why nobody was reached at an address."""

    kind: Literal["refused", "silent", "other"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shaken:
    """How far a handshake went that this node began.

    ``first`` are the first bytes that came, ``peer`` is who the other side says it is, and
    ``error`` why it did not go on; None where both have proven the cookie. ``tls`` is the version
    of TLS inside of which that was; ``tls_failed``: it did not come so far.
    """

    first: bytes = b""
    peer: Identity | None = None
    error: Exception | None = None
    tls: str | None = None
    tls_failed: bool = False


# --- names and addresses ------------------------------------------------------------------------


def form(host: str) -> str:
    """What kind of name a host part makes."""
    if is_literal(host):
        return "an IPv6 address" if ":" in host else "an IPv4 address"
    return "a long name" if "." in host else "a short name"


def judge_names(peer: NodeName, own: NodeName | None) -> Finding:
    """Whether nodes of these names can dial each other at all."""
    said = f"{peer.host} is {form(peer.host)}"
    if own is None:
        return Finding(step="name", state="ok", found=said)
    if own == peer:
        return Finding(
            step="name",
            state="failed",
            found="both nodes have the same name",
            advice="give one of them another base name",
        )
    said += f", {own.host} {form(own.host)}"
    short = {"." not in host and ":" not in host for host in (peer.host, own.host)}
    if len(short) == 2:
        return Finding(
            step="name",
            state="warning",
            found=said,
            advice="a BEAM node with a short name (-sname) and one with a long name (-name) do not "
            "dial each other: give both the same form",
        )
    if {form(peer.host), form(own.host)} == {"an IPv4 address", "an IPv6 address"}:
        return Finding(
            step="name",
            state="warning",
            found=said,
            advice="a BEAM node speaks one family only (-proto_dist inet_tcp or inet6_tcp): name "
            "both by addresses of the same family",
        )
    if _is_here(peer.host) and not _is_here(own.host):
        return Finding(
            step="name",
            state="warning",
            found=f"{said}; {peer.host} means another machine on each machine",
            advice="name nodes of several machines by addresses or host names that all can reach",
        )
    return Finding(step="name", state="ok", found=said)


def _is_here(host: str) -> bool:
    return host == "localhost" or (is_literal(host) and is_loopback(host))


def judge_addresses(host: str, addresses: Sequence[str]) -> Finding:
    """What a host resolves to."""
    families = {"IPv6" if ":" in address else "IPv4" for address in addresses}
    if is_literal(host):
        return Finding(step="host", state="ok", found=f"{host}, by {families.pop()}")
    found = f"{host} is {', '.join(addresses)}"
    if all(map(is_loopback, addresses)) and host != "localhost":
        return Finding(
            step="host",
            state="warning",
            found=f"{found}: this machine only",
            advice="right if the node runs on this machine; else see /etc/hosts, where some "
            "systems enter their own name so",
        )
    return Finding(step="host", state="ok", found=found)


def unresolved(host: str, reason: str) -> Finding:
    """What a host without an address means."""
    return Finding(
        step="host",
        state="failed",
        found=f"{shorten(host)} has no address: {reason}",
        advice="enter it into the DNS, or into /etc/hosts of every machine of the cluster, or name "
        "the nodes by their addresses",
    )


# --- port mapper and port -----------------------------------------------------------------------


def judge_mapper(port: int, reached: Collection[str], troubles: Mapping[str, Trouble]) -> Finding:
    """At which of a host's addresses the port mapper answers."""
    advice = {
        "refused": "start the node there, which brings a port mapper along; one on another port "
        "is found by ERL_EPMD_PORT; in a cluster without any give --fixed-port",
        "silent": f"let TCP port {port} through the firewalls, and see whether the host is up",
        "other": f"see which program has port {port} there",
    }
    return _judge_reach("port mapper", f"answers on port {port}", reached, troubles, advice)


def judge_port(port: int, reached: Collection[str], troubles: Mapping[str, Trouble]) -> Finding:
    """At which of a host's addresses somebody listens on the node's port."""
    advice = {
        "refused": "the node has ended, or listens on other addresses only (-kernel "
        "inet_dist_use_interface, or listen= here)",
        "silent": f"let TCP port {port} through the firewalls; a BEAM node takes any port unless "
        "-kernel inet_dist_listen_min and inet_dist_listen_max say which",
        "other": "see whether the host can be reached at all",
    }
    return _judge_reach("port", f"somebody listens on port {port}", reached, troubles, advice)


def _judge_reach(
    step: str,
    what: str,
    reached: Collection[str],
    troubles: Mapping[str, Trouble],
    advice: Mapping[str, str],
) -> Finding:
    """All addresses are well, some are a warning, none is a failure."""
    failures = "; ".join(f"{address}: {trouble.text}" for address, trouble in troubles.items())
    if not reached:
        kinds = {trouble.kind for trouble in troubles.values()}
        first = next(kind for kind in ("refused", "silent", "other") if kind in kinds)
        return Finding(step=step, state="failed", found=failures, advice=advice[first])
    found = f"{what} of {', '.join(reached)}"
    if not troubles:
        return Finding(step=step, state="ok", found=found)
    return Finding(
        step=step,
        state="warning",
        found=f"{found}, but not everywhere: {failures}",
        advice="a node that tries only that address does not get through",
    )


def judge_registration(peer: NodeName, names: Mapping[str, int]) -> Finding:
    """Whether the port mapper knows the node."""
    port = names.get(peer.basename)
    if port is not None:
        found = f"{peer.basename} listens on port {port}"
        return Finding(step="registration", state="ok", found=found)
    known = sorted(names)
    listed = ", ".join(map(shorten, known[:_MOST_NAMES])) or "nobody"
    more = f" and {len(known) - _MOST_NAMES} more" if len(known) > _MOST_NAMES else ""
    alike = get_close_matches(peer.basename, known, n=1)
    guess = f"did you mean {alike[0]}@{peer.host}? Else " if alike else ""
    return Finding(
        step="registration",
        state="failed",
        found=f"{peer.basename} is not registered there; registered: {listed}{more}",
        advice=f"{guess}start the node, under this name (a BEAM node that was started without "
        "listening, or whose port mapper has died, is not listed; with an agreed port give "
        "--fixed-port)",
    )


# --- the handshake ------------------------------------------------------------------------------


def judge_handshake(dialled: NodeName, shaken: Shaken) -> list[Finding]:
    """The steps of a handshake, up to the one that failed."""
    if shaken.tls_failed or isinstance(shaken.error, TlsRefused):
        return [_insecure(shaken.error)]
    findings: list[Finding] = []
    if shaken.tls is not None:
        findings.append(Finding(step="tls", state="ok", found=f"both speak {shaken.tls}"))
    if shaken.peer is None:
        return [*findings, _unmet(dialled, shaken)]
    kind = "visible" if shaken.peer.flags & Flag.PUBLISHED else "hidden"
    findings += [
        Finding(step="handshake", state="ok", found=f"{dialled} answers, a {kind} node"),
        _judge_version(shaken.peer.flags),
    ]
    if findings[-1].state == "ok":
        findings.append(_judge_cookie(shaken.error))
    return findings


def _insecure(error: Exception | None) -> Finding:
    match error:
        case TlsRefused():
            advice = (
                "compare the certificates (openssl x509 -text -in FILE): who issued them and until "
                "when, for which hosts, and for which use"
            )
        case _:
            advice = (
                "most likely the node was started without TLS (-proto_dist inet_tls): both need "
                "it, or neither"
            )
    return Finding(step="tls", state="failed", found=str(error), advice=advice)


def _unmet(dialled: NodeName, shaken: Shaken) -> Finding:
    found = str(shaken.error)
    match shaken.error:
        case WrongNode(name=name) if name.basename == dialled.basename:
            advice = f"a node has one name only, the one that it was started with: use {name}"
        case WrongNode():
            advice = "the registration is an old one, or two nodes share the port: look it up again"
        case HandshakeRefused():
            because = (
                "its allow-list leaves this node out (net_kernel:allow/1, or allow= here), or it "
                "wants a capability that this node does not have"
            )
            if shaken.tls is not None:
                because = (
                    f"the certificate is not for the host in this node's name (--name); {because}"
                )
            advice = f"{because}: its log says which"
        case HandshakeNok() if shaken.first:
            found = f"{dialled} does not take a node of this name"
            advice = "try again; if that does not help, say by --name how this node is called"
        case _:
            found, advice = _stranger(shaken)
    return Finding(step="handshake", state="failed", found=found, advice=advice)


def _stranger(shaken: Shaken) -> tuple[str, str]:
    first, error = shaken.first, str(shaken.error)
    if first[:2] in (b"\x15\x03", b"\x16\x03"):
        return (
            "what listens there speaks TLS",
            "the node was started with -proto_dist inet_tls (or inet6_tls): give --tls-cert "
            "and --tls-ca",
        )
    if first[:1] == b"\0":  # as the length of a short message begins
        return (
            error,
            "it begins as a node does, but does not go on so: see its log (Erlang/OTP 23 is the "
            "oldest that will do)",
        )
    if first:
        return (
            f"what listens there is no node; it says {shorten(first.decode('latin-1'), 40)}",
            "another program has the port: see which (ss -ltnp), and start the node anew",
        )
    return (
        error,
        "what listens there is frozen, overloaded, no node, or a node that was told to wait: see "
        "which program has the port (ss -ltnp)",
    )


def _judge_version(flags: int) -> Finding:
    lacking = missing_flags(flags)
    if lacking:
        return Finding(
            step="version",
            state="failed",
            found=f"it is too old, it lacks {', '.join(lacking)}",
            advice="23 is the oldest Erlang/OTP that will do",
        )
    release = 23
    if flags & Flag.MANDATORY_25_DIGEST:
        release = 28 if flags & Flag.ALTACT_SIG else 25
    if flags & Flag.NATIVE_RECORDS:
        release = 29
    found = f"it can do what Erlang/OTP {release} can, or more"
    return Finding(step="version", state="ok", found=found)


def _judge_cookie(error: Exception | None) -> Finding:
    if error is None:
        return Finding(
            step="cookie",
            state="ok",
            found="the same on both sides (seen from the one that dials)",
        )
    if isinstance(error, CookieRejected):
        return Finding(
            step="cookie",
            state="failed",
            found=str(error),
            advice="give both the same: --cookie-file or BARNACLE_COOKIE here, -setcookie or "
            "~/.erlang.cookie there; a line end or a blank counts",
        )
    return Finding(
        step="cookie",
        state="failed",
        found=str(error),
        advice="see the node's log: it ended the handshake by itself",
    )
