"""The README, run: every Python example, every `barnacle` command, every way to start a BEAM.

An invisible comment before a block says what the block needs, parted by semicolons: ``peer NAME``
is a node that is up, ``beam NAME [SERVER]`` a BEAM node of each release (with a GenServer that is
shown), ``dns NAME ADDRESS`` a record, ``kube ADDRESS`` a pod, ``postgres CHANNEL NAME`` a database
in which that node says its name, ``env NAME=VALUE``, ``file NAME TEXT``, ``port NUMBER`` a number
that a free port takes the place of, ``certificates HOST`` are node.pem, node.key and ca.pem,
``signal NAME`` comes once it is caught. A block of text right after one of Python is what that
prints, and a session of `iex` is had with it while it runs.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import barnacle_trio
from barnacle_trio import Atom, Barnacle, Node, open_barnacle, open_node, postgres
from barnacle_trio.epmd import serve_epmd
from barnacle_trio.strategies import _queries
from tests.beam import Beam, open_beam
from tests.dns_server import open_dns_server, resolver_for
from tests.elixir import COUNTER, SERVERS, hold, to_erlang
from tests.erlang import Erlang, require_erlangs
from tests.kube_fake import open_fake_kube, populate, write_kubeconfig
from tests.ports import free_port
from tests.postgres_server import open_postgres_server
from tests.strictly import type_errors
from tests.tls_lab import TLS_ERLANGS, Lab

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COOKIE = "my_cookie"
DEADLINE = 30


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, what it is, and what it needs."""

    line: int
    language: str
    text: str
    needs: tuple[tuple[str, str], ...]
    prints: str | None
    session: str | None

    def wants(self, what: str) -> list[str]:
        return [value for key, value in self.needs if key == what]


FENCE = re.compile(
    r"^(?:<!-- test: (?P<needs>.*?) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```\n"
    r"(?:\n```text\n(?P<prints>.*?)^```\n)?"
    r"(?:\n```elixir\n(?P<session>iex>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)


def blocks(language: str) -> list[Block]:
    return [
        Block(
            line=README.count("\n", 0, found.start("text")) + 1,
            language=language,
            text=found["text"],
            needs=tuple(
                (key, value)
                for key, _, value in (
                    need.strip().partition(" ") for need in (found["needs"] or "").split(";")
                )
                if key
            ),
            prints=found["prints"],
            session=found["session"],
        )
        for found in FENCE.finditer(README)
        if found["language"] == language
    ]


def named(block: Block) -> str:
    """The heading above a block, and its line."""
    headings = re.findall(r"^#+ (.*)$", "\n".join(README.splitlines()[: block.line]), re.MULTILINE)
    return f"{block.line} {headings[-1]}"


PYTHON = blocks("python")
CONSOLE = blocks("console")
SHELL = blocks("sh")
ERLANG = blocks("erlang")
ELIXIR = blocks("elixir")


def code(block: Block) -> str:
    """A block's Python, without what runs it, its lines numbered as in the README."""
    text = re.sub(r"^trio\.run\(main\)$", "", block.text, flags=re.MULTILINE)
    for number in block.wants("port"):
        text = text.replace(number, str(free_port()))
    return "\n" * (block.line - 1) + text


def test_there_is_something_to_run() -> None:
    assert len(PYTHON) > 15
    assert len(CONSOLE) > 1
    beside = README.count("\n```text\n") + README.count("\n```elixir\niex>")
    assert README.count("```") == 2 * len(FENCE.findall(README)) + 2 * beside
    assert README.count("<!-- test:") == sum(bool(b.needs) for b in [*PYTHON, *CONSOLE])


# -- Python ---------------------------------------------------------------------------------------


@pytest.fixture
def prepared(
    request: pytest.FixtureRequest,
    epmd_port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Block:
    """A block, in the folder and the environment that it needs."""
    block: Block = request.param
    monkeypatch.chdir(tmp_path)
    for name in ("ERL_FLAGS", "ERL_AFLAGS", "ERL_ZFLAGS"):
        monkeypatch.delenv(name, raising=False)
    for setting in block.wants("env"):
        monkeypatch.setenv(*setting.split("=", 1))
    for file in block.wants("file"):
        name, text = file.split(" ", 1)
        (tmp_path / name).write_text(text)
    for hosts in block.wants("certificates"):
        Lab(tmp_path).options(*hosts.split())
    return block


@contextlib.asynccontextmanager
async def surroundings(
    block: Block, folder: Path, erlang: Erlang | None = None
) -> AsyncIterator[list[Beam]]:
    """The peers and the DNS that a block needs; its BEAM nodes."""
    beams: list[Beam] = []
    async with contextlib.AsyncExitStack() as stack:
        if block.wants("beam"):
            nursery = await stack.enter_async_context(trio.open_nursery())
            stack.callback(nursery.cancel_scope.cancel)
            await nursery.start(serve_epmd)
        for wanted in block.wants("beam"):
            assert erlang is not None
            name, *shown = wanted.split()
            beam = await stack.enter_async_context(open_beam(erlang, name, cookie=COOKIE))
            for each in shown:
                await SERVERS[each].start(beam, "0")
            beams.append(beam)
        for peer in block.wants("peer"):
            await stack.enter_async_context(open_node(peer, cookie=COOKIE))
        if block.wants("dns"):
            server = await stack.enter_async_context(open_dns_server(folder))
            for record in block.wants("dns"):
                await server.set_records(*record.split())
            stack.enter_context(every_resolver_asks(server.port))
        for wanted in block.wants("postgres"):
            postgres_server = await stack.enter_async_context(open_postgres_server())
            stack.enter_context(postgres_server.in_environment())
            channel, peer = wanted.split()
            node = await stack.enter_async_context(open_node(peer, cookie=COOKIE))
            strategy = postgres(postgres_server.dsn(), channel=channel)
            await stack.enter_async_context(open_barnacle(strategy, node))
        for pods in block.wants("kube"):
            kube = await stack.enter_async_context(open_fake_kube())
            populate(kube, *pods.split())
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setenv("KUBECONFIG", str(write_kubeconfig(kube, folder)))
        yield beams


@contextlib.contextmanager
def every_resolver_asks(port: int) -> Iterator[None]:
    async def system_resolver(_lifetime: float) -> object:
        await trio.lowlevel.checkpoint()
        return resolver_for(port)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_queries, "system_resolver", system_resolver)
        yield


async def send_when_caught(name: str) -> None:
    number = signal.Signals[name]
    while signal.getsignal(number) is signal.SIG_DFL:  # noqa: ASYNC110 - nobody tells
        await trio.sleep(0.01)
    os.kill(os.getpid(), number)


async def play(
    block: Block, main: Callable[[], Awaitable[None]], folder: Path, erlang: Erlang | None
) -> None:
    with trio.fail_after(DEADLINE):
        async with surroundings(block, folder, erlang) as beams, trio.open_nursery() as nursery:
            for name in block.wants("signal"):
                nursery.start_soon(send_when_caught, name)
            if block.session is None:
                await main()
            else:
                (beam,) = beams
                nursery.start_soon(main)
                await hold(beam, block.session, patiently=True)
                nursery.cancel_scope.cancel("all has been asked")


def plays() -> Iterator[Any]:
    """Every Python block, with each Erlang where it needs one."""
    for block in PYTHON:
        for erlang in require_erlangs() if block.wants("beam") else [None]:
            which = named(block) if erlang is None else f"{named(block)}, {erlang}"
            yield pytest.param(block, erlang, id=which)


@pytest.mark.parametrize(("prepared", "otp"), list(plays()), indirect=["prepared"])
def test_a_python_block_runs(prepared: Block, otp: Erlang | None, tmp_path: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "readme"}
    exec(compile(code(prepared), "README.md", "exec"), namespace)  # noqa: S102 - it is ours
    tests = [value for name, value in namespace.items() if name.startswith("test_")]
    assert tests or "main" in namespace
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for test in tests:
            clock = MockClock(autojump_threshold=0)
            trio.run(partial(test, clock), clock=clock)
        if not tests:
            trio.run(play, prepared, namespace["main"], tmp_path, otp)
    if prepared.prints is not None:
        assert printed.getvalue() == prepared.prints


def test_the_python_blocks_type_check(tmp_path: Path) -> None:
    modules = {f"line_{block.line}": code(block) for block in PYTHON}
    assert type_errors(tmp_path, modules) == []


# -- commands -------------------------------------------------------------------------------------


def alike(line: str) -> str:
    """A line without what differs from run to run: numbers, and the space that they take."""
    return re.sub(r"\s+", " ", re.sub(r"\d+(\.\d+)?", "0", line)).strip()


def commands(block: Block) -> Iterator[tuple[list[str], list[str]]]:
    """Each command of a block, with the lines that it prints."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, *lines = part.splitlines()
        yield shlex.split(command), lines


async def listen(process: trio.Process) -> AsyncGenerator[str, None]:
    """The lines that a process prints, as they come."""
    assert process.stdout is not None
    buffer = b""
    async for data in process.stdout:
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            yield line.decode()
    assert not buffer


async def run_command(arguments: list[str], expected: list[str]) -> None:
    """Run a command, interrupt it where the block says ``^C``, and compare what it prints."""
    before = expected[: expected.index("^C")] if "^C" in expected else None
    process = await trio.lowlevel.open_process(
        [sys.executable, "-W", "error", "-m", "barnacle_trio", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    printed: list[str] = []
    try:
        async with contextlib.aclosing(listen(process)) as lines:
            async for line in lines:
                printed.append(line)
                if before is not None and len(printed) == len(before):
                    process.send_signal(signal.SIGINT)
        code = await process.wait()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        await trio.aclose_forcefully(process.stdout)
    shown = [line for line in expected if line != "^C"]
    assert list(map(alike, printed)) == list(map(alike, shown))
    assert (code != 0) == any(line.startswith("barnacle: ") for line in shown)


@pytest.mark.parametrize("prepared", CONSOLE, ids=named, indirect=True)
async def test_a_console_block_prints_what_it_shows(prepared: Block, tmp_path: Path) -> None:
    async with surroundings(prepared, tmp_path):
        for (program, *arguments), expected in commands(prepared):
            assert program == "barnacle", "say in a block of another kind what is not run here"
            with trio.fail_after(DEADLINE):
                await run_command(arguments, expected)


# -- BEAM nodes -----------------------------------------------------------------------------------


def beams() -> list[str]:
    """The lines that start a BEAM node by flags that ``erl`` knows."""
    lines = [line for block in SHELL for line in block.text.splitlines()]
    return [line for line in lines if line.startswith(("erl ", "ERL_FLAGS="))]


def flags(line: str) -> list[str]:
    words = shlex.split(line)
    return words[1:] if words[0] == "erl" else shlex.split(words[0].removeprefix("ERL_FLAGS="))


@pytest.mark.parametrize("line", beams())
async def test_a_beam_node_started_so_is_met(line: str, erlang: Erlang, epmd_port: int) -> None:
    match flags(line):
        case ["-name", name, "-setcookie", cookie]:
            pass
        case other:
            pytest.fail(f"not understood: {other}")
    async with (
        open_node("my_app@127.0.0.1", cookie=COOKIE) as node,
        open_beam(erlang, name, cookie=cookie, epmd=True),
    ):
        with trio.fail_after(DEADLINE):
            assert await node.ping(name)


async def test_it_looks_from_erlang_as_it_is_shown(erlang: Erlang, epmd_port: int) -> None:
    block = ERLANG[0]
    async with (
        open_node("my_app@127.0.0.1", cookie=COOKIE),
        open_beam(erlang, "my_erlang@127.0.0.1", cookie=COOKIE) as beam,
    ):
        for asked, answer in re.findall(r"^\d+> (.*)\n(.*)$", block.text, re.MULTILINE):
            assert await beam.eval(asked) == answer


async def test_a_beam_node_with_the_options_for_tls_is_met(
    epmd_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, block = ERLANG
    monkeypatch.chdir(tmp_path)
    tls = Lab(tmp_path).for_erlang(file="node")
    options = tmp_path / "ssl.conf"
    options.write_text(block.text)
    given = ("-proto_dist", "inet_tls", "-ssl_dist_optfile", str(options))
    async with (
        open_node("my_app@127.0.0.1", cookie=COOKIE, tls=tls) as node,
        open_beam(TLS_ERLANGS[0], "my_erlang@127.0.0.1", cookie=COOKIE, flags=given) as beam,
    ):
        with trio.fail_after(DEADLINE):
            assert await node.ping(beam.name)


# -- Elixir ---------------------------------------------------------------------------------------


def test_every_module_has_a_twin_and_every_session_is_had() -> None:
    assert [block.text for block in ELIXIR] == [COUNTER.elixir]
    assert all(block.wants("beam") for block in PYTHON if block.session)


def terms() -> list[tuple[str, str, str]]:
    """Each term of the table: sent by Python, as Elixir has it, and as it comes back."""
    _, _, rest = README.partition("\n### Terms\n")
    table, _, _ = rest.partition("\n### ")
    found: list[tuple[str, str, str]] = []
    for row in table.splitlines():
        if row.startswith("| `"):
            sent, there, back = (re.findall(r"`([^`]+)`", cell) for cell in row.split(" | "))
            found += zip(sent, there, back or sent, strict=True)
    return found


async def test_terms_become_what_the_table_says(erlang: Erlang, epmd_port: int) -> None:
    assert len(terms()) > 10
    async with (
        open_node("my_app@127.0.0.1", cookie=COOKIE) as node,
        node.open_mailbox("inbox") as inbox,
        open_beam(erlang, "my_elixir@127.0.0.1", cookie=COOKIE) as beam,
    ):
        await beam.eval("register(shell, self())")
        for sent, there, back in terms():
            await node.send(("shell", beam.name), eval(sent, {"Atom": Atom}))  # noqa: S307 - ours
            same = f"receive Term -> Term =:= ({to_erlang(there)}) end"
            assert await beam.eval(same) == "true", there
            await beam.eval(f"{{inbox, '{node.name}'}} ! {to_erlang(there)}")
            with trio.fail_after(DEADLINE):
                got = await inbox.receive()
            assert repr(got) == repr(eval(back, {"Atom": Atom}))  # noqa: S307 - ours


# -- what it says elsewhere -----------------------------------------------------------------------


def test_ci_calls_the_very_test_command() -> None:
    (command,) = (
        line.rpartition("&& ")[2]
        for block in SHELL
        for line in block.text.splitlines()
        if "pytest" in line
    )
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_every_link_within_leads_somewhere() -> None:
    anchors = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", README)):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif not target.startswith("https://"):
            assert (ROOT / target).exists(), target


def test_every_example_is_mentioned() -> None:
    examples = {f"examples/{path.name}" for path in (ROOT / "examples").glob("*.py")}
    assert examples <= set(re.findall(r"\]\(([^)\s]+)\)", README))


@pytest.mark.parametrize("section", ["Coming from Barnacle", "Coming from libcluster"])
def test_what_others_names_became_exists(section: str) -> None:
    _, _, rest = README.partition(f"\n## {section}\n")
    table, _, _ = rest.partition("\n## ")
    told = [row.split(" | ")[1] for row in table.splitlines() if " | " in row][1:]
    assert len(told) > 5
    places = {"barnacle": Barnacle, "node": Node, "NodeName(node)": barnacle_trio.NodeName}
    for span in (each for row in told for each in re.findall(r"`([^`]+)`", row)):
        for name, attribute in re.findall(r"\b([A-Za-z_]{4,})(?:\.([a-z_]+))?\(", span):
            if name in places:
                assert hasattr(places[name], attribute), span
            elif name not in ("fail_after", "trio"):
                assert name in barnacle_trio.__all__, span
        for name in re.findall(r"\b([A-Z][a-z]+[A-Za-z]*)\b", span):
            assert name in (*barnacle_trio.__all__, "True"), span
