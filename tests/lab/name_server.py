"""A real DNS server on a host of the laboratory, and the ways in which it lets others down."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import trio
from dns.exception import DNSException
from dns.message import make_query
from dns.query import tcp
from dns.rcode import to_text

from tests.lab.network import ROOT, Host

ZONE = "lab"
QUERY = f"nodes.{ZONE}"
KINDS = ("empty", "nx", "servfail", "huge", "stale", "slow", "silent", "dead")
"""What may be wrong with it, see `NameServer.failing`."""
HUGE = 1000
"""Addresses in an answer that is huge: more than a datagram, and than a sane cluster, has."""

_CONFIG = """
server:
  rundir: "{folder}"
  listen: {address}@53
  user: root
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
database:
  storage: "{folder}"
zone:
  - domain: {zone}
    storage: "{folder}"
    file: "{zone}.zone"
    journal-content: none
    zonefile-load: whole
"""
_ZONE = """
@ 0 SOA ns root 1 3600 600 86400 0
@ 0 NS ns
ns 0 A 127.0.0.1
"""


class NameServer:
    """Knot DNS on a host of its own. Made by `open_name_server`.

    Args:
      host: where it runs.
      folder: for what it reads.
      addresses: of the nodes that it names when all is well.
      strangers: addresses of nodes that are no more, or never were.
    """

    def __init__(
        self, host: Host, folder: Path, addresses: Sequence[str], strangers: Sequence[str]
    ) -> None:
        self.host = host
        self._folder = folder
        self._addresses = addresses
        self._strangers = strangers
        self._process: trio.Process | None = None
        program = shutil.which("knotd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        assert program is not None, "the laboratory needs 'knotd' (Debian: apt-get install knot)"
        self._program = program
        (folder / "knot.conf").write_text(
            _CONFIG.format(folder=folder, address=host.address, zone=ZONE)
        )

    async def mend(self) -> None:
        """Have it name all nodes, and nobody else."""
        await self._serve(self._records(self._addresses), "NOERROR")

    @asynccontextmanager
    async def failing(self, kind: str) -> AsyncIterator[None]:
        """Have it let others down within the block.

        Args:
          kind: ``empty`` (the name has no address), ``nx`` (there is no such name), ``servfail``
            (it has lost its zone), ``huge`` (a thousand strangers before the nodes), ``stale``
            (strangers before the nodes, one of which is missing), ``slow`` (it answers every
            second only), ``silent`` (it answers nobody), ``dead`` (there is nobody).
        """
        async with trio.open_nursery() as nursery:
            await self._fail(kind, nursery)
            yield
            nursery.cancel_scope.cancel("it is mended")
        await self.mend()

    async def _fail(self, kind: str, nursery: trio.Nursery) -> None:
        if kind == "empty":
            await self._serve('nodes 0 TXT "no address"\n', "NOERROR")
        elif kind == "nx":
            await self._serve("", "NXDOMAIN")
        elif kind == "servfail":
            await self._serve(None, "SERVFAIL")
        elif kind == "huge":
            many = [f"192.0.{2 + at // 250}.{1 + at % 250}" for at in range(HUGE)]
            await self._serve(self._records([*many, *self._addresses]), "NOERROR")
        elif kind == "stale":
            records = self._records([*self._strangers, *self._addresses[:-1]])
            await self._serve(records, "NOERROR")
        elif kind == "slow":
            nursery.start_soon(self._breathe)
        elif kind == "silent":
            self._signal(signal.SIGSTOP)
        else:
            assert kind == "dead", kind
            await self.stop()

    async def stop(self) -> None:
        """End it, whatever state it is in."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    async def _breathe(self) -> None:
        while True:
            self._signal(signal.SIGSTOP)
            await trio.sleep(0.9)
            self._signal(signal.SIGCONT)
            await trio.sleep(0.1)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _records(self, addresses: Iterable[str]) -> str:
        return "".join(f"nodes 0 A {address}\n" for address in addresses)

    async def _serve(self, records: str | None, expected: str) -> None:
        """Start it anew with such a zone, or without its file, and wait for such answers."""
        await self.stop()
        file = self._folder / f"{ZONE}.zone"
        file.unlink(missing_ok=True)
        if records is not None:
            file.write_text(f"$ORIGIN {ZONE}.\n{_ZONE}{records}")
        log = self._folder / "knotd.log"
        with log.open("ab") as output:
            self._process = await trio.lowlevel.open_process(
                self.host.command(self._program, "-c", str(self._folder / "knot.conf")),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        with trio.fail_after(20):
            asking = self.host.command(sys.executable, "-m", __name__, self.host.address, expected)
            await trio.run_process(asking, cwd=ROOT)


@asynccontextmanager
async def open_name_server(
    host: Host, addresses: Sequence[str], strangers: Sequence[str]
) -> AsyncIterator[NameServer]:
    """Run one that names all nodes, in a folder short enough for its socket."""
    with TemporaryDirectory(prefix="lab-") as folder:
        server = NameServer(host, Path(folder), addresses, strangers)
        try:
            await server.mend()
            yield server
        finally:
            with trio.move_on_after(5, shield=True):
                await server.stop()


def ask_until(address: str, expected: str) -> None:
    """Ask, on the host where this runs, until there is an answer of that kind."""
    answer = None
    while answer != expected:
        try:
            answer = to_text(tcp(make_query(QUERY, "A"), address, timeout=1).rcode())
        except (OSError, EOFError, DNSException):
            time.sleep(0.01)


if __name__ == "__main__":
    ask_until(*sys.argv[1:])
