"""Port mappers inside programs that end: who goes on."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest
import trio

from barnacle_trio import _errors
from barnacle_trio.epmd import Epmd, _embedding, names
from tests.epmd_lab import (
    PATIENCE,
    alive,
    connect,
    framed,
    open_beam,
    open_python_node,
    processes_listening_at,
)
from tests.epmd_members import names_become, never_missing, nobody_serves, open_member
from tests.erlang import ERLANGS, Erlang
from tests.ports import free_port


async def names_are(port: int, *expected: str) -> None:
    """Wait for these names, wherever they listen."""
    with trio.fail_after(PATIENCE):
        while (await names(port=port)).keys() != set(expected):
            await trio.lowlevel.checkpoint()


# --- several processes --------------------------------------------------------------------------


async def test_when_the_process_that_serves_is_killed_the_others_go_on() -> None:
    port = free_port()
    async with (
        open_python_node("one@127.0.0.1", 1111, port) as serving,
        open_python_node("two@127.0.0.1", 2222, port),
        open_python_node("three@127.0.0.1", 3333, port),
        open_member(Epmd(port=port), "four@127.0.0.1", 4444),
    ):
        assert processes_listening_at(port) == {serving.pid}
        serving.kill()
        others = {"two": 2222, "three": 3333, "four": 4444}
        await names_become(port, others, within=2)
        assert len(processes_listening_at(port)) == 1


@pytest.mark.parametrize("erlang", ERLANGS, ids=str)
async def test_a_beam_stays_registered_when_the_node_that_served_it_leaves(erlang: Erlang) -> None:
    port = free_port()
    async with trio.open_nursery() as nursery:
        async with open_member(Epmd(port=port), "one@127.0.0.1", 1111) as one:
            beam = await nursery.start(_beam, erlang, "beam@127.0.0.1", port)
            assert set(await names(port=port)) == {"one", "beam"}
            async with never_missing(port, "beam"):
                one.scope.cancel()
                await names_are(port, "beam")
        (successor,) = processes_listening_at(port)
        _is_detached(successor)
        async with open_beam(erlang, "other@127.0.0.1", port) as other:
            assert await other.eval("net_adm:ping('beam@127.0.0.1').") == "pong"
        async with open_member(Epmd(port=port), "one@127.0.0.1", 1111):
            assert set(await names(port=port)) == {"one", "beam"}
        await beam.kill()
        await nobody_serves(port)
        with trio.fail_after(PATIENCE):
            while await trio.Path(f"/proc/{successor}").exists():
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()


async def _beam(erlang: Erlang, name: str, port: int, task_status: trio.TaskStatus[object]) -> None:
    async with open_beam(erlang, name, port) as beam:
        task_status.started(beam)
        await trio.sleep_forever()


def _is_detached(pid: int) -> None:
    process = Path(f"/proc/{pid}")
    assert str((process / "cwd").readlink()) == "/"
    for standard in range(3):
        assert str((process / "fd" / str(standard)).readlink()) == os.devnull
    assert os.getsid(pid) != os.getsid(0)
    parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
    assert int(parent) != os.getpid()


async def test_a_node_of_another_process_stays_registered_when_ours_leaves() -> None:
    port = free_port()
    async with trio.open_nursery() as nursery:
        async with open_member(Epmd(port=port), "one@127.0.0.1", 1111) as one:
            other = open_python_node("two@127.0.0.1", 2222, port)
            process = await nursery.start(_hold, other)
            async with never_missing(port, "two"):
                one.scope.cancel()
                await names_become(port, {"two": 2222})
        (successor,) = processes_listening_at(port)
        assert successor not in {os.getpid(), process.pid}
        os.kill(successor, signal.SIGKILL)
        await names_become(port, {"two": 2222}, within=2)
        assert processes_listening_at(port) == {process.pid}
        nursery.cancel_scope.cancel()


async def _hold(
    manager: AbstractAsyncContextManager[object], *, task_status: trio.TaskStatus[object]
) -> None:
    async with manager as value:
        task_status.started(value)
        await trio.sleep_forever()


async def test_an_interrupted_program_hands_over_too() -> None:
    port = free_port()
    async with (
        open_python_node("one@127.0.0.1", 1111, port) as serving,
        open_beam(ERLANGS[-1], "beam@127.0.0.1", port),
    ):
        assert (await names(port=port)).keys() == {"one", "beam"}
        async with never_missing(port, "beam"):
            serving.send_signal(signal.SIGINT)
            with trio.fail_after(PATIENCE):
                await serving.wait()
        await names_are(port, "beam")
    await nobody_serves(port)


async def test_a_lone_beam_comes_back_to_whoever_serves_next() -> None:
    port = free_port()
    async with (
        open_python_node("one@127.0.0.1", 1111, port) as serving,
        open_beam(ERLANGS[-1], "beam@127.0.0.1", port) as beam,
    ):
        before = await beam.eval("erlang:system_info(creation).")
        serving.kill()
        await serving.wait()
        async with open_member(Epmd(port=port), "two@127.0.0.1", 2222):
            await names_are(port, "beam", "two")
            assert await beam.eval("erlang:system_info(creation).") == before
            await beam.kill()
            await names_become(port, {"two": 2222})


@pytest.mark.parametrize("fault", ["no interpreter", "not started", "fails", "hangs"])
async def test_where_nobody_can_go_on_that_is_told_and_names_are_freed_in_time(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 60\n" if fault == "hangs" else "#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    wrong = {"no interpreter": "", "not started": str(tmp_path / "nothing")}
    monkeypatch.setattr(sys, "executable", wrong.get(fault, str(program)))
    monkeypatch.setattr(_embedding, "LEAVE_DEADLINE", 0.5)
    port = free_port()
    async with open_member(Epmd(port=port), "one@127.0.0.1", 1111) as one:
        foreign = await connect(port)
        await foreign.send_all(framed(alive(b"beam")))
        await foreign.receive_some()
        began = trio.current_time()
        one.scope.cancel()
    assert trio.current_time() - began < 2
    async with foreign:
        with trio.fail_after(PATIENCE):
            assert await foreign.receive_some() == b""
    assert "could not be handed over" in caplog.text
    with pytest.raises(_errors.PeerUnreachable):
        await names(port=port)


# --- as a process --------------------------------------------------------------------------------


async def test_a_port_mapper_as_a_process_serves_beams_until_it_is_stopped() -> None:
    port = free_port()
    command = [sys.executable, "-m", "barnacle_trio.epmd"]
    env = {**os.environ, "ERL_EPMD_PORT": str(port), "ERL_EPMD_ADDRESS": "127.0.0.2"}
    async with trio.open_nursery() as nursery:
        run = partial(trio.run_process, command, env=env, check=False, capture_stderr=True)
        process = await nursery.start(run)
        await (await connect(port)).aclose()
        second = await trio.run_process(command, env=env, check=False, capture_stderr=True)
        assert second.returncode == 1
        assert second.stderr.startswith(b"the port mapper cannot be served: ")
        async with open_beam(ERLANGS[0], "beam@127.0.0.1", port):
            assert (await names("127.0.0.2", port)).keys() == {"beam"}
            process.send_signal(signal.SIGINT)
            with trio.fail_after(PATIENCE):
                assert await process.wait() == -signal.SIGINT
