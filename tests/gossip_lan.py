"""A network of hosts: namespaces on a bridge in one of its own. This host's is not touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import pytest
import trio

PATIENCE = 30.0


def ip(*arguments: str) -> None:
    """Run ``ip``."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)


class Host:
    """A namespace with an ``eth0`` on the bridge. Made by `open_lan`."""

    def __init__(self, name: str, switch: str, number: int) -> None:
        self.name = name
        self.ipv4 = f"10.77.0.{number}"
        self.ipv6 = f"fd77::{number}"
        self._switch = switch
        self._port = f"p{number}"

    def plug_in(self) -> None:
        """Give it an ``eth0`` with its addresses and a route to everywhere."""
        ip("-n", self.name, "link", "add", "eth0", "type", "veth",
           "peer", "name", self._port, "netns", self._switch)  # fmt: skip
        ip("-n", self._switch, "link", "set", self._port, "master", "br0", "up")
        self.ip("link", "set", "eth0", "up")
        self.give_addresses()

    def give_addresses(self) -> None:
        """Give ``eth0`` its addresses and a route to everywhere."""
        self.ip("addr", "replace", f"{self.ipv4}/24", "brd", "+", "dev", "eth0")
        self.ip("addr", "replace", f"{self.ipv6}/64", "dev", "eth0", "nodad")
        self.ip("route", "replace", "default", "dev", "eth0")

    def pull_out(self) -> None:
        """Take its ``eth0`` away, addresses, routes and memberships with it."""
        self.ip("link", "delete", "eth0")

    def ip(self, *arguments: str) -> None:
        """Run ``ip`` in it."""
        ip("-n", self.name, *arguments)

    def nft(self, *commands: str) -> None:
        """Run ``nft`` in it, a command a line."""
        subprocess.run(
            ["ip", "netns", "exec", self.name, "nft", "-f", "-"],
            input="\n".join(commands).encode(),
            check=True,
            capture_output=True,
            timeout=20,
        )

    @asynccontextmanager
    async def run(self, settings: dict[str, Any]) -> AsyncIterator[Program]:
        """Run `tests.gossip_program` in it."""
        process = await trio.lowlevel.open_process(
            ["ip", "netns", "exec", self.name, sys.executable, "-W", "error", "-X", "dev",
             "-m", "tests.gossip_program", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        program = Program(process)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(program.read)
                yield program
                nursery.cancel_scope.cancel("the test is over")
        finally:
            with trio.move_on_after(5, shield=True):
                assert process.stdin is not None
                await process.stdin.aclose()
                await process.wait()
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            assert process.stdout is not None
            await trio.aclose_forcefully(process.stdout)


class Program:
    """A program in a host, and what it told."""

    def __init__(self, process: trio.Process) -> None:
        self.told: list[tuple[str, ...]] = []
        self._process = process
        self._news = trio.Event()

    async def read(self) -> None:
        """Read what it tells until it ends."""
        buffer = b""
        assert self._process.stdout is not None
        async for data in self._process.stdout:
            *lines, buffer = (buffer + data).split(b"\n")
            self.told += [tuple(json.loads(line)) for line in lines]
            self._news.set()
            self._news = trio.Event()
        raise AssertionError(f"it has ended, after {self.told}")

    def up(self, label: str) -> set[str]:
        """Who is connected, as it told."""
        nodes: set[str] = set()
        for what in self.told:
            if what[:2] == (label, "up"):
                nodes.add(what[2])
            elif what[:2] == (label, "down"):
                nodes.discard(what[2])
        return nodes

    def downs(self, since: int = 0) -> list[tuple[str, ...]]:
        """What was lost."""
        return [what for what in self.told[since:] if what[1:2] == ("down",)]

    def logged(self, text: str, since: int = 0) -> list[str]:
        """Lines of its log with a text in them."""
        return [what[2] for what in self.told[since:] if what[0] == "log" and text in what[2]]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what it tells."""
        with trio.move_on_after(PATIENCE):
            while not condition():
                await self._news.wait()
        await trio.lowlevel.checkpoint()
        assert condition(), self.told


@contextmanager
def open_lan(size: int) -> Iterator[list[Host]]:
    """So many hosts for the length of the block."""
    missing = [program for program in ("ip", "nft") if shutil.which(program) is None]
    if os.geteuid() != 0 or missing:
        complaint = "namespaces need root, iproute2 and nftables: gossip is NOT tested on a network"
        if os.environ.get("CI"):
            pytest.fail(complaint)
        pytest.skip(complaint)
    prefix = f"barnacle-lan-{os.getpid()}"
    switch = f"{prefix}-switch"
    hosts = [Host(f"{prefix}-{number}", switch, number) for number in range(1, size + 1)]
    try:
        ip("netns", "add", switch)
        ip("-n", switch, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        ip("-n", switch, "link", "set", "br0", "up")
        for host in hosts:
            ip("netns", "add", host.name)
            host.ip("link", "set", "lo", "up")
            host.plug_in()
        yield hosts
    finally:
        for name in (*(host.name for host in hosts), switch):
            with suppress(subprocess.CalledProcessError):
                ip("netns", "delete", name)
