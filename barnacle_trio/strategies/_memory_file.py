"""What a file of remembered nodes holds, and how it is replaced. Knows neither Trio nor clocks.

The format is JSON, its version 1::

    {"version": 1, "nodes": {"my_app@10.0.0.7": 1767225600, "my_app@10.0.0.8": 1767225600}}

Each number says when discovery last named the node, in whole seconds since 1970 (UTC).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from barnacle_trio._names import NodeName

VERSION = 1
MAX_FILE = 1 << 20
"""Bytes of a file."""
MAX_NODES = 3000
"""How many nodes surely fit into one: the longest name takes 280 bytes."""


def parse_memory(data: bytes) -> dict[NodeName, int]:
    """Read the content of a file.

    Raises:
      ValueError: it is not what `format_memory` writes.
    """
    try:
        content = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested without end") from None
    except ValueError:
        raise ValueError("it is not JSON") from None
    match content:
        case {"version": 1, "nodes": dict(nodes)}:
            return {NodeName(name): _checked_time(at) for name, at in nodes.items()}
        case {"version": version}:
            raise ValueError(f"it is of version {version!r:.20}, this program knows {VERSION}")
    raise ValueError("it holds no nodes")


def _checked_time(at: object) -> int:
    if type(at) is not int or not 0 <= at < 1 << 40:
        raise ValueError(f"{at!r:.20} is no time")
    return at


def format_memory(nodes: Mapping[NodeName, int]) -> bytes:
    """The content of a file; one node a line."""
    content = {"version": VERSION, "nodes": dict(sorted(nodes.items()))}
    return json.dumps(content, indent=1).encode() + b"\n"


def replace_file(path: Path, data: bytes) -> None:
    """Put a whole file in the place of another, so that at no moment there is half of one.

    It is written beside it, with mode 0600, and is on the disk before it takes the name. Blocks.

    Raises:
      OSError: the old file stands.
    """
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        Path(draft).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(draft).unlink()
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    # So that the name, too, outlives a power cut. Not every file system can.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
