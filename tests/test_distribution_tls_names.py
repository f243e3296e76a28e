"""Whether a certificate is for a node's name. No sockets, no TLS."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barnacle_trio import NodeName
from barnacle_trio.distribution._tls_names import name_fault


def cert(*names: str) -> dict[str, Any]:
    """A certificate as Python's ``ssl`` gives it; ``ip:`` marks an address."""
    entries = tuple(
        ("IP Address", name[3:]) if name.startswith("ip:") else ("DNS", name) for name in names
    )
    return {"subject": (), "subjectAltName": entries} if entries else {"subject": ()}


@pytest.mark.parametrize(
    ("names", "host"),
    [
        (["a.test"], "a.test"),
        (["A.Test"], "a.tEST"),
        (["a.test."], "a.test"),
        (["a.test"], "a.test."),
        (["b.test", "a.test"], "a.test"),
        (["shorthost"], "shorthost"),
        (["*.test"], "a.test"),
        (["*.svc.cluster.test"], "pod-1.svc.cluster.test"),
        (["ip:127.0.0.1"], "127.0.0.1"),
        (["127.0.0.1"], "127.0.0.1"),
        (["ip:0:0:0:0:0:0:0:1"], "::1"),
        (["::1"], "::1"),
        (["ip:FDAA:0:0:0:0:0:0:3"], "fdaa::3"),
        (["ip:fe80:0:0:0:0:0:0:1"], "fe80::1%eth0"),
    ],
)
def test_fits(names: list[str], host: str) -> None:
    assert name_fault(cert(*names), NodeName(f"app@{host}"), "host") is None


@pytest.mark.parametrize(
    ("names", "host"),
    [
        ([], "a.test"),
        (["a.test"], "b.test"),
        (["a.test"], "a.test.evil.test"),
        (["a.test"], "x.a.test"),
        (["test"], "a.test"),
        (["*.test"], "test"),
        (["*.test"], ".test"),
        (["*.test"], "a.b.test"),
        (["*"], "a"),
        (["*."], "a"),
        (["a*.test"], "ab.test"),
        (["*.*.test"], "a.b.test"),
        (["*.*.test"], "a.*.test"),
        (["*.test"], "*.b.test"),
        (["*.0.0.1"], "127.0.0.1"),
        (["ip:127.0.0.1"], "127.0.0.2"),
        (["ip:127.0.0.1"], "localhost"),
        (["localhost"], "127.0.0.1"),
        (["ip:0:0:0:0:0:FFFF:7F00:1"], "127.0.0.1"),
        (["ip:nonsense"], "127.0.0.1"),
        (["app@a.test"], "a.test"),
    ],
)
def test_does_not_fit(names: list[str], host: str) -> None:
    assert name_fault(cert(*names), NodeName(f"app@{host}"), "host") is not None


def test_the_subject_does_not_count() -> None:
    found = cert() | {"subject": ((("commonName", "a.test"),),)}
    assert name_fault(found, NodeName("app@a.test"), "host") == (
        "its certificate names no host, and so not 'a.test'"
    )


def test_other_kinds_of_names_do_not_count() -> None:
    found = {"subjectAltName": (("email", "a.test"), ("URI", "a.test"))}
    assert name_fault(found, NodeName("app@a.test"), "host") is not None


def test_what_is_shown_of_a_certificate_is_short_and_escaped() -> None:
    names = ["evil\n\x1b[31m", "x" * 500, *(f"n{each}" for each in range(1000))]
    fault = name_fault(cert(*names), NodeName("app@a.test"), "host")
    assert fault is not None
    assert fault.isprintable()
    assert len(fault) < 300
    assert "and 997 more" in fault


def test_any_and_a_function() -> None:
    name = NodeName("app@a.test")
    assert name_fault(cert(), name, "any") is None
    assert name_fault(cert("x"), name, lambda asked, found: asked is name and bool(found)) is None
    assert name_fault(cert("x"), name, lambda *_: False) is not None


LABELS = st.text("ab-*.", min_size=1, max_size=12)


@given(LABELS, LABELS)
def test_only_itself_or_one_label_for_a_star(pattern: str, host: str) -> None:
    fits = name_fault(cert(pattern), NodeName(f"app@{host}"), "host") is None
    wanted, asked = pattern.removesuffix("."), host.removesuffix(".")
    if fits:
        parts, theirs = asked.split("."), wanted.split(".")
        assert len(parts) == len(theirs)
        assert parts[1:] == theirs[1:]
        assert parts[0] == theirs[0] or (theirs[0] == "*" and len(parts) > 1)
        assert "*" not in "".join(theirs[1:])
    elif "*" not in wanted:
        assert wanted != asked
