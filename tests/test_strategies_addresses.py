"""Addresses are written as `inet:ntoa/1` of real Erlang runtimes writes them."""

from __future__ import annotations

import random
import subprocess
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest

from barnacle_trio.strategies._addresses import erlang_text, is_nobodys
from tests.erlang import Erlang

TOLD_APART = [
    ("10.0.0.7", "10.0.0.7"),
    ("fd00::1", "fd00::1"),
    ("fdaa:0:16f0:a7b:1:2:3:4", "fdaa:0:16f0:a7b:1:2:3:4"),  # a lone zero group stands
    ("FDAA:0:1:0:0:0:0:3", "fdaa:0:1::3"),
    ("1:0:0:2:3:0:0:4", "1::2:3:0:0:4"),  # the first of equal runs goes
    ("::", "::"),
    ("::1", "::1"),
    ("::2", "::0.0.0.2"),
    ("::1.2.3.4", "::1.2.3.4"),
    ("::ffff:1.2.3.4", "::ffff:1.2.3.4"),
    ("::ffff:0:102:304", "::ffff:0:102:304"),
    ("64:ff9b::1.2.3.4", "64:ff9b::102:304"),
    ("fe80::1", "fe80::1"),
    ("fe80:5::1", "fe80::1%05"),
    ("fe81:5::1", "fe81:5::1"),
    ("ff02:ffff:1:2:3:4:5:6", "ff02:0:1:2:3:4:5:6%065535"),
]


@pytest.mark.parametrize(("address", "text"), TOLD_APART)
def test_the_forms_that_differ_between_runtimes_and_libraries(address: str, text: str) -> None:
    assert erlang_text(ip_address(address)) == text


def _some_addresses(seed: int) -> list[IPv6Address]:
    """Addresses rich in zeros and in the groups that `inet:ntoa/1` treats apart."""
    rng = random.Random(seed)
    telling = [0, 0, 0, 0, 0, 1, 0xFF, 0x100, 0xFFFF, 0xFE80, 0xFEBF, 0xFF02, 0xFD00]
    found = [IPv6Address(address) for address, _ in TOLD_APART if ":" in address]
    for _ in range(3000):
        groups = [rng.choice([*telling, rng.randrange(0x10000)]) for _ in range(8)]
        zeros = rng.randrange(9)  # a third of them begins with a run, as embedded addresses do
        if rng.random() < 0.3:
            groups[:zeros] = [0] * zeros
        number = 0
        for group in groups:
            number = number << 16 | group
        found.append(IPv6Address(number))
    return found


def test_random_addresses_read_as_in_erlang(erlang: Erlang, tmp_path: Path) -> None:
    addresses = _some_addresses(seed=20)
    terms = tmp_path / "addresses"
    terms.write_text(
        "".join(
            "{" + ",".join(str(int(group, 16)) for group in each.exploded.split(":")) + "}.\n"
            for each in addresses
        )
    )
    program = (
        f'{{ok, L}} = file:consult("{terms}"), '
        '[io:format("~s~n", [inet:ntoa(A)]) || A <- L], halt().'
    )
    written = subprocess.run(
        erlang.command("-boot", "start_clean", "-eval", program),
        env=erlang.environ(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert [erlang_text(each) for each in addresses] == written.stdout.split()


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",  # noqa: S104 - not bound
        "::",
        "255.255.255.255",
        "224.0.0.251",
        "239.1.2.3",
        "ff02::fb",
        "::ffff:224.0.0.1",
    ],
)
def test_no_node_has_such_an_address(address: str) -> None:
    assert is_nobodys(ip_address(address))


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "10.255.255.255", "169.254.0.1", "fe80::1", "240.0.0.1"]
)
def test_a_node_may_have_such_an_address(address: str) -> None:
    assert not is_nobodys(ip_address(address))


def test_both_families_are_understood() -> None:
    assert erlang_text(IPv4Address("192.0.2.1")) == "192.0.2.1"
    assert erlang_text(IPv6Address("2001:db8::")) == "2001:db8::"
