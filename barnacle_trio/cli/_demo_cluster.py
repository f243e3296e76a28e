"""The demo's nodes: child processes that can be killed and frozen, and what each of them sees."""

from __future__ import annotations

import errno
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import trio

import barnacle_trio
from barnacle_trio import AsyncValue
from barnacle_trio._values import Settable
from barnacle_trio.cli._edge import Failed, one_line
from barnacle_trio.epmd._listening import LOOPBACK

HOST = "127.0.0.1"
POLL_INTERVAL = 1.0
FAILURE_TIMEOUT = 2.0
"""Seconds of silence after which the demo's nodes give each other up."""

_KILL_DEADLINE = 5.0  # seconds for the kernel to end what was killed
_PORTS = range(20_000, 32_000)  # below those that Linux and macOS hand out to clients

Life = Literal["absent", "starting", "up", "killed", "frozen", "left"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One node as the demo knows it: how it is, its process, and whom it says that it sees."""

    name: str
    life: Life = "absent"
    pid: int | None = None
    sees: frozenset[str] = frozenset()


_GUARD = 'kill -STOP "$0"; read -r _; kill -CONT "$0"'

Sight = tuple[Row, ...]
"""Who sees whom."""


class Cluster:
    """Three processes, each of which is a node; this process is none. Made by `open_cluster`."""

    def __init__(self, names: Iterable[str], port: int, nursery: trio.Nursery) -> None:
        self.port = port
        """The port mapper's."""
        self.reasons: dict[tuple[str, str], str] = {}
        """Why the first saw the second go down, the last time."""
        self._cookie = secrets.token_hex(16)
        self._nursery = nursery
        self._rows = Settable[Sight](tuple(Row(name=name) for name in names))
        self._processes: dict[str, trio.Process] = {}
        self._guard: trio.Process | None = None

    @property
    def sight(self) -> AsyncValue[Sight]:
        """Who sees whom, live."""
        return self._rows.view

    @property
    def names(self) -> list[str]:
        """The nodes' names without their host."""
        return [row.name for row in self._rows.value]

    def row(self, name: str) -> Row:
        """How one node is."""
        return next(row for row in self._rows.value if row.name == name)

    def command(self, name: str) -> list[str]:
        """What starts a node, without the program."""
        return [
            *("run", "--name", f"{name}@{HOST}", "--json", "--until-eof"),
            *("--poll-interval", f"{POLL_INTERVAL:g}", "--failure-timeout", f"{FAILURE_TIMEOUT:g}"),
            "local-epmd",
        ]

    async def start(self, name: str) -> None:
        """Start a process for a node."""
        # The same code as this, wherever it lies: `-P` keeps the current folder out.
        code = str(Path(barnacle_trio.__file__).parent.parent)
        env = {key: value for key, value in os.environ.items() if not key.startswith("ERL_")}
        env |= {
            "ERL_EPMD_PORT": str(self.port),
            "BARNACLE_COOKIE": self._cookie,
            "PYTHONPATH": os.pathsep.join(filter(None, [code, env.get("PYTHONPATH")])),
        }
        process = await trio.lowlevel.open_process(
            [sys.executable, "-P", "-m", "barnacle_trio", *self.command(name)],
            # A node leaves when its input ends, that is, when this process is gone.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            process_group=0,  # Ctrl-C at the terminal is for this process alone
        )
        self._processes[name] = process
        self._change(name, life="starting", pid=process.pid, sees=frozenset())
        self._nursery.start_soon(self._follow, name, process)

    async def kill(self, name: str) -> None:
        """End a node without a chance to say anything."""
        process = self._processes[name]
        self._change(name, life="killed")
        process.send_signal(signal.SIGKILL)
        await process.wait()

    async def freeze(self, name: str) -> None:
        """Stop a process: its sockets stay open, and nobody answers."""
        self._change(name, life="frozen")
        # Done by a guard, which lets it go on when the guard's input ends: also when this process
        # is killed, for a stopped process cannot see that its own input has ended.
        self._guard = await trio.lowlevel.open_process(
            ["/bin/sh", "-c", _GUARD, str(self._processes[name].pid)],
            stdin=subprocess.PIPE,
            process_group=0,
        )

    async def thaw(self, name: str) -> None:
        """Let a stopped process go on."""
        await self._dismiss_guard()
        self._change(name, life="up")

    async def _dismiss_guard(self) -> None:
        await trio.lowlevel.checkpoint()
        guard, self._guard = self._guard, None
        if guard is not None and guard.stdin is not None:
            await guard.stdin.aclose()
            await guard.wait()

    async def leave(self, name: str) -> int:
        """Ask a node to leave, and return its exit code."""
        process = self._processes[name]
        self._change(name, life="left")
        process.send_signal(signal.SIGTERM)
        return await process.wait()

    async def end_all(self) -> None:
        """End every process that still runs, frozen ones too."""
        await self._dismiss_guard()
        for process in self._processes.values():
            if process.returncode is None:
                process.kill()
        for process in self._processes.values():
            await process.wait()

    async def _follow(self, name: str, process: trio.Process) -> None:
        """Read what one process says until it ends, which it should not do by itself."""
        assert process.stdin is not None  # noqa: S101 - a pipe
        assert process.stdout is not None  # noqa: S101 - a pipe
        assert process.stderr is not None  # noqa: S101 - a pipe
        complaints = bytearray()
        async with process.stdin, process.stdout, process.stderr, trio.open_nursery() as nursery:
            nursery.start_soon(_keep_last, process.stderr, complaints)
            await _each_line(process.stdout, lambda line: self._hear(name, line))
            code = await process.wait()
        life = self.row(name).life
        if life not in ("killed", "left"):
            last = complaints.decode(errors="replace").strip().rpartition("\n")[2]
            raise Failed(f"{name} ended by itself with exit code {code}: {one_line(last)}")
        self._change(name, sees=frozenset())

    def _hear(self, name: str, line: bytes) -> None:
        told = json.loads(line)
        row = self.row(name)
        other = str(told.get("node", "")).partition("@")[0]
        match told["type"]:
            case "Started":
                self._change(name, life="up")
            case "NodeUp":
                self._change(name, sees=row.sees | {other})
            case "NodeDown":
                self.reasons[name, other] = told["reason"]
                self._change(name, sees=row.sees - {other})

    def _change(self, name: str, **changes: Any) -> None:
        self._rows.value = tuple(
            replace(row, **changes) if row.name == name else row for row in self._rows.value
        )


@asynccontextmanager
async def open_cluster(names: Iterable[str]) -> AsyncIterator[Cluster]:
    """Have a cluster for as long as the block runs; then every process of it has ended.

    Raises:
      Failed: from the block's end, in a group: a node ended by itself.
    """
    with _port_of_our_own() as port:
        async with trio.open_nursery() as nursery:
            cluster = Cluster(names, port, nursery)
            try:
                yield cluster
            finally:
                with trio.move_on_after(_KILL_DEADLINE, shield=True):
                    await cluster.end_all()
                nursery.cancel_scope.cancel("the demo is over")


@contextmanager
def _port_of_our_own() -> Iterator[int]:
    """A port for a port mapper that nothing on this host uses, in either family.

    Between two port mappers nobody listens there. A UDP socket of the same number, at which
    nothing is ever received, keeps other demos away all the time.
    """
    for port in random.sample(_PORTS, 100):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
            try:
                held.bind((HOST, port))
            except OSError:
                continue
            if all(_is_free(address, port) for address in LOOPBACK):
                yield port
                return
    raise Failed("no free port was found on loopback")


def _is_free(address: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.bind((address, port))
    except OSError as error:
        return error.errno != errno.EADDRINUSE  # an address that is missing is nobody's
    return True


async def _each_line(stream: trio.abc.ReceiveStream, take: Callable[[bytes], None]) -> None:
    rest = b""
    async for data in stream:
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            take(line)


async def _keep_last(stream: trio.abc.ReceiveStream, text: bytearray, size: int = 4096) -> None:
    async for data in stream:
        text += data
        del text[:-size]
