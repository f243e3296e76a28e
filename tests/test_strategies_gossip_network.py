"""Gossip between hosts: real nodes in namespaces on a bridge, whose network comes and goes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio

from tests.gossip_lab import SECRET
from tests.gossip_lan import Host, Program, open_lan

PLAIN: dict[str, Any] = {"insecure": True}
POLL = 0.25
WAYS: dict[str, Callable[[Host], dict[str, Any]]] = {
    "multicast-plain": lambda _host: PLAIN,
    "multicast-secret": lambda _host: {"secret": SECRET},
    "interface-plain": lambda _host: {**PLAIN, "interface": "eth0"},
    "interface-secret": lambda host: {"secret": SECRET, "interface": host.ipv4},
    "broadcast-plain": lambda _host: {**PLAIN, "broadcast": True},
    "broadcast-secret": lambda _host: {
        "secret": SECRET,
        "broadcast": True,
        "group": "10.77.0.255",
    },
    "broadcast-interface": lambda _host: {**PLAIN, "broadcast": True, "interface": "eth0"},
    "multicast-sealed": lambda _host: {"secret": SECRET, "wire": "sealed", "interface": 2},
    "ipv6-plain": lambda _host: {**PLAIN, "group": "ff15::7a"},
    "ipv6-interface": lambda _host: {
        "secret": SECRET,
        "group": "ff02::7a:7a",
        "interface": "eth0",
        "wire": "sealed",
    },
}
"""How the nodes gossip: libcluster's six ways, and ours. All share the port but the last ones."""
PORTS = {label: 20_000 + number for number, label in enumerate(WAYS)}


@pytest.fixture
def lan() -> Iterator[list[Host]]:
    with open_lan(3) as hosts:
        yield hosts


def setting(host: Host, label: str, **more: Any) -> dict[str, Any]:
    address = host.ipv6 if label.startswith("ipv6") else host.ipv4
    options = {"port": PORTS[label], **WAYS[label](host), **more}
    return {
        "name": f"{label}@{address}",
        "gossip": options,
        "barnacle": {"poll_interval": POLL},
        "node": {"failure_timeout": 60},  # connections outlive what is done to the network here
    }


@asynccontextmanager
async def running(hosts: list[Host], *labels: str, **more: Any) -> AsyncIterator[list[Program]]:
    """A program in each host; all of them have met."""
    async with AsyncExitStack() as stack:
        programs = [
            await stack.enter_async_context(
                host.run({label: setting(host, label, **more) for label in labels})
            )
            for host in hosts
        ]
        for program in programs:
            for label in labels:
                await program.until(
                    lambda p=program, n=label: len(p.up(n)) == len(hosts) - 1  # type: ignore[misc]
                )
        yield programs


async def test_three_hosts_meet_in_every_way(lan: list[Host]) -> None:
    async with running(lan, *WAYS) as programs:
        for host, program in zip(lan, programs, strict=True):
            for label in WAYS:
                others = {setting(each, label)["name"] for each in lan if each is not host}
                assert program.up(label) == others
            assert not program.downs()
            assert not program.logged("ignored")


def sends_fail(host: Host) -> None:
    host.ip("route", "delete", "default")


def sends_work(host: Host) -> None:
    host.ip("route", "add", "default", "dev", "eth0")


def packets_vanish(host: Host) -> None:
    host.nft(
        "table ip lab {",
        "chain in { type filter hook input priority 0; ip daddr 233.252.1.32 drop; }",
        "}",
    )


def packets_pass(host: Host) -> None:
    host.nft("delete table ip lab")


def link_goes_down(host: Host) -> None:
    host.ip("link", "set", "eth0", "down")


def link_comes_up(host: Host) -> None:
    host.ip("link", "set", "eth0", "up")
    host.give_addresses()


def interface_goes(host: Host) -> None:
    host.pull_out()


def interface_comes(host: Host) -> None:
    host.plug_in()


def addresses_go(host: Host) -> None:
    host.ip("addr", "flush", "dev", "eth0")


def addresses_come(host: Host) -> None:
    host.give_addresses()


OUTAGES = {
    "no route": (sends_fail, sends_work),
    "packets vanish": (packets_vanish, packets_pass),
    "link down": (link_goes_down, link_comes_up),
    "interface gone": (interface_goes, interface_comes),
    "addresses gone": (addresses_go, addresses_come),
}


async def test_no_outage_of_the_source_costs_anybody(lan: list[Host]) -> None:
    """Each lasts for three poll intervals and more: no disconnect, one line down and one up."""
    way = "multicast-secret"
    quick = {"interval": (0.01, 0.5), "expire_after": 1.5}
    host, newcomer = lan[0], lan[2]
    async with running(lan[:2], way, **quick) as programs:
        one = programs[0]
        # The log has a line for it only where the first answer was not yet complete.
        await one.until(lambda: (way, "complete") in one.told)
        begun = len(one.told)
        for begin, end in OUTAGES.values():
            mark = len(one.told)
            begin(host)
            await one.until(lambda m=mark: bool(one.logged("discovery failed", m)))  # type: ignore[misc]
            await trio.sleep(4 * POLL)
            end(host)
            await one.until(lambda m=mark: bool(one.logged("discovery works again", m)))  # type: ignore[misc]
            (down,) = one.logged("discovery failed", mark)
            assert "no gossip with 233.252.1.32" in down
            assert len(one.logged("discovery", mark)) == 2
        async with newcomer.run({way: setting(newcomer, way, **quick)}):
            for program in programs:  # the group has been joined again
                await program.until(lambda p=program: len(p.up(way)) == 2)  # type: ignore[misc]
                assert not program.downs()
        assert len(one.logged("discovery", begun)) == 2 * len(OUTAGES)
