"""An authoritative DNS server for tests: Knot DNS, whose records change while it runs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import dns.message
import dns.rcode
import dns.update
import pytest
import trio
from dns.asyncbackend import get_backend
from dns.asyncquery import tcp

from tests.dns_server import HOST, free_dns_port

_CONFIG = """
server:
  rundir: "{folder}"
  listen: {host}@{port}
{user}
database:
  storage: "{folder}"
acl:
  - id: tests
    address: {host}
    action: update
template:
  - id: default
    storage: "{folder}"
    file: "%s.zone"
    acl: tests
    journal-content: none
    zonefile-load: whole
    zonefile-sync: -1
zone:
{zones}
"""
_ZONE = """
@ 60 SOA ns root 1 3600 600 86400 1
@ 60 NS ns
ns 60 A 127.0.0.1
empty 60 TXT "nothing else"
"""


class KnotServer:
    """A knotd that serves some zones. Made by its opener."""

    def __init__(self, folder: Path, zones: tuple[str, ...]) -> None:
        self.port = free_dns_port()
        self._program = _knotd()
        self._zones = zones
        self._log = folder / "knotd.log"
        self._config = folder / "knot.conf"
        self._process: trio.Process | None = None
        for zone in zones:
            (folder / f"{zone}.zone").write_text(f"$ORIGIN {zone}.\n{_ZONE}")
        text = _CONFIG.format(
            folder=folder,
            host=HOST,
            port=self.port,
            user="  user: root" if os.geteuid() == 0 else "",
            zones="".join(f"  - domain: {zone}\n" for zone in zones),
        )
        self._config.write_text(text)

    async def start(self) -> None:
        """Start it, with the records that it had at first, and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = await trio.lowlevel.open_process(
                [self._program, "-c", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        with trio.fail_after(10):
            for zone in self._zones:
                while not await self._serves(zone):
                    assert self._process.poll() is None, self._log.read_text()
                    await trio.sleep(0.005)

    async def stop(self) -> None:
        """End it, frozen or not; its port stays its own for another start."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Have it answer nobody, while the kernel takes what is sent."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        while any(state != "T" for state in self._states()):  # it has many threads
            time.sleep(0.001)

    def _states(self) -> list[str]:
        assert self._process is not None
        tasks = Path(f"/proc/{self._process.pid}/task").glob("*/stat")
        return [task.read_text().rpartition(") ")[2][0] for task in tasks]

    def thaw(self) -> None:
        """Undo `freeze`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def set_records(self, name: str, rdtype: str, *texts: str) -> None:
        """Give a name these records of a type and no others, or none; served at the return."""
        zone = next(zone for zone in self._zones if name.endswith(f".{zone}"))
        update = dns.update.UpdateMessage(zone)
        update.delete(f"{name}.", rdtype)
        for text in texts:
            update.add(f"{name}.", 60, rdtype, text)
        response = await self._send(update)
        assert response.rcode() == dns.rcode.NOERROR, dns.rcode.to_text(response.rcode())

    async def set_targets(self, name: str, *targets: str) -> None:
        """Give a name SRV records with these targets and no others."""
        await self.set_records(name, "SRV", *(f"0 0 4000 {target}." for target in targets))

    async def _serves(self, zone: str) -> bool:
        try:
            response = await self._send(dns.message.make_query(f"{zone}.", "SOA"))
        except (OSError, EOFError, trio.BrokenResourceError):
            return False
        return bool(response.answer)

    async def _send(self, message: dns.message.Message) -> dns.message.Message:
        backend = get_backend("trio")
        return await tcp(message, HOST, port=self.port, timeout=5, backend=backend)


def _knotd() -> str:
    found = shutil.which("knotd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is not None:
        return found
    missing = "knotd is not installed: SRV records were NOT tested while they change"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


@asynccontextmanager
async def open_knot_server(*zones: str) -> AsyncIterator[KnotServer]:
    """Run a knotd for the length of the block, in a folder short enough for its socket."""
    with TemporaryDirectory(prefix="knot-") as folder:
        server = KnotServer(Path(folder), zones or ("test",))
        try:
            await server.start()
            yield server
        finally:
            with trio.move_on_after(5, shield=True):
                await server.stop()
