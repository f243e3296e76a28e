"""DNS servers for tests: dnsmasq for truth, and a scripted one for answers that it never gives."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rdata
import dns.rrset
import pytest
import trio
from dns.asyncbackend import get_backend
from dns.asyncquery import tcp
from dns.asyncresolver import Resolver
from dns.name import from_text, root
from dns.nameserver import Do53Nameserver

HOST = "127.0.0.1"
ZONE = "test"


def resolver_for(*ports: int, search: Iterable[str] = (), ndots: int | None = None) -> Resolver:
    """A resolver that asks the servers on these ports of loopback, in this order."""
    resolver = Resolver(configure=False)
    resolver.nameservers = [Do53Nameserver(HOST, port) for port in ports]
    resolver.timeout = 0.2
    resolver.search = [from_text(domain) for domain in search]
    resolver.use_search_by_default = bool(resolver.search)
    resolver.ndots = ndots
    return resolver


def free_dns_port() -> int:
    """A port of loopback that is free for UDP and TCP."""
    while True:
        with socket.socket() as listening, socket.socket(type=socket.SOCK_DGRAM) as receiving:
            listening.bind((HOST, 0))
            port = int(listening.getsockname()[1])
            try:
                receiving.bind((HOST, port))
            except OSError:
                continue
            return port


class DnsServer:
    """A dnsmasq that answers for some zones and refuses all others. Made by its opener.

    Names without records of their own are ``empty.test`` (it has a text, so it exists) and
    ``alias.test``, an alias of ``target.test``. ``zones``: those beside ``test``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        zones: Iterable[str] = (),
        host: str = HOST,
        port: int | None = None,
    ) -> None:
        self.host = host
        self.port = free_dns_port() if port is None else port
        self._program = _dnsmasq()
        self._hosts = folder / "hosts"
        self._hosts.mkdir()
        self._config = folder / "dnsmasq.conf"
        self._log = folder / "dnsmasq.log"
        self._process: trio.Process | None = None
        self._lines = [
            f"port={self.port}",
            f"listen-address={host}",
            "bind-interfaces",
            "no-resolv",
            "no-hosts",
            "no-poll",
            "pid-file=",
            f"hostsdir={self._hosts}",
            *(f"local=/{zone}/" for zone in (ZONE, *zones)),
            f"txt-record=empty.{ZONE},nothing else",
            f"cname=alias.{ZONE},target.{ZONE}",
        ]
        if os.geteuid() == 0:
            self._lines.append("user=root")  # it could not read the folder otherwise
        self._configure()

    def _configure(self, *more: str) -> None:
        self._config.write_text("".join(f"{line}\n" for line in (*self._lines, *more)))

    async def start(self) -> None:
        """Start it and wait until it answers."""
        await self._launch()
        await self._until(f"empty.{ZONE}", lambda _found: True)

    async def _launch(self) -> None:
        with self._log.open("wb") as log:
            self._process = await trio.lowlevel.open_process(
                [self._program, "--keep-in-foreground", f"--conf-file={self._config}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def stop(self) -> None:
        """End it, frozen or not; its port stays its own for another start."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Have it answer nobody, while the kernel takes what is sent."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`."""
        self._signal(signal.SIGCONT)

    async def set_records(self, name: str, *addresses: str) -> None:
        """Give a name these addresses and no others, or none, and wait until they are served."""
        file = self._hosts / name
        fresh = bool(addresses) and not file.exists()
        if addresses:
            draft = self._config.with_name(f"{name}.draft")
            draft.write_text("".join(f"{address} {name}\n" for address in addresses))
            draft.rename(file)
        else:
            file.unlink()
        if not fresh:
            self._signal(signal.SIGHUP)  # additions it sees by itself, by inotify
        await self._until(name, lambda found: found == set(addresses))

    async def set_lines(self, *lines: str) -> None:
        """Give it these lines of configuration, in place of those given before.

        ``srv-host=NAME,TARGET,PORT`` and ``txt-record=NAME,TEXT``, say. It is started anew.
        """
        self._configure(*lines)
        if self._process is not None:
            await self.stop()
            await self.start()

    async def set_targets(self, name: str, *targets: str) -> None:
        """Give a name SRV records with these targets, and no other such records to any name."""
        await self.set_lines(*(f"srv-host={name},{target},4000" for target in targets))

    async def _until(self, name: str, settled: Callable[[set[str]], bool]) -> None:
        with trio.fail_after(10):
            while True:
                assert self._process is not None
                if self._process.poll() is not None:
                    # A child that served a stream outlives its parent a little, and holds the port.
                    assert "already in use" in self._log.read_text(), self._log.read_text()
                    await self._launch()
                try:
                    found = await self._ask(name, "A") | await self._ask(name, "AAAA")
                except (OSError, EOFError, trio.BrokenResourceError):
                    pass
                else:
                    if settled(found):
                        return
                await trio.sleep(0.005)

    async def _ask(self, name: str, rdtype: str) -> set[str]:
        response = await tcp(
            dns.message.make_query(name, rdtype),
            self.host,
            port=self.port,
            backend=get_backend("trio"),
        )
        return {record.to_text() for rrset in response.answer for record in rrset}

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


def _dnsmasq() -> str:
    found = shutil.which("dnsmasq", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is not None:
        return found
    missing = "dnsmasq is not installed: the strategies were NOT tested against a real DNS server"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


@asynccontextmanager
async def open_dns_server(
    folder: Path, *, zones: Iterable[str] = (), host: str = HOST, port: int | None = None
) -> AsyncIterator[DnsServer]:
    """Run a dnsmasq for the length of the block."""
    server = DnsServer(folder, zones=zones, host=host, port=port)
    try:
        await server.start()
        yield server
    finally:
        with trio.move_on_after(5, shield=True):
            await server.stop()


Script = Callable[[dns.message.QueryMessage, bool], Iterable[dns.message.Message | bytes]]
"""What a scripted server sends for a question (and whether it came over TCP), in order."""


@asynccontextmanager
async def open_scripted_dns(script: Script, *, listening: bool = True) -> AsyncIterator[int]:
    """Answer by a script on a port of loopback, which is given; ``listening``: over TCP too."""
    port = free_dns_port()
    with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
        await sock.bind((HOST, port))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_answer_datagrams, sock, script)
            if listening:
                serve = partial(trio.serve_tcp, partial(_answer_stream, script), port, host=HOST)
                await nursery.start(serve)
            yield port
            nursery.cancel_scope.cancel("the test is over")


async def _answer_datagrams(sock: trio.socket.SocketType, script: Script) -> None:
    while True:
        data, address = await sock.recvfrom(65535)
        for answer in script(_parsed(data), False):
            await sock.sendto(_wire(answer), address)


async def _answer_stream(script: Script, stream: trio.SocketStream) -> None:
    async with stream:
        data = b""
        while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2]):
            more = await stream.receive_some()
            if not more:
                return
            data += more
        for answer in script(_parsed(data[2:]), True):
            wire = _wire(answer)
            await stream.send_all(len(wire).to_bytes(2) + wire)


def _parsed(data: bytes) -> dns.message.QueryMessage:
    query = dns.message.from_wire(data)
    assert isinstance(query, dns.message.QueryMessage)
    return query


def _wire(answer: dns.message.Message | bytes) -> bytes:
    return answer if isinstance(answer, bytes) else answer.to_wire()


def reply(
    query: dns.message.QueryMessage,
    *records: str,
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR,
    authority: Iterable[str] = (),
) -> dns.message.Message:
    """An answer to ``query`` with records written as in a zone file: ``"name 60 IN A 10.0.0.1"``.

    Records of other types than the one asked for are left out, aliases excepted.
    """
    response = dns.message.make_response(query)
    response.flags |= dns.flags.RA
    response.set_rcode(rcode)
    asked = dns.rdatatype.to_text(query.question[0].rdtype)
    for section, lines in ((response.answer, records), (response.authority, tuple(authority))):
        for line in lines:
            name, ttl, rdclass, rdtype, text = line.split(maxsplit=4)
            if section is response.answer and rdtype not in {asked, "CNAME"}:
                continue
            record = dns.rdata.from_text(rdclass, rdtype, text, origin=root, relativize=False)
            section.append(dns.rrset.from_rdata(f"{name}.", int(ttl), record))
    return response
