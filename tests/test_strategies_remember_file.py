"""The file of `remember`: what stands in it, and disks that fail."""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from barnacle_trio._names import NodeName
from barnacle_trio.strategies import _remember, remember
from barnacle_trio.strategies._memory_file import (
    MAX_FILE,
    MAX_NODES,
    format_memory,
    parse_memory,
    replace_file,
)
from tests.remember_players import DOWN, A, B, Clock, Source, ask, kept, names_beside, told


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "nodes.json"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_remember, "time", clock)
    return clock


def mode_of(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


async def test_the_file_is_as_documented(file: Path, clock: Clock) -> None:
    await ask(remember(Source([B, A]), file))
    assert json.loads(await trio.Path(file).read_bytes()) == {
        "version": 1,
        "nodes": {A: 1_800_000_000, B: 1_800_000_000},
    }
    assert mode_of(file) == 0o600
    assert names_beside(file) == [file.name]


async def test_it_is_written_when_something_changed_or_for_the_times(
    file: Path, clock: Clock
) -> None:
    source = Source([A])
    strategy = remember(source, file)

    def inode() -> int | None:
        return file.stat().st_ino if file.exists() else None

    async def writes() -> bool:
        before = inode()
        await ask(strategy)
        return inode() != before

    assert await writes()
    assert not await writes()
    clock.now += 599
    assert not await writes()
    clock.now += 2
    assert await writes()
    source.answer = [A, B]
    assert await writes()
    assert not await writes()
    source.answer = DOWN
    assert not await writes()
    # After a restart the first good answer says when it was.
    strategy = remember(Source([A, B]), file)
    assert await writes()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "it is not JSON"),
        (b"\xff\xfe\x00", "it is not JSON"),
        (b'{"version": 1, "nodes": {"a@10.0', "it is not JSON"),
        (b"[" * 100_000, "it is nested without end"),
        (b"[]", "it holds no nodes"),
        (b'{"version": 1}', "it is of version 1"),
        (b'{"version": 2, "nodes": {}}', "it is of version 2, this program knows 1"),
        (b'{"version": 1, "nodes": {"a b": 1}}', "is not a node name"),
        (b'{"version": 1, "nodes": {"a@b": "now"}}', "'now' is no time"),
        (b'{"version": 1, "nodes": {"a@b": 1e400}}', "inf is no time"),
        (b'{"version": 1, "nodes": {"a@b": true}}', "True is no time"),
        (b'{"version": 1, "nodes": {"a@b": -1}}', "-1 is no time"),
    ],
)
async def test_a_damaged_file_is_told_once_and_ignored(
    file: Path, caplog: pytest.LogCaptureFixture, content: bytes, complaint: str
) -> None:
    await trio.Path(file).write_bytes(content)
    await trio.Path(file).chmod(0o600)
    source = Source(DOWN)
    strategy = remember(source, file)
    for _ in range(3):
        assert told(await ask(strategy)) == ("failed", set())
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"{file} is ignored, it holds no remembered nodes: ")
    assert complaint in record.getMessage()
    source.answer = [A]
    await ask(strategy)
    assert kept(file) == {A}


async def test_a_file_that_everybody_can_write_is_not_believed(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await ask(remember(Source([A]), file))
    await trio.Path(file).chmod(0o666)
    source = Source(DOWN)
    strategy = remember(source, file)
    for _ in range(2):
        assert told(await ask(strategy)) == ("failed", set())
    [record] = caplog.records
    assert "cannot be read, nodes are not remembered: its mode is 0666" in record.getMessage()
    source.answer = [B]
    await ask(strategy)
    assert mode_of(file) == 0o600


async def test_a_disk_that_fails_is_told_once_and_when_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder = tmp_path / "absent"
    source = Source([A])
    strategy = remember(source, folder / "nodes.json")
    for _ in range(3):
        assert told(await ask(strategy)) == ("complete", {A})
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot be written" in caplog.text
    folder.mkdir()
    await ask(strategy)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert kept(folder / "nodes.json") == {A}
    # In this process they are remembered all along.
    source.answer = DOWN
    assert told(await ask(strategy)) == ("partial", {A})


async def test_a_full_disk_leaves_the_old_file_and_no_other(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source([A])
    strategy = remember(source, file)
    await ask(strategy)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        source.answer = [B]
        assert told(await ask(strategy)) == ("complete", {B})
    assert kept(file) == {A}
    assert names_beside(file) == [file.name]


async def test_a_disk_that_hangs_is_waited_for_once(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_remember, "DISK_PATIENCE", 0.05)
    back = threading.Event()
    asked: list[Path] = []
    really = replace_file

    def hanging(path: Path, data: bytes) -> None:
        asked.append(path)
        back.wait(20)
        really(path, data)

    monkeypatch.setattr(_remember, "replace_file", hanging)
    strategy = remember(Source([A]), file)
    try:
        for _ in range(5):
            assert told(await ask(strategy)) == ("complete", {A})
        assert asked == [file]
        [record] = caplog.records
        assert "cannot be written" in record.getMessage()
        assert "the disk does not answer" in record.getMessage()
    finally:
        back.set()
    with trio.fail_after(10):
        while not names_beside(file):  # noqa: ASYNC110 - a thread that was left behind writes it
            await trio.sleep(0.01)
        while names_beside(file) != [file.name]:  # noqa: ASYNC110 - and it renames its draft
            await trio.sleep(0.01)
    assert kept(file) == {A}


@given(
    st.dictionaries(
        st.builds("{}@{}".format, st.text("abc", min_size=1), st.text("d.", min_size=1)).map(
            NodeName
        ),
        st.integers(0, 2**39),
    )
)
def test_what_is_written_is_read(nodes: dict[NodeName, int]) -> None:
    assert parse_memory(format_memory(nodes)) == nodes


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["version", "nodes", "a@b"]) | st.text(max_size=5), inner
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_content_is_too_odd(data: bytes) -> None:
    try:
        nodes = parse_memory(data)
    except ValueError:
        return
    assert all(isinstance(name, NodeName) for name in nodes)


def test_the_most_nodes_fit_into_a_file() -> None:
    longest = {NodeName(f"{number:0250}@hos"): 2**39 for number in range(MAX_NODES)}
    assert len(format_memory(longest)) <= MAX_FILE
