"""The `barnacle` command as real processes: run to their end, or watched while they run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from tests.beam import COOKIE

DEADLINE = 30
CLOCK = r"\d\d:\d\d:\d\d\.\d\d\d  "


def environ(home: Path | None = None, **more: str) -> dict[str, str]:
    """Ours, without what would name a node or give it a cookie."""
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in ("ERL_FLAGS", "ERL_AFLAGS", "ERL_ZFLAGS", "FORCE_COLOR", "COLUMNS")
    }
    env |= {
        "BARNACLE_COOKIE": COOKIE,
        "HOME": str(home or "/nonexistent"),
        "PYTHONWARNINGS": "always::ResourceWarning",
    }
    return env | more


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "barnacle_trio", *arguments]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


async def barnacle(*arguments: str, env: Mapping[str, str] | None = None) -> Ended:
    """Run a command to its end."""
    with trio.fail_after(DEADLINE):
        done = await trio.run_process(
            command(*arguments),
            env=dict(env or environ()),
            capture_stdout=True,
            capture_stderr=True,
            stdin=b"",
            check=False,
        )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


def assert_fails(ended: Ended, code: int, *fragments: str) -> None:
    """It said why in one line, and nothing else."""
    assert ended.code == code, ended
    assert ended.err.startswith("barnacle: "), ended
    assert ended.err.count("\n") == 1, ended
    assert ended.err.endswith("\n"), ended
    assert "Traceback" not in ended.err
    for fragment in fragments:
        assert fragment in ended.err


def assert_left_well(ended: Ended) -> None:
    """It said at most that a peer cannot be reached, which is so when that one goes first."""
    assert ended.code == 0, ended
    for line in ended.err.splitlines():
        assert re.match(CLOCK + r"barnacle: warning: \[barnacle\] cannot connect ", line), ended


class Running:
    """A command that stays."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._err = bytearray()
        self._more = trio.Event()
        self._ended = trio.Event()

    @property
    def err(self) -> str:
        return self._err.decode()

    async def line(self, fragment: str) -> str:
        """Wait for a line of its output that holds the fragment."""
        seen = 0
        with trio.fail_after(DEADLINE):
            while True:
                for line in self.lines[seen:]:
                    seen += 1
                    if fragment in line:
                        return line
                assert not self._ended.is_set(), (self.lines, self.err)
                await self._more.wait()

    async def event(self, kind: str, **fields: object) -> dict[str, Any]:
        """Wait for an object of its output of that type with those fields, and take it out."""
        with trio.fail_after(DEADLINE):
            while True:
                for line in self.lines:
                    told: dict[str, Any] = json.loads(line)
                    if told["type"] == kind and fields.items() <= told.items():
                        self.lines.remove(line)
                        return told
                assert not self._ended.is_set(), (self.lines, self.err)
                await self._more.wait()

    async def end(self, number: signal.Signals | None = signal.SIGTERM) -> Ended:
        """Send a signal, if any, and wait for the end."""
        if number is not None:
            self.process.send_signal(number)
        with trio.fail_after(DEADLINE):
            code = await self.process.wait()
            await self._ended.wait()
        return Ended(code, "".join(f"{line}\n" for line in self.lines), self.err)

    async def read_output(self) -> None:
        assert self.process.stdout is not None
        rest = b""
        with suppress(trio.ClosedResourceError):  # a test closed it
            async for data in self.process.stdout:
                *lines, rest = (rest + data).split(b"\n")
                self.lines += [line.decode() for line in lines]
                self._more.set()
                self._more = trio.Event()
        self._ended.set()
        self._more.set()

    async def read_errors(self) -> None:
        assert self.process.stderr is not None
        async for data in self.process.stderr:
            self._err += data


@asynccontextmanager
async def running(*arguments: str, env: Mapping[str, str] | None = None) -> AsyncIterator[Running]:
    """Run a command beside the block; it is killed at the block's end if it still runs."""
    process = await trio.lowlevel.open_process(
        command(*arguments),
        env=dict(env or environ()),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        async with trio.open_nursery() as nursery:
            watched = Running(process)
            nursery.start_soon(watched.read_output)
            nursery.start_soon(watched.read_errors)
            try:
                yield watched
            finally:
                nursery.cancel_scope.cancel()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                await trio.aclose_forcefully(pipe)


def runs(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


async def until_gone(*pids: int) -> None:
    """Wait until none of the processes runs."""
    with trio.fail_after(DEADLINE):
        while any(runs(pid) for pid in pids):  # noqa: ASYNC110 - processes are watched
            await trio.sleep(0.02)
