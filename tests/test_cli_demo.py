"""The demo, as a user sees it: whole, piped, on a terminal, and cut short."""

from __future__ import annotations

import os
import pty
import re
import signal
from contextlib import suppress

import trio

from tests.cli_lab import Running, assert_fails, command, environ, running, until_gone

CHAPTERS = (
    "A cluster that mends itself",
    "Three processes start",
    "acorn is killed (SIGKILL)",
    "acorn is started again",
    "acorn is frozen (SIGSTOP)",
    "acorn is thawed (SIGCONT)",
    "All leave (SIGTERM)",
    "The cluster mended each time",
)


def pids(text: str) -> set[int]:
    return {int(found) for found in re.findall(r"pid (\d+)", text)}


def assert_whole(told: str) -> None:
    """All of the story is there, in its order, with its times."""
    text = "\n".join(line.rstrip() for line in told.splitlines())
    places = [text.index(f"\n{chapter}") for chapter in CHAPTERS]
    assert places == sorted(places)
    assert len(re.findall(r"healed (?:after )?\d+(?:\.\d)? m?s", text)) == 2
    assert re.search(r"goose and rock call it silent after \d\.\d s", text)
    assert text.count("each sees the two others") == 1
    assert "Traceback" not in text


async def tell_whole_story(plain: bool) -> None:
    async with running("demo", *(["--plain"] if plain else [])) as demo:
        ended = await demo.end(None)
    assert (ended.code, ended.err) == (0, ""), ended.out
    assert_whole(ended.out)
    assert ended.out.replace("\n", "").isprintable()
    assert ended.out.isascii() == plain
    assert len(pids(ended.out)) == 4
    await until_gone(*pids(ended.out))


async def tell_whole_story_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    process = await trio.lowlevel.open_process(
        command("demo"),
        env=environ(TERM="xterm-256color", COLUMNS="100", LINES="40"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = bytearray()
    try:
        async with trio.lowlevel.FdStream(ours) as terminal:
            with suppress(trio.BrokenResourceError):  # so ends a terminal on Linux
                async for data in terminal:
                    shown += data
        assert await process.wait() == 0
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
    text = shown.decode()
    assert "\x1b[32m" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is back
    assert_whole(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text))
    await until_gone(*pids(text))


async def test_the_story_is_told_to_its_end() -> None:
    """Three at once, for they mostly wait: they do not disturb each other, either."""
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell_whole_story, True)
            nursery.start_soon(tell_whole_story, False)
            nursery.start_soon(tell_whole_story_on_a_terminal)


async def until_frozen(demo: Running) -> set[int]:
    await demo.line("acorn is frozen (SIGSTOP)")
    return pids("\n".join(demo.lines))


async def cut_short(number: signal.Signals, code: int) -> None:
    async with running("demo", "--plain") as demo:
        children = await until_frozen(demo)
        ended = await demo.end(number)
        assert (ended.code, ended.err) == (code, "")
        await until_gone(*children)
    assert len(children) == 4


async def test_cut_short_it_leaves_no_process_behind() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cut_short, signal.SIGINT, 130)
        nursery.start_soon(cut_short, signal.SIGTERM, 143)
        nursery.start_soon(cut_short, signal.SIGKILL, -9)


async def lose_a_node() -> None:
    async with running("demo", "--plain") as demo:
        await demo.line("| rock  | up")
        (pid,) = pids(next(line for line in demo.lines if "| rock  | up" in line))
        os.kill(pid, signal.SIGKILL)
        ended = await demo.end(None)
    assert_fails(ended, 1, "rock ended by itself with exit code -9")
    await until_gone(*pids(ended.out))


async def lose_the_reader() -> None:
    async with running("demo", "--plain") as demo:
        await demo.line("| rock  | up")
        children = pids("\n".join(demo.lines))
        assert demo.process.stdout is not None
        with trio.fail_after(20):
            await trio.aclose_forcefully(demo.process.stdout)
            assert await demo.process.wait() == 141
        assert demo.err == ""
        await until_gone(*children)


async def test_what_ends_it_early_is_told_to_whoever_listens() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lose_a_node)
        nursery.start_soon(lose_the_reader)
