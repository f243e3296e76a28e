"""Cookies: where they are read from, which one is for whom, and that nobody sees them.

Sources: OTP's documentation of the module ``auth`` and "Distributed Erlang", section "Security".
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import stat
import string
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from barnacle_trio._errors import ConfigurationError
from barnacle_trio._names import NodeName, matcher

logger = logging.getLogger("barnacle_trio.node")

MAX_COOKIE = 255  # characters: a cookie is an atom
STRONG_COOKIE = 16  # characters below which a cookie is too short to leave the machine with
_MAX_FILE = 1024  # bytes; a cookie and the blank lines that editors leave
_PRINTABLE = re.compile(rb"[ -~]+")
# As OTP reads the file: printable text with its spaces, then nothing but blanks and line ends.
_FILE = re.compile(rb"([ -~]+)[ \r\n]*")


def check_cookie(cookie: str | bytes, what: str = "the cookie") -> bytes:
    """Validate a cookie that was given: 1 to 255 printable ASCII characters.

    Raises:
      ConfigurationError: it is none; the message tells what is wrong and nothing of the cookie.
    """
    if not isinstance(cookie, str | bytes):
        raise ConfigurationError(f"{what} is a str or bytes, not {type(cookie).__name__}")
    # Beyond ASCII the text does not matter: it is refused, and must not appear in an error.
    octets = cookie.encode("ascii", "replace") if isinstance(cookie, str) else cookie
    if not octets:
        raise ConfigurationError(f"{what} is empty")
    if len(octets) > MAX_COOKIE:
        raise ConfigurationError(
            f"{what} has {len(octets)} characters, {MAX_COOKIE} is the most that Erlang takes"
        )
    if isinstance(cookie, str) and not cookie.isascii():
        raise ConfigurationError(f"{what} holds characters beyond ASCII")
    if not _PRINTABLE.fullmatch(octets):
        raise ConfigurationError(f"{what} holds a character that cannot be printed")
    return octets


class Cookies:
    """The cookie that is used with each peer. Neither its repr nor its errors show one.

    Args:
      default: for every peer that ``peers`` does not name.
      peers: cookies for node names, or for globs over them (``"db*"``, ``"*@10.0.0.7"``). An exact
        name goes before a glob, and the first glob that fits before later ones.

    Raises:
      ConfigurationError: a cookie is empty, too long, or holds more than printable ASCII.
    """

    __slots__ = ("_default", "_exact", "_globs")

    def __init__(
        self, default: str | bytes, peers: Mapping[str, str | bytes] | None = None
    ) -> None:
        self._default = check_cookie(default)
        self._exact = {
            pattern: check_cookie(cookie, f"the cookie for {pattern}")
            for pattern, cookie in (peers or {}).items()
        }
        self._globs = [
            (matcher(pattern), cookie)
            for pattern, cookie in self._exact.items()
            if "@" not in pattern or any(letter in pattern for letter in "*?[")
        ]

    def for_peer(self, name: NodeName) -> bytes:
        """The cookie that is shared with that peer."""
        exact = self._exact.get(name)
        if exact is not None:
            return exact
        for fits, cookie in self._globs:
            if fits(name):
                return cookie
        return self._default

    def check_strength(self, *, beyond_loopback: bool, insecure_cookie: bool = False) -> None:
        """Refuse a short cookie where strangers can reach the node.

        An attacker who sees one handshake tries cookies offline, millions in a second.

        Raises:
          ConfigurationError: one has fewer than 16 characters, the node is reachable from beyond
            loopback, and ``insecure_cookie`` does not say that this is meant.
        """
        if not beyond_loopback or insecure_cookie:
            return
        if any(len(cookie) < STRONG_COOKIE for cookie in (self._default, *self._exact.values())):
            raise ConfigurationError(
                f"a cookie of fewer than {STRONG_COOKIE} characters guards a node that others "
                "can reach: take a longer one, bind to loopback, or say insecure_cookie=True"
            )

    def __repr__(self) -> str:
        return f"<Cookies: a default and {len(self._exact)} for some peers>"


def read_cookie_file(environ: Mapping[str, str] | None = None) -> bytes:
    """Read the cookie that Erlang's own nodes of this user read; make one if there is none.

    ``$HOME/.erlang.cookie``, else ``$XDG_CONFIG_HOME/erlang/.erlang.cookie`` (by default below
    ``~/.config``). Where neither exists the first is created, with mode 0400 and 20 random
    letters, and a warning in the log names it. Blocks while it reads (a small local file).

    A symbolic link is refused, although Erlang follows it: who can place one chooses what is read.
    Read a mounted secret yourself and give it as ``cookie=``.

    Raises:
      ConfigurationError: there is no home directory, or the file is not a regular file of this
        user that is closed to others, or holds no cookie; the message names path and reason.
    """
    environ = os.environ if environ is None else environ
    home = environ.get("HOME")
    if not home:
        raise ConfigurationError("no cookie is given, and HOME is not set to look for one")
    config = environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
    path = Path(home, ".erlang.cookie")
    for place in (path, Path(config, "erlang", ".erlang.cookie")):
        cookie = _read(place)
        if cookie is not None:
            return cookie
    _create(path)
    cookie = _read(path)
    if cookie is None:
        raise ConfigurationError(f"the cookie file {path} was removed while it was read")
    return cookie


def _read(path: Path) -> bytes | None:
    """The cookie in a file; None where there is no such file."""
    # Neither follow a link nor wait for the writer of a pipe; judge what was opened, not the path.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with _errors_named(path):
        if path.is_symlink():
            raise ConfigurationError(f"the cookie file {path} is a symbolic link")
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            return None
        try:
            _check_attributes(path, os.fstat(descriptor))
            content = os.read(descriptor, _MAX_FILE + 1)
        finally:
            os.close(descriptor)
    if len(content) > _MAX_FILE:
        raise ConfigurationError(f"the cookie file {path} is longer than {_MAX_FILE} bytes")
    if not content.strip(b"\r\n"):
        raise ConfigurationError(f"the cookie file {path} is empty")
    match = _FILE.fullmatch(content)
    if match is None:
        raise ConfigurationError(
            f"the cookie file {path} holds more than one line of printable ASCII"
        )
    return check_cookie(match[1], f"the cookie in {path}")


def _check_attributes(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ConfigurationError(f"the cookie file {path} is not a regular file")
    if found.st_uid != os.geteuid():
        raise ConfigurationError(f"the cookie file {path} belongs to another user")
    if found.st_mode & 0o077:
        raise ConfigurationError(
            f"the cookie file {path} is open to others (mode {stat.S_IMODE(found.st_mode):04o}); "
            "say: chmod 400"
        )


def _create(path: Path) -> None:
    cookie = "".join(secrets.choice(string.ascii_uppercase) for _ in range(20))
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with _errors_named(path):
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        try:
            try:
                os.write(descriptor, cookie.encode("ascii"))
            finally:
                os.close(descriptor)
            # The file appears with its content, and never in place of another's: two programs that
            # start at once end up with one cookie.
            os.link(draft, path)
        except FileExistsError:
            return
        finally:
            draft.unlink()
    logger.warning("no cookie was given and none found: a random one was written to %s", path)


@contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"the cookie file {path}: {error.strerror or error}") from error
