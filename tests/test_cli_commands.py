"""The commands as real processes, among themselves."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
from datetime import datetime
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
import trio

from barnacle_trio import PeerUnreachable
from barnacle_trio.epmd import names
from tests.beam import COOKIE, unique
from tests.cli_lab import (
    CLOCK,
    assert_fails,
    assert_left_well,
    barnacle,
    command,
    environ,
    running,
    until_gone,
)

F_SETPIPE_SZ = 1031  # Linux; not in Python's fcntl before 3.10


# --- version, extra, faults ---------------------------------------------------------------------


async def test_the_version() -> None:
    ended = await barnacle("--version")
    assert (ended.code, ended.out) == (0, f"{version('barnacle-trio')}\n")


def test_the_command_is_installed_under_its_name() -> None:
    (script,) = entry_points(group="console_scripts", name="barnacle")
    assert script.value == "barnacle_trio.__main__:main"
    assert callable(script.load())


@pytest.mark.parametrize("missing", ["cyclopts", "rich"])
async def test_without_the_extra_one_line_says_what_to_install(missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['barnacle', 'demo']; "
        "from barnacle_trio.__main__ import main; main()"
    )
    done = await trio.run_process(
        [sys.executable, "-c", code], capture_stdout=True, capture_stderr=True, check=False
    )
    assert done.returncode != 0
    assert done.stderr.decode() == (
        "barnacle: the command line needs an extra: pip install 'barnacle-trio[cli]'\n"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "fragment"),
    [
        (["rnu"], 2, 'Did you mean "run"'),
        (["run", "--name", "x@127.0.0.1", "nonsense"], 2, "is not a strategy"),
        (["ping", "x@127.0.0.1"], 1, "pang from x@127.0.0.1: no port mapper answers"),
        (["names"], 1, "no port mapper answers at 'localhost'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
async def test_what_is_wrong_is_one_line(
    arguments: list[str], code: int, fragment: str, epmd_port: int
) -> None:
    ended = await barnacle(*arguments)
    assert_fails(ended, code, fragment)
    assert ended.out == ""


async def test_a_fault_in_the_program_is_one_line_and_a_traceback_only_on_request() -> None:
    code = (
        "import sys; from barnacle_trio.cli import _ask, _main\n"
        "async def broken(*args, **kwargs): raise KeyError('oops')\n"
        "_ask.names = broken\n"
        "sys.exit(_main.run_command_line(sys.argv[1:]))"
    )
    for verbose in ([], ["-v"]):
        done = await trio.run_process(
            [sys.executable, "-c", code, "names", *verbose], capture_stderr=True, check=False
        )
        err = done.stderr.decode()
        assert done.returncode == 70
        assert err.endswith("barnacle: internal error: KeyError: 'oops' (-v shows where)\n")
        assert ("Traceback" in err) == bool(verbose)


# --- run ----------------------------------------------------------------------------------------


async def test_two_find_each_other_and_leave_well(epmd_port: int) -> None:
    a, b = unique("a"), unique("b")
    options = ("--json", "--poll-interval", "0.2", "local-epmd")
    async with running("run", "--name", a, *options) as first:
        started = await first.event("Started")
        assert started["node"] == a
        assert started["pid"] == first.process.pid
        assert started["hidden"] is False
        async with running("run", "--name", b, *options) as second:
            up = await first.event("NodeUp", node=b)
            assert up["barnacle"] == "barnacle"
            assert datetime.fromisoformat(up["time"]).tzinfo is not None
            await second.event("NodeUp", node=a)
            ended = await second.end(signal.SIGTERM)
            assert (ended.code, ended.err) == (0, "")
            told = [each["type"] for each in ended.objects()]
            assert told[-3:] == ["Draining", "NodeDown", "ShutDown"]
        await first.event("NodeDown", node=b)
        ended = await first.end(signal.SIGINT)
    assert_left_well(ended)
    assert ended.objects()[-1]["type"] == "ShutDown"


async def test_the_lines_for_people(epmd_port: int) -> None:
    a, b = unique("a"), unique("b")
    async with running("run", "--name", a, "--poll-interval", "0.2", "local-epmd") as first:
        await first.line(f"{a} is a node, pid {first.process.pid}")
        async with running("run", "--name", b, "--hidden", "local-epmd") as second:
            await second.line(f"{b} is a hidden node")
            await first.line(f"up         {b}")
            await second.end()
        await first.line(f"down       {b}")
        ended = await first.end()
    assert_left_well(ended)
    assert all(re.match(r"\d\d:\d\d:\d\d\.\d\d\d  \S", line) for line in ended.out.splitlines())
    assert ended.out.endswith("left\n")


async def test_a_node_is_named_by_erlangs_variables(epmd_port: int) -> None:
    name = unique("flags")
    env = environ(ERL_FLAGS=f"-name {name} -setcookie {COOKIE} -hidden")
    del env["BARNACLE_COOKIE"]
    async with running("run", "--json", "local-epmd", env=env) as flagged:
        started = await flagged.event("Started")
        assert (started["node"], started["hidden"]) == (name, True)
        assert list(await names()) == [name.partition("@")[0]]
        assert (await flagged.end()).code == 0


async def test_the_cookie_of_erlangs_file_is_the_last_resort(
    epmd_port: int, tmp_path: Path
) -> None:
    env = environ(tmp_path)
    del env["BARNACLE_COOKIE"]
    file = tmp_path / ".erlang.cookie"
    file.write_text(COOKIE)
    file.chmod(0o400)
    name = unique("filed")
    async with running("run", "--name", name, "--json", "local-epmd", env=env) as filed:
        await filed.event("Started")
        assert (await barnacle("ping", name, env=env)).code == 0
        assert_fails(await barnacle("ping", name, "--cookie", "another"), 1, "cookie")
        assert (await filed.end()).code == 0


async def test_a_taken_name_and_a_taken_port_are_told(epmd_port: int) -> None:
    name = unique("twin")
    async with running(
        "run", "--name", name, "--json", "--listen", "127.0.0.1:0", "local-epmd"
    ) as first:
        await first.event("Started")
        assert_fails(await barnacle("run", "--name", name, "local-epmd"), 1, "taken")
        (port,) = (await names()).values()
        listen = ("--listen", f"127.0.0.1:{port}")
        assert_fails(
            await barnacle("run", "--name", unique("other"), *listen, "local-epmd"),
            2,
            "cannot listen",
        )


async def test_a_node_leaves_when_its_input_ends(epmd_port: int) -> None:
    async with running(
        "run", "--name", unique("held"), "--json", "--until-eof", "local-epmd"
    ) as held:
        await held.event("Started")
        assert held.process.stdin is not None
        await held.process.stdin.aclose()
        ended = await held.end(None)
    assert (ended.code, ended.err) == (0, "")
    assert ended.objects()[-1]["type"] == "ShutDown"


async def test_a_reader_that_goes_away_ends_it_without_a_word(epmd_port: int) -> None:
    async with running(
        "run", "--name", unique("unread"), "--json", "--poll-interval", "0.2", "local-epmd"
    ) as unread:
        await unread.event("Started")
        with trio.fail_after(20):
            assert unread.process.stdout is not None
            await trio.aclose_forcefully(unread.process.stdout)
            code = await unread.process.wait()
    assert (code, unread.err) == (141, "")


async def test_a_reader_that_stalls_does_not_stop_the_node(epmd_port: int) -> None:
    name = unique("stalled")
    read, write = os.pipe()
    fcntl.fcntl(write, F_SETPIPE_SZ, 4096)
    process = await trio.lowlevel.open_process(
        command("run", "--name", name, "--json", "--poll-interval", "0.02", "local-epmd"),
        env=environ(),
        stdout=write,
        stderr=subprocess.PIPE,
    )
    os.close(write)
    try:
        with trio.fail_after(30):
            # Until the pipe is full and the line that did not fit blocks its writer.
            while _waiting(read) < 4096 - 400:  # noqa: ASYNC110 - a process is watched
                await trio.sleep(0.05)
            await trio.sleep(0.2)
            assert (await barnacle("ping", name)).code == 0
            process.terminate()
            assert await process.wait() == 0
        assert process.stderr is not None
        assert not await process.stderr.receive_some()
    finally:
        os.close(read)
        process.kill()
        with trio.move_on_after(5, shield=True):
            await process.wait()
        assert process.stderr is not None
        await trio.aclose_forcefully(process.stderr)


def _waiting(descriptor: int) -> int:
    import array
    import termios

    size = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.FIONREAD, size)
    return size[0]


# --- names, ping, discover, epmd ----------------------------------------------------------------


async def test_a_port_mapper_is_served_until_it_is_told_to_end(epmd_port: int) -> None:
    async with running("epmd") as served:
        assert await served.line("port mapper") == f"port mapper on port {epmd_port}: loopback"
        assert_fails(await barnacle("epmd"), 1, f"port {epmd_port} cannot be served")
        nobody = await barnacle("names")
        assert (nobody.code, nobody.out) == (0, "")
        async with running("run", "--name", "known@127.0.0.1", "--json", "local-epmd") as known:
            await known.event("Started")
            listed = await barnacle("names", "127.0.0.1", "--json")
            (entry,) = listed.objects()
            assert entry["name"] == "known"
            assert (await barnacle("names")).out == f"known  {entry['port']}\n"
            assert (await known.end()).code == 0
        ended = await served.end()
    assert (ended.code, ended.err) == (0, "")
    with pytest.raises(PeerUnreachable):
        await names()


async def test_names_into_a_pipe_that_nobody_reads(epmd_port: int) -> None:
    async with running("run", "--name", unique("a"), "--json", "local-epmd") as node:
        await node.event("Started")
        read, write = os.pipe()
        os.close(read)
        try:
            done = await trio.run_process(
                command("names"), env=environ(), stdout=write, capture_stderr=True, check=False
            )
        finally:
            os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
async def test_a_ping_leaves_nothing_behind(host: str, epmd_port: int) -> None:
    name = unique("pinged", host)
    async with running("run", "--name", name, "--json", "epmd:nobody@127.0.0.1") as pinged:
        await pinged.event("Started")
        before = await names()
        ended = await barnacle("ping", name)
        assert (ended.code, ended.err) == (0, "")
        assert re.fullmatch(
            rf"pong from {name}: connected in [\d.]+ ms, answered in [\d.]+ ms\n", ended.out
        )
        assert await names() == before


async def test_a_ping_by_a_fixed_port() -> None:
    name = unique("fixed")
    async with running(
        *("run", "--name", name, "--json", "--fixed-port", "19100", "epmd:nobody@127.0.0.1")
    ) as fixed:
        await fixed.event("Started")
        assert (await barnacle("ping", name, "--fixed-port", "19100")).code == 0
        assert_fails(
            await barnacle("ping", unique("fixed"), "--fixed-port", "19100"), 1, "pang from"
        )


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
async def test_a_signal_ends_a_command_that_waits_for_an_answer(
    number: signal.Signals, code: int
) -> None:
    (mute,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = str(mute.socket.getsockname()[1])
    async with mute, running("ping", "x@127.0.0.1", "--fixed-port", port) as waiting:
        stream = await mute.accept()
        async with stream:
            assert await stream.receive_some()
            ended = await waiting.end(number)
    assert ended == type(ended)(code, "", "")


async def test_a_node_that_does_not_answer_is_a_pang() -> None:
    (mute,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = str(mute.socket.getsockname()[1])
    async with mute:
        ended = await barnacle("ping", "x@127.0.0.1", "--fixed-port", port, "--timeout", "0.3")
    assert_fails(ended, 1, "pang from x@127.0.0.1")


async def test_a_discovery_is_complete_partial_or_failed(epmd_port: int) -> None:
    known = "epmd:b@127.0.0.1,a@127.0.0.1"
    complete = await barnacle("discover", known)
    assert (complete.code, complete.out, complete.err) == (0, "a@127.0.0.1\nb@127.0.0.1\n", "")
    chosen = await barnacle("discover", known, "--match", "b", "--json")
    assert chosen.objects() == [{"node": "b@127.0.0.1"}]
    partial = await barnacle("discover", known, "local-epmd")
    assert_fails(partial, 3, "this is not all: ", "no port mapper answers")
    assert partial.out == complete.out
    stand_in = await barnacle("discover", "local-epmd", "--fallback", known)
    assert (stand_in.code, stand_in.out, stand_in.err) == (0, complete.out, "")


async def test_a_discovery_asks_as_the_node_that_is_named(epmd_port: int) -> None:
    async with running("run", "--name", "x@localhost", "--json", "local-epmd") as node:
        await node.event("Started")
        assert (await barnacle("discover", "local-epmd")).out == "x@127.0.0.1\n"
        as_me = await barnacle("discover", "local-epmd", "--name", "me@localhost")
        assert as_me.out == "x@localhost\n"


async def test_what_is_done_is_told_on_request(epmd_port: int) -> None:
    async with running("run", "--name", unique("loud"), "--json", "-vv", "local-epmd") as loud:
        await loud.event("Started")
        await loud.event("Refreshed")
        ended = await loud.end()
    assert ended.code == 0
    lines = ended.err.splitlines()
    assert any(re.match(CLOCK + "barnacle: info: ", line) for line in lines)
    assert any(re.match(CLOCK + "barnacle: debug: ", line) for line in lines)
    assert COOKIE not in ended.err
    await until_gone(loud.process.pid)


async def test_nodes_are_remembered_in_a_file(epmd_port: int, tmp_path: Path) -> None:
    file = tmp_path / "nodes.json"
    a, b = unique("a"), unique("b")
    known = ("--remember", str(file), "--json", "--poll-interval", "0.2")
    async with running("run", "--name", b, "--json", "epmd:nobody@127.0.0.1") as friend:
        await friend.event("Started")
        async with running("run", "--name", a, *known, f"epmd:{b}") as node:
            await node.event("NodeUp", node=b)
            assert (await node.end()).code == 0
        async with running("run", "--name", a, *known, "erlang-hosts:/nonexistent") as node:
            await node.event("NodeUp", node=b)
            assert (await node.end()).code == 0
