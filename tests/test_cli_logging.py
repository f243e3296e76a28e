"""The log beside the events: on one screen nothing is told twice."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from tests.beam import unique
from tests.cli_lab import CLOCK, assert_fails, barnacle, command, environ


class Screen:
    """A terminal on which a command runs, and what stands on it."""

    def __init__(self, descriptor: int) -> None:
        self._stream = trio.lowlevel.FdStream(descriptor)
        self._text = ""

    @property
    def lines(self) -> list[str]:
        return self._text.splitlines()

    async def until(self, fragment: str, *, times: int = 1) -> None:
        with trio.fail_after(30):
            while self._text.count(fragment) < times:
                self._text += (await self._stream.receive_some()).decode()

    async def rest(self) -> None:
        with trio.fail_after(30), suppress(OSError, trio.BrokenResourceError):
            async for data in self._stream:
                self._text += data.decode()

    async def aclose(self) -> None:
        await self._stream.aclose()


@asynccontextmanager
async def on_a_screen(*arguments: str) -> AsyncIterator[tuple[Screen, trio.Process]]:
    ours, theirs = os.openpty()
    screen = Screen(ours)
    try:
        process = await trio.lowlevel.open_process(
            command(*arguments),
            env=environ(),
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
        )
    finally:
        os.close(theirs)
    try:
        yield screen, process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        await screen.aclose()


@pytest.mark.parametrize("loud", [False, True])
async def test_a_trouble_is_told_once_on_one_screen(epmd_port: int, loud: bool) -> None:
    absent = unique("absent")
    told = ("run", "--name", unique("a"), "--poll-interval", "0.2", f"epmd:{absent}")
    async with on_a_screen(*told, *(["-v"] if loud else [])) as (screen, process):
        await screen.until(f"no way     {absent}")
        process.send_signal(signal.SIGTERM)
        await screen.rest()
        assert await process.wait() == 0
    troubles = [line for line in screen.lines if absent in line]
    assert len(troubles) == (2 if loud else 1)
    assert all(re.match(CLOCK, line) for line in screen.lines if "Traceback" not in line)


async def test_a_trouble_of_discovery_is_told_once_on_one_screen(epmd_port: int) -> None:
    told = ("run", "--name", unique("a"), "--poll-interval", "0.2", "erlang-hosts:/nonexistent")
    async with on_a_screen(*told) as (screen, process):
        await screen.until("discovery  failed: no such file: /nonexistent")
        process.send_signal(signal.SIGTERM)
        await screen.rest()
    assert sum("/nonexistent" in line for line in screen.lines) == 1


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["run", "--name", "x@127.0.0.1", "--allow", "[", "local-epmd"], "a '[' is not closed"),
        (["discover", "local-epmd:[a-"], "'[a-' matches no node name: a '[' is not closed"),
        (["discover", "epmd:a@h", "--match", "a b"], "without spaces"),
        (["discover", "epmd:a@h", "--match", ""], "it is empty"),
    ],
)
async def test_a_broken_glob_is_refused(
    epmd_port: int, arguments: list[str], fragment: str
) -> None:
    assert_fails(await barnacle(*arguments), 2, fragment)
