"""Every example, run as its reader would: by hand, without arguments where it needs none."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType

import pytest
import trio

from barnacle_trio import PeerChange, PeerDown, PeerUnreachable, open_node
from barnacle_trio.epmd import names, serve_epmd
from barnacle_trio.strategies import _queries
from tests.beam import open_beam, unique
from tests.cluster_lab import sees
from tests.dns_server import open_dns_server, resolver_for
from tests.elixir import COUNTER, hold
from tests.erlang import Erlang
from tests.ports import free_port
from tests.postgres_server import open_postgres_server

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
COOKIE = "my_cookie"

BY_THEMSELVES = (
    "chat.py",
    "custom_functions.py",
    "custom_strategy.py",
    "events.py",
    "manual.py",
    "own_nursery.py",
    "run_once.py",
    "strategy_dns.py",
    "strategy_dns_srv.py",
    "strategy_epmd.py",
    "strategy_gossip.py",
    "strategy_local_epmd.py",
    "supervised.py",
    "supervision_tree.py",
    "work_queue.py",
)
"""Examples that take no arguments and come to an end."""
WITH_HELP = (
    "call_elixir.py",
    "drain.py",
    "fixed_port.py",
    "kr8s_strategy.py",
    "meet_beam.py",
    "partisan.py",
    "serve_elixir.py",
    "strategy_postgres.py",
    "testing_a_program.py",
    "tls.py",
)
"""Examples with a test of their own, below or in a file beside this one."""

DEADLINE = 30


def docstring(example: str) -> str:
    doc = ast.get_docstring(ast.parse((ROOT / "examples" / example).read_text()))
    assert doc is not None
    return doc


def promised(example: str) -> list[str]:
    """The output that an example's docstring promises."""
    doc = docstring(example)
    found = re.search(rf"^    \$ python examples/{example}.*\n((?:    .*\n?)+)", doc, re.MULTILINE)
    assert found is not None, f"{example} does not show its output"
    return [line.strip() for line in found[1].splitlines()]


def command(example: str, *arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", "-X", "dev", f"examples/{example}", *arguments]


def environ() -> dict[str, str]:
    """Ours, with the test's port mapper, and nothing else of Erlang's."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if name == "ERL_EPMD_PORT" or not name.startswith("ERL_")
    }
    return {**ours, "PYTHONPATH": str(ROOT)}


async def run(*arguments: str) -> tuple[list[str], str]:
    """Run a command to its end; the lines that it printed, and what it told beside them."""
    with trio.fail_after(DEADLINE):
        done = await trio.run_process(
            arguments,
            cwd=ROOT,
            env=environ(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    told = done.stderr.decode()
    assert done.returncode == 0, told
    return done.stdout.decode().splitlines(), told


class Running:
    """A command that stays, and the lines that it prints."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdout is not None
        self._process = process
        self._stream = process.stdout
        self._buffer = b""

    async def line(self) -> str:
        """The next line."""
        with trio.fail_after(DEADLINE):
            await trio.lowlevel.checkpoint()
            while b"\n" not in self._buffer:
                data = await self._stream.receive_some()
                assert data, "it has ended"
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    async def end(self) -> list[str]:
        """Wait for a good end; the lines that were left."""
        with trio.fail_after(DEADLINE):
            async for data in self._stream:
                self._buffer += data
            assert await self._process.wait() == 0
        return self._buffer.decode().splitlines()


@asynccontextmanager
async def started(*arguments: str) -> AsyncIterator[Running]:
    process = await trio.lowlevel.open_process(
        arguments, cwd=ROOT, env=environ(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    try:
        yield Running(process)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        await trio.aclose_forcefully(process.stdout)


def load(example: str) -> ModuleType:
    """An example as a module, without running it."""
    spec = importlib.util.spec_from_file_location(f"example_{example}", ROOT / "examples" / example)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def without_numbers(lines: list[str]) -> list[str]:
    return [re.sub(r"pid \d+", "pid", line) for line in lines]


def test_every_example_is_run_here() -> None:
    assert sorted(BY_THEMSELVES + WITH_HELP) == EXAMPLES


@pytest.mark.parametrize("example", BY_THEMSELVES)
async def test_it_prints_what_it_promises(example: str, epmd_port: int) -> None:
    printed, told = await run(*command(example))
    assert printed == promised(example)
    assert "Exception ignored" not in told
    assert "Warning" not in told
    with pytest.raises(PeerUnreachable):  # nothing is left behind
        await names("localhost", epmd_port)


async def test_a_fixed_port_is_all_it_takes(epmd_port: int) -> None:
    printed, _told = await run(*command("fixed_port.py", str(free_port())))
    assert printed == promised("fixed_port.py")


async def test_certificates_of_ones_own(epmd_port: int, tmp_path: Path) -> None:
    make = re.search(r"^    \$ python (-m trustme .*)$", docstring("tls.py"), re.MULTILINE)
    assert make is not None
    await run(sys.executable, *make[1].split(), "-d", str(tmp_path))
    printed, told = await run(*command("tls.py", str(tmp_path)))
    assert printed == promised("tls.py")
    assert not told


async def test_the_example_of_tests_passes() -> None:
    example = "examples/testing_a_program.py"
    printed, _told = await run(
        sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", example
    )
    assert "3 passed" in printed[-1]


async def test_leaving_well_is_seen_as_such(epmd_port: int) -> None:
    changes: list[PeerChange] = []
    async with started(*command("drain.py")) as program:
        printed = [await program.line()]
        async with open_node(unique("witness"), cookie=COOKIE) as witness:
            witness.subscribe(changes.append)
            await witness.connect("my_app@127.0.0.1")
            program.terminate()
            printed += await program.end()
    assert without_numbers(printed) == without_numbers(promised("drain.py"))
    last = changes[-1]
    assert isinstance(last, PeerDown)
    assert last.reason == "left"


@pytest.mark.parametrize("by", ["name", "port mapper"])
async def test_it_meets_a_beam_node(erlang: Erlang, epmd_port: int, by: str) -> None:
    given = ["my_erlang@127.0.0.1"] if by == "name" else []
    async with started(*command("meet_beam.py", *given)) as program:
        printed = [await program.line()]  # from here on it is a port mapper, too
        async with open_beam(erlang, "my_erlang@127.0.0.1", cookie=COOKIE) as beam:
            printed.append(await program.line())
            await sees(beam, "py@127.0.0.1")
            await beam.kill()
            printed.append(await program.line())
        program.terminate()
        printed += await program.end()
    expected = promised("meet_beam.py")
    if by == "port mapper":
        expected[0] = "py@127.0.0.1 looks for every node of this machine"
    assert printed == expected


async def test_it_calls_a_gen_server(erlang: Erlang, epmd_port: int) -> None:
    assert textwrap.indent(COUNTER.elixir, "    ") in docstring("call_elixir.py")
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_epmd)
        async with open_beam(erlang, "my_elixir@127.0.0.1", cookie=COOKIE) as beam:
            await COUNTER.start(beam, "0")
            printed, told = await run(*command("call_elixir.py"))
        nursery.cancel_scope.cancel()
    assert printed == promised("call_elixir.py")
    assert not told


async def test_it_serves_callers(erlang: Erlang, epmd_port: int) -> None:
    async with started(*command("serve_elixir.py")) as program:
        printed = [await program.line()]
        async with open_beam(erlang, "my_elixir@127.0.0.1", cookie=COOKIE) as beam:
            await hold(beam, docstring("serve_elixir.py"))
        program.terminate()
        printed += await program.end()
    assert printed == promised("serve_elixir.py")


async def test_dns_by_a_name_of_ones_own(
    epmd_port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with (
        open_dns_server(tmp_path) as server,
        open_node("friend@127.0.0.1", cookie=COOKIE),
    ):
        await server.set_records("my-app.test", "127.0.0.1")
        resolver = resolver_for(server.port)

        async def system_resolver(_lifetime: float) -> object:
            await trio.lowlevel.checkpoint()
            return resolver

        monkeypatch.setattr(_queries, "system_resolver", system_resolver)
        with trio.fail_after(DEADLINE):
            await load("strategy_dns.py").main("my-app.test", "friend")
    assert capsys.readouterr().out == "up: friend@127.0.0.1\n"


async def test_they_meet_in_a_database(epmd_port: int) -> None:
    async with open_postgres_server() as server:
        printed, told = await run(*command("strategy_postgres.py", server.dsn()))
        assert printed == promised("strategy_postgres.py")
        assert not told
        with server.in_environment():
            printed, told = await run(*command("strategy_postgres.py", "", "my_cluster"))
        assert printed == promised("strategy_postgres.py")
