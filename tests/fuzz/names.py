"""Text that becomes nodes: answers of the DNS, files of hosts, flags, options, remembered nodes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import dns.exception
import dns.message
import dns.name
import dns.rdatatype
import dns.resolver

from barnacle_trio._errors import ConfigurationError
from barnacle_trio._names import NodeName
from barnacle_trio.distribution import _options
from barnacle_trio.distribution._erlang_terms import parse_terms
from barnacle_trio.distribution._flags import MANDATORY, Flag, known, missing_flags
from barnacle_trio.distribution._options import NodeOptions
from barnacle_trio.etf import Atom
from barnacle_trio.strategies._addresses import erlang_text, is_nobodys
from barnacle_trio.strategies._by_dns import ByAddress, ByDns, ByTarget
from barnacle_trio.strategies._hosts_file import MAX_BAD_LINES, MAX_HOSTS, parse_hosts
from barnacle_trio.strategies._lookup import Lookup
from barnacle_trio.strategies._memory_file import format_memory, parse_memory
from barnacle_trio.strategies._postgres_members import parse as parse_payload
from tests.fuzz.checks import check_brief

# -- the DNS -------------------------------------------------------------------------------------

_NAME = dns.name.from_text("app.example.com.")


def dns_answer(data: bytes) -> None:
    """A whole answer of a server: addresses and targets that are hosts of nodes, or nothing."""
    try:
        message = dns.message.from_wire(data, one_rr_per_rrset=False)
        if not isinstance(message, dns.message.QueryMessage):
            return
    except dns.exception.DNSException:
        return
    for rdtype, strategy in (("A", _BY_ADDRESS), ("AAAA", _BY_ADDRESS), ("SRV", _BY_TARGET)):
        try:
            answer = dns.resolver.Answer(
                _NAME, dns.rdatatype.from_text(rdtype), dns.rdataclass.IN, message
            )
        except dns.exception.DNSException:
            continue
        lookup = SimpleNamespace(records=list(answer.rrset or ()))
        strategy._left_out = frozenset()
        with _without_log():
            hosts = list(strategy._hosts(cast("Sequence[Lookup]", [lookup])))
        assert len(hosts) <= len(lookup.records)
        for host in hosts:
            NodeName(f"app@{host}")
            assert host == host.lower()
            with suppress(ValueError):
                assert not is_nobodys(ip_address(host.partition("%")[0]))


def _strategy(kind: type[ByDns]) -> ByDns:
    nothing: Any = None
    return kind("fuzzed", nothing, nothing)


_BY_ADDRESS, _BY_TARGET = _strategy(ByAddress), _strategy(ByTarget)


@contextmanager
def _without_log() -> Iterator[None]:
    from barnacle_trio.strategies._by_dns import logger

    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False


def addresses(data: bytes) -> None:
    """Each address is written as one that reads as the same address, zones aside."""
    data = data[:64]
    for size, kind in ((4, IPv4Address), (16, IPv6Address)):
        for at in range(0, len(data) - size + 1, size):
            address = kind(data[at : at + size])
            text = erlang_text(address)
            NodeName(f"app@{text}")
            if "%" not in text:
                assert ip_address(text) == address
            is_nobodys(address)


def _message(*records: tuple[str, str, str]) -> bytes:
    lines = "\n".join(f"{name} 30 IN {rdtype} {text}" for name, rdtype, text in records)
    found = dns.message.from_text(
        f"id 1\nopcode QUERY\nrcode NOERROR\nflags QR AA RD\n;QUESTION\n{_NAME} IN A\n"
        f";ANSWER\n{lines}\n",
        one_rr_per_rrset=True,  # records of one set come in any order
    )
    return found.to_wire()


def dns_seeds() -> list[bytes]:
    name = str(_NAME)
    addresses = [(name, "A", f"10.0.0.{number}") for number in (1, 2, 3)]
    six = [(name, "AAAA", text) for text in ("fdaa:0:1::3", "::ffff:1.2.3.4", "ff02::1", "::")]
    alias = [(name, "CNAME", "other.example.com."), ("other.example.com.", "A", "10.0.0.9")]
    targets = [(name, "SRV", f"0 0 1 {text}") for text in ("App-1.example.com.", ".", "10.0.0.1.")]
    odd = [(name, "A", f"{number}.0.0.0") for number in (0, 224)]
    odd.append((name, "A", "255.255.255.255"))
    loop = [(name, "CNAME", "b.example.com."), ("b.example.com.", "CNAME", name)]
    return [_message(*each) for each in (addresses, six, alias, targets, odd, loop, [])]


def address_seeds() -> list[bytes]:
    texts = ("fdaa:0:1::3", "::ffff:1.2.3.4", "fe80:5::1", "::1", "::2")
    return [IPv6Address(text).packed for text in texts] + [bytes([127, 0, 0, 1]), bytes(16)]


# -- `.hosts.erlang` -----------------------------------------------------------------------------


def hosts_file(data: bytes) -> None:
    """Whatever the file holds: hosts of nodes, and lines that are told."""
    found = parse_hosts(data)
    lines = data.decode("utf-8", "replace").count("\n") + 1
    assert len(found.hosts) <= MAX_HOSTS
    assert len(found.bad) <= MAX_BAD_LINES + 1
    assert [each.number for each in found.bad] == sorted(each.number for each in found.bad)
    assert all(1 <= each.number <= lines and len(each.reason) < 200 for each in found.bad)
    for host in found.hosts:
        NodeName(f"n@{host}")
    quoted = [re.sub(r"(['\\])", r"\\\1", host) for host in found.hosts]
    again = parse_hosts("".join(f"'{host}'.\n" for host in quoted).encode())
    assert again.hosts == found.hosts
    assert not again.bad


def hosts_seeds() -> list[bytes]:
    return [
        b"'a.example.com'.\n'b.example.com'.\n% a comment\nlocalhost.\n",
        b"'10.0.0.1'. 'fdaa:0:1::3'.\n''.\n",
        b"\"a.example.com\".\nb.example.com.\n'c d'.\n[].\n",
        b"'a\\x{62}c'.\n'a\\142'.\n'\\^a'.\n'\\x41'.\n'a\\'b'.\n",
        b"\xff\xfe'a'.",
        b"after.\nend.\nok.'never closed",
        b"\r\n'a'.\r\n'b' % behind\n.\n",
    ]


# -- flags and options ---------------------------------------------------------------------------


def flags(data: bytes) -> None:
    """Any word of capabilities."""
    word = int.from_bytes(data[:8])
    kept = known(word)
    assert known(kept) == kept
    assert int(kept) & ~word == 0
    missing = missing_flags(word)
    if word & Flag.MANDATORY_25_DIGEST:
        assert not missing
    assert bool(missing) == bool(MANDATORY & ~kept and not kept & Flag.MANDATORY_25_DIGEST)
    assert all(Flag[name] in MANDATORY for name in missing)


def flag_seeds() -> list[bytes]:
    words = (0xD07DF7FBD, int(MANDATORY), 0, (1 << 64) - 1, int(Flag.MANDATORY_25_DIGEST), 1 << 63)
    return [word.to_bytes(8) for word in words]


def erl_flags(data: bytes) -> None:
    """Options of a node, in the three variables one after the other, NULs between them."""
    texts = [part.decode("utf-8", "surrogateescape") for part in data.split(b"\0", 2)]
    variables = ("ERL_AFLAGS", "ERL_FLAGS", "ERL_ZFLAGS")
    environ = dict(zip(variables, (text.replace("\0", "") for text in texts), strict=False))
    with (
        patch.object(_options, "_short_host", lambda: "here"),
        patch.object(_options, "_long_host", lambda: "here.example.com"),
    ):
        try:
            options = NodeOptions.from_erl_flags(environ)
        except ConfigurationError as error:
            str(error).encode("utf-8", "surrogateescape")
            return
    NodeName(options.name)
    if isinstance(options.cookie, str) and len(options.cookie) > 7:
        assert options.cookie not in repr(options).replace(options.name, "")
    if options.listen_ports is not None:
        first, last = options.listen_ports
        assert 0 <= first <= last <= 65535
    if options.listen_host is not None:
        ip_address(options.listen_host)
    assert options.tls is ("tls" in options.proto_dist)


def erl_flag_seeds() -> list[bytes]:
    return [
        b"-name app@10.0.0.1 -setcookie secret",
        b"\0-sname app -setcookie other@b cookie -hidden\0-kernel inet_dist_listen_min 9100",
        b"-name 'a b'@c \"quo'ted\" back\\slash\0-extra -name x@y\0+P 5 -- plain",
        b"-name a@b -kernel inet_dist_listen_min 1 inet_dist_listen_max 2 "
        b"inet_dist_use_interface {127,0,0,1}",
        b"-name a@fdaa:0:1::3 -proto_dist inet6_tls -ssl_dist_optfile /etc/ssl_dist.conf",
        b"-kernel inet_dist_use_interface {0,0,0,0,0,0,0,1} -name a@b -start_epmd false "
        b"-erl_epmd_port 9100",
        b"-name a -hidden true -dist_listen false",
    ]


def erlang_terms(data: bytes) -> None:
    """A file of options for TLS."""
    text = data.decode("utf-8", "replace")
    try:
        terms = parse_terms(text)
    except ValueError as error:
        check_brief(error, 200)
        return
    repr(terms)
    for term in _inside(terms):
        assert type(term) in (Atom, str, bytes, int, list, tuple)


def _inside(term: Any) -> Iterator[Any]:
    yield term
    if isinstance(term, list | tuple):
        for each in term:
            yield from _inside(each)


def erlang_term_seeds() -> list[bytes]:
    return [
        b'[{server, [{certfile, "/etc/cert.pem"}, {verify, verify_peer}, {depth, 3}]},\n'
        b' {client, [{cacertfile, <<"/etc/ca.pem">>}, {fail_if_no_peer_cert, true}]}].',
        b'% nothing\n\'quoted \\x{2603}\'. -5. []. {}. "a\\nb". <<""/utf8>>.',
        b"[[[[{a,[{b}]}]]]].",
        b"[a|b]. 16#ff. 1.5. $a.",
    ]


# -- what is remembered, and told ----------------------------------------------------------------


def memory_file(data: bytes) -> None:
    """A file of remembered nodes."""
    try:
        nodes = parse_memory(data)
    except ValueError:
        return
    assert parse_memory(format_memory(nodes)) == nodes


def memory_seeds() -> list[bytes]:
    nodes = {NodeName("a@10.0.0.7"): 1_767_225_600, NodeName("b@fdaa::1"): 0}
    return [format_memory(nodes), format_memory({}), b'{"version": 2}', b'{"version":1,"nodes":[]}']


def postgres_payload(data: bytes) -> None:
    """A notification on the channel of the nodes."""
    name = parse_payload(data)
    assert name is None or NodeName(name) == name


def payload_seeds() -> list[bytes]:
    return [b"heartbeat::a@127.0.0.1", b"a@127.0.0.1", b"goodbye::a@b", b"a@b,c@d"]
