"""A clock on the wall that jumps, for processes that are told of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LIBRARIES = ("/usr/lib/x86_64-linux-gnu/faketime", "/usr/lib/aarch64-linux-gnu/faketime")


class FakedClock:
    """The wall clock of some processes; their monotonic one stays true. See `open_faked_clock`."""

    def __init__(self, file: Path, library: str) -> None:
        self._file = file
        self.environment = {
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.jump("+0")

    def jump(self, offset: str) -> None:
        """Go to an offset from the true time, such as ``+1d``."""
        self._file.write_text(offset)


@contextmanager
def open_faked_clock() -> Iterator[FakedClock]:
    """Make one.

    Raises:
      RuntimeError: libfaketime is not installed.
    """
    for folder in _LIBRARIES:
        library = Path(folder) / "libfaketimeMT.so.1"
        if library.exists():
            break
    else:
        raise RuntimeError(
            "wall clocks are turned by libfaketime (Debian: apt-get install faketime)"
        )
    with tempfile.TemporaryDirectory() as scratch:
        yield FakedClock(Path(scratch) / "clock", str(library))
