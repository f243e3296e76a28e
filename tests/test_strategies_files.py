"""Reading files from disks that do not answer."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from barnacle_trio.strategies import _files
from barnacle_trio.strategies._files import read_file, read_regular

PATIENCE = 20.0
"""Seconds that anything here may take on a busy machine; nothing waits for them to pass."""


class Disk:
    """Does not answer for one file until it is back."""

    def __init__(self, mute: Path) -> None:
        self.mute = mute
        self.back = threading.Event()
        self.asked: list[Path] = []

    def read(self, path: Path, limit: int) -> bytes:
        self.asked.append(path)
        if path == self.mute:
            self.back.wait(PATIENCE)
        return read_regular(path, limit)

    async def give_up(self) -> None:
        """Read the mute file until that hangs, and leave it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(read_file, self.mute, limit=100))
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(PATIENCE):
                while not self.asked:  # noqa: ASYNC110 - a thread has yet to begin
                    await trio.sleep(0.001)
            nursery.cancel_scope.cancel("it has hung long enough")


async def kept_become(*paths: Path) -> None:
    """Wait until limiters are kept for these alone: a thread lets go of its own a moment later."""
    with trio.fail_after(PATIENCE):
        while set(_files._limiters.get()) != set(paths):
            gc.collect()  # a traceback may refer to what it went through
            await trio.sleep(0.001)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    for name in ("mute", "good"):
        (tmp_path / name).write_text(name)
    disk = Disk(tmp_path / "mute")
    monkeypatch.setattr(_files, "read_regular", disk.read)
    yield disk
    disk.back.set()


async def test_a_disk_that_hangs_costs_one_thread_and_nobody_else_any(
    disk: Disk, tmp_path: Path
) -> None:
    limiter = trio.to_thread.current_default_thread_limiter()
    for _ in range(int(limiter.total_tokens) + 1):
        await disk.give_up()
    assert limiter.borrowed_tokens == 0
    assert len(disk.asked) == 1
    with trio.fail_after(PATIENCE):
        assert await trio.to_thread.run_sync(lambda: 7) == 7
        assert await read_file(tmp_path / "good", limit=100) == b"good"


async def test_a_file_is_read_again_when_its_disk_is_back(disk: Disk) -> None:
    await disk.give_up()
    async with trio.open_nursery() as nursery:
        read: list[bytes] = []

        async def wait() -> None:
            read.append(await read_file(disk.mute, limit=100))

        for _ in range(3):
            nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert len(disk.asked) == 1
        disk.back.set()
        nursery.cancel_scope.deadline = trio.current_time() + PATIENCE
    assert read == [b"mute"] * 3


async def test_nothing_is_kept_of_files_that_were_read(disk: Disk, tmp_path: Path) -> None:
    for _ in range(3):
        assert await read_file(tmp_path / "good", limit=100) == b"good"
        with pytest.raises(FileNotFoundError):
            await read_file(tmp_path / "absent", limit=100)
    await disk.give_up()
    await kept_become(disk.mute)
    disk.back.set()
    with trio.fail_after(PATIENCE):
        await read_file(disk.mute, limit=100)
    await kept_become()
