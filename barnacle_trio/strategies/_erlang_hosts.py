"""Nodes by what the port mappers of known hosts list."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from barnacle_trio._errors import DiscoveryError
from barnacle_trio._names import Match, NodeName
from barnacle_trio._strategy import Strategy
from barnacle_trio.strategies._ask import names_at, settle
from barnacle_trio.strategies._files import read_file
from barnacle_trio.strategies._hosts_file import HostsFile, parse_hosts
from barnacle_trio.strategies._parts import checked_match, choose, kept

FILE_NAME = ".hosts.erlang"
MAX_FILE = 1 << 20
"""Bytes of the file."""


def erlang_hosts(
    path: str | os.PathLike[str] | None = None, *, match: Match | Iterable[Match] | None = None
) -> Strategy:
    """Discover the nodes of the hosts that ``.hosts.erlang`` lists, by asking their port mappers.

    The file holds one host a line, in single quotes, with a full stop at the end; ``%`` begins a
    comment::

        'db1.example.com'.
        'db2.example.com'.   % since May

    It is looked for as ``net_adm:host_file/0`` does: in the current folder, in ``$HOME``, and in
    OTP's own folder where ``$ROOTDIR`` names it (as it does in programs that a BEAM started). It is
    read anew for each answer.

    Each host's port mapper is asked, all at once, on the usual port (``ERL_EPMD_PORT``, 4369), with
    two seconds for each. It lists whatever runs there: choose by ``match``. A node is named by the
    host as it stands in the file, up to the first dot where the local node's own host has none
    (short names), as ``net_adm:world/0`` does. The local node itself is left out.

    A host that does not answer makes the answer partial, and so does a bad line, which is told
    with its number: Erlang would refuse the whole file. No file, or no host that answers, is a
    failed answer; a file without hosts a complete, empty one.

    Args:
      path: the file, in place of those.
      match: a glob (``"worker*"``), a predicate, or several of these; None is every name.

    Raises:
      ConfigurationError: not a match.
    """
    return _ErlangHosts(None if path is None else Path(path), match)


class _ErlangHosts:
    def __init__(self, path: Path | None, match: Match | Iterable[Match] | None) -> None:
        self._path = path
        self._match = kept(match)
        self._wanted = checked_match(self._match)
        self._parsed = (b"", parse_hosts(b""))

    def __repr__(self) -> str:
        options = [] if self._path is None else [repr(str(self._path))]
        if self._match is not None:
            options.append(f"match={self._match!r}")
        return f"erlang_hosts({', '.join(options)})"

    async def __call__(self, local: NodeName) -> frozenset[str]:
        path, file = await self._read()
        named = await names_at(file.hosts, local, wanted=lambda _name: True)
        names = named.names
        if not set(local.host) & {".", ":"}:
            names = [_with_short_host(name) for name in names]
        found = choose([name for name in names if name != local], self._wanted)
        bad = [DiscoveryError(f"{path}:{line.number}: {line.reason}") for line in file.bad]
        answered = named.answered and bool(file.hosts or not bad)
        return settle(found, [*named.errors, *bad], answered=answered)

    async def _read(self) -> tuple[Path, HostsFile]:
        paths = _usual_paths() if self._path is None else [self._path]
        for path in paths:
            try:
                data = await read_file(path, limit=MAX_FILE)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                    raise DiscoveryError(f"{path}: {error.strerror or error}") from error
                continue
            if self._parsed[0] != data:
                self._parsed = (data, parse_hosts(data))
            return path, self._parsed[1]  # noqa: ASYNC910 - a file was read
        raise DiscoveryError(f"no such file: {', '.join(map(str, paths))}")


def _usual_paths() -> list[Path]:
    folders = [os.curdir, os.environ.get("HOME"), os.environ.get("ROOTDIR")]
    return [Path(folder, FILE_NAME) for folder in folders if folder]


def _with_short_host(name: str) -> str:
    basename, _, host = name.partition("@")
    numeric = ":" in host or host.replace(".", "").isdigit()
    return name if numeric else f"{basename}@{host.partition('.')[0]}"
