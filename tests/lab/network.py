"""Hosts as network namespaces on a bridge of their own, and what goes wrong between them."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PREFIX = 24
_numbers = itertools.count(1)


def missing() -> str | None:
    """Why there can be no laboratory here, if so."""
    if os.geteuid() != 0:
        return "the laboratory's hosts are network namespaces, and those need root"
    for program, package in (("ip", "iproute2"), ("nft", "nftables")):
        if _find(program) is None:
            return f"the laboratory needs {program!r} (Debian: apt-get install {package})"
    return None


def _find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def run(*command: str, text: str = "") -> str:
    """Run a small program, which must succeed."""
    done = subprocess.run(
        [_find(command[0]) or command[0], *command[1:]],
        input=text,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}\n{text}")
    return done.stdout


@dataclass
class Host:
    """One machine: a namespace with one network card."""

    name: str
    namespace: str
    address: str
    port: str  # the other end of its card, at the switch
    rules: dict[str, str] = field(default_factory=dict)

    def command(self, *arguments: str) -> list[str]:
        """A command line that runs there."""
        return [_find("ip") or "ip", "netns", "exec", self.namespace, *arguments]

    def set_rule(self, name: str, rule: str | None) -> None:
        """Have packets that arrive here judged by a rule of nftables; None takes it away."""
        if rule is None:
            self.rules.pop(name, None)
        else:
            self.rules[name] = rule
        lines = ["table inet lab {", "chain in {", "type filter hook input priority 0;", "}", "}"]
        lines += ["flush chain inet lab in"]
        lines += [f"add rule inet lab in {each}" for each in self.rules.values()]
        run(*self.command("nft", "-f", "-"), text="\n".join(lines))

    def pids(self) -> list[int]:
        """The processes that run there."""
        return [int(line) for line in run("ip", "netns", "pids", self.namespace).split()]

    def kill_sockets(self, peer: Host) -> None:
        """End the connections with another host, without a word to either side's program."""
        run(*self.command("ss", "-K", "dst", peer.address))


class Lan:
    """Some hosts that see each other. Made by `open_lan`.

    Faults are named, so that they can overlap and end one by one.
    """

    def __init__(self, hosts: Sequence[Host], switch: str) -> None:
        self.hosts = {host.name: host for host in hosts}
        self.switch = switch
        self._faults = itertools.count(1)
        self._under_way: dict[str, list[tuple[Host, str]]] = {}

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def cut(self, *pairs: tuple[str, str]) -> str:
        """Let no packet pass from one host to another, for each ``(from, to)``; both ways need two.

        Returns the name of the fault.
        """
        return self._begin(
            [(self[there], f"ip saddr {self[here].address} drop") for here, there in pairs]
        )

    def partition(self, one: Iterable[str], other: Iterable[str]) -> str:
        """Cut two groups of hosts off from each other."""
        both = [(a, b) for a, b in itertools.product(one, other)]
        return self.cut(*both, *((b, a) for a, b in both))

    def lose(self, percent: int, *names: str) -> str:
        """Lose that many of the packets that arrive at these hosts."""
        rule = f"ip saddr 10.0.0.0/8 numgen random mod 100 < {percent} drop"
        return self._begin([(self[name], rule) for name in names])

    def shrink(self, size: int, *names: str) -> str:
        """Lose what is larger than that many bytes, as a black hole for an MTU does."""
        return self._begin([(self[name], f"meta length > {size} drop") for name in names])

    def heal(self, fault: str | None = None) -> None:
        """End a fault, or all."""
        for name in [fault] if fault else list(self._under_way):
            for host, rule in self._under_way.pop(name, ()):
                host.set_rule(rule, None)

    def dig_black_holes(self, count: int) -> list[str]:
        """Addresses to which packets leave, and from which nothing ever comes, not even "no"."""
        network = next(iter(self.hosts.values())).address.rsplit(".", 1)[0]
        addresses = [f"{network}.{254 - number}" for number in range(count)]
        for host in self.hosts.values():
            lines = [
                f"neigh add {address} lladdr 02:00:00:00:00:fe dev eth0 nud permanent"
                for address in addresses
            ]
            run("ip", "-n", host.namespace, "-batch", "-", text="\n".join(lines))
        return addresses

    def _begin(self, rules: Iterable[tuple[Host, str]]) -> str:
        fault = f"fault {next(self._faults)}"
        placed = self._under_way[fault] = []
        for number, (host, rule) in enumerate(rules):
            name = f"{fault}/{number}"
            host.set_rule(name, rule)
            placed.append((host, name))
        return fault


@contextmanager
def open_lan(
    names: Iterable[str], *, wire: Mapping[str, float] | None = None, seed: int = 0
) -> Iterator[Lan]:
    """Build hosts, and take them down with every process that is left on them.

    Args:
      names: of the hosts.
      wire: instead of the kernel's bridge, one of ours that loses, delays and reorders packets: the
        options of `tests.lab.wire` (``loss`` percent, ``delay`` and ``jitter`` milliseconds).
      seed: of that one's chances.
    """
    number = next(_numbers)
    base = f"lab{os.getpid()}x{number}"
    switch = f"{base}-switch"
    network = f"10.{100 + os.getpid() % 100}.{number % 250}"
    hosts = [
        Host(name, f"{base}-{index}", f"{network}.{index}", f"p{index}")
        for index, name in enumerate(names, 1)
    ]
    with ExitStack() as stack:
        for namespace in (switch, *(host.namespace for host in hosts)):
            run("ip", "netns", "add", namespace)
            stack.callback(_remove, namespace)
        if wire is None:
            run("ip", "-n", switch, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
            run("ip", "-n", switch, "link", "set", "br0", "up")
        for host in hosts:
            _plug(host, switch, bridge=wire is None)
        if wire is not None:
            stack.enter_context(_wire(switch, hosts, wire, seed))
        yield Lan(hosts, switch)


def _plug(host: Host, switch: str, *, bridge: bool) -> None:
    card = ["link", "add", "eth0", "netns", host.namespace, "type", "veth"]
    run("ip", "-n", switch, *card, "peer", "name", host.port)
    if bridge:
        run("ip", "-n", switch, "link", "set", host.port, "master", "br0")
    run("ip", "-n", switch, "link", "set", host.port, "up")
    there = f"""
        link set lo up
        addr add {host.address}/{PREFIX} dev eth0
        link set eth0 up
        route add 224.0.0.0/4 dev eth0
    """
    run("ip", "-n", host.namespace, "-batch", "-", text=there)
    if not bridge:
        run(*host.command(sys.executable, "-m", "tests.lab.wire", "--prepare", "eth0"))


@contextmanager
def _wire(
    switch: str, hosts: Sequence[Host], options: Mapping[str, float], seed: int
) -> Iterator[None]:
    ports = [host.port for host in hosts]
    chosen = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "tests.lab.wire", f"--seed={seed}", *chosen, *ports]
    with subprocess.Popen(
        [_find("ip") or "ip", "netns", "exec", switch, *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", "the wire did not start"
            yield
        finally:
            process.kill()


def _remove(namespace: str) -> None:
    for pid in run("ip", "netns", "pids", namespace).split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    run("ip", "netns", "delete", namespace)
