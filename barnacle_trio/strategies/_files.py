"""Reading small files where the reader must not be held up, whatever lies at the path."""

from __future__ import annotations

import errno
import os
import stat
from functools import partial
from pathlib import Path
from weakref import WeakValueDictionary

import trio

# Who waits for a limiter keeps it, and so does the thread that it let through.
_limiters: trio.lowlevel.RunVar[WeakValueDictionary[Path, trio.CapacityLimiter]] = (
    trio.lowlevel.RunVar("barnacle_trio.strategies.files")
)


async def read_file(path: Path, *, limit: int) -> bytes:
    """As `read_regular`, in a thread that is left behind if cancelled.

    A file whose disk hangs costs one thread, however often it is asked for: later calls wait until
    the disk has answered the first. Other files, and the rest of the program, do not wait for it.
    """
    return await trio.to_thread.run_sync(
        partial(read_regular, path, limit), abandon_on_cancel=True, limiter=_limiter_of(path)
    )


def _limiter_of(path: Path) -> trio.CapacityLimiter:
    try:
        limiters = _limiters.get()
    except LookupError:
        limiters = WeakValueDictionary()
        _limiters.set(limiters)
    return limiters.setdefault(path, trio.CapacityLimiter(1))


def read_regular(path: Path, limit: int, not_if: int = 0) -> bytes:
    """The whole content of a regular file. Blocks.

    Args:
      path: of the file; a symbolic link is followed.
      limit: bytes that it may hold.
      not_if: mode bits of which it may have none.

    Raises:
      OSError: it cannot be read, is longer, is no regular file or has such a mode.
    """
    # A FIFO would hold up who opens it until somebody writes.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        if mode & not_if:
            raise OSError(errno.EPERM, f"its mode is {stat.S_IMODE(mode):04o}")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it is longer than {limit} bytes")
    return data
