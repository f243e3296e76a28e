"""Connection strings: which servers they name, in which order to try them."""

from __future__ import annotations

import random
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import trio
from psycopg import Error
from psycopg.conninfo import make_conninfo
from psycopg.pq import Conninfo

from barnacle_trio._errors import ConfigurationError

CONNECT_WITHIN = 5.0
"""Seconds for one address to accept and greet us, where the string has no ``connect_timeout``."""
LEAST_CONNECT_WITHIN = 2.0
"""As libpq has it: a shorter ``connect_timeout`` is taken for this."""

_MAX_TARGETS = 32  # addresses that are tried in one go
_SHOWN = ("service", "host", "hostaddr", "port", "dbname")

_URL_BEGINS = ("postgresql://", "postgres://")
_HOST = r"(?:\[[^][@/?,]*\]|[^][@:/?,]*)(?::[0-9]*)?"
# What libpq and people read alike. It looks for the end of the password up to the first slash
# alone, and takes the first @; what it finds behind these it takes for host, port and database.
_CLEAR_URL = re.compile(
    rf"""
    (?: postgresql | postgres ) ://
    (?: [^/@?]* (?: \? [^/@=]* )? @  # user and password; behind ? and = it could be the query
      | (?! [^/@]* @ )
    )
    @? {_HOST} (?: , {_HOST} )*  # the name of an abstract socket begins with @
    (?: / [^@?]* )?
    (?: \? .* )?
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Dsn:
    """A connection string, read. Its parameters stay out of its repr."""

    parameters: Mapping[str, str] = field(repr=False)

    @property
    def shown(self) -> str:
        """Where it leads, for people; never more than that."""
        return " ".join(f"{key}={self.parameters[key]}" for key in _SHOWN if key in self.parameters)

    @property
    def connect_within(self) -> float:
        """Seconds for one address; libpq itself keeps no time when it does not block."""
        asked = _whole(self._effective("connect_timeout"))
        return max(asked, LEAST_CONNECT_WITHIN) if asked > 0 else CONNECT_WITHIN

    def targets(self) -> list[dict[str, str]]:
        """The parameters for each server that is named, in the order in which to try them.

        What the string leaves out is taken from libpq's environment, as libpq would.

        Raises:
          ConfigurationError: not as many ports (or addresses) as hosts.
        """
        if "service" in self.parameters and not self.parameters.keys() & {"host", "hostaddr"}:
            return [dict(self.parameters)]  # only libpq reads its service file
        given = {key: self._effective(key) for key in ("host", "hostaddr", "port")}
        lists = {key: value.split(",") for key, value in given.items() if value}
        count = max(len(lists.get("hostaddr", ())), len(lists.get("host", ())), 1)
        for key, values in lists.items():
            if len(values) != count and not (key == "port" and len(values) == 1):
                raise ConfigurationError(
                    f"the connection string names {count} servers, but {len(values)} of {key}"
                )
        others = {key: value for key, value in self.parameters.items() if key not in given}
        targets: list[dict[str, str]] = []
        for index in range(count):
            own = {key: values[index % len(values)] for key, values in lists.items()}
            targets.append({**others, **{key: value for key, value in own.items() if value}})
        if self._effective("load_balance_hosts") == "random":
            random.shuffle(targets)
        return targets

    def _effective(self, key: str) -> str:
        found = self.parameters.get(key)
        return _environment().get(key, "") if found is None else found


def parse_dsn(text: str) -> Dsn:
    """Read a connection string, a ``postgresql://`` URL or ``key=value`` words; empty is one too.

    Raises:
      ConfigurationError: it is none. The message never quotes it, for it may hold a password.
    """
    if _is_unclear(text):
        raise ConfigurationError(
            "the dsn of postgres() is a URL in which it is not clear where the password ends: in "
            "user, password and database write %2F for /, %3F for ?, %3A for : and %40 for @; a "
            "port is a number (it is not shown here, since it may hold a password)"
        )
    parameters = _parsed(text)
    if parameters is None:  # raised here, so that what libpq said of it is not even the context
        raise ConfigurationError(
            "the dsn of postgres() is not a PostgreSQL connection string: write "
            "postgresql://user@host/database or host=... dbname=... (it is not shown here, since "
            "it may hold a password)"
        )
    if "@" in parameters.get("host", "").lstrip("@"):
        raise ConfigurationError(
            "the dsn of postgres() has an @ in its host: in the password of a URL, write %40"
        )
    if parameters.get("dbname", "").startswith(_URL_BEGINS):  # libpq would not look into it
        raise ConfigurationError(
            "the dsn of postgres() has a URL for its dbname: give the URL itself"
        )
    dsn = Dsn(parameters)
    dsn.targets()
    return dsn


def _is_unclear(text: object) -> bool:
    """Whether it is a URL that libpq may read otherwise than it was meant."""
    is_url = isinstance(text, str) and text.startswith(_URL_BEGINS)
    return is_url and not _CLEAR_URL.fullmatch(str(text))


def _environment() -> dict[str, str]:
    return {
        option.keyword.decode(): option.val.decode(errors="replace")
        for option in Conninfo.get_defaults()
        if option.val is not None
    }


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return 0


def _parsed(text: str) -> dict[str, str] | None:
    try:
        if "\0" in text:
            return None
        options = Conninfo.parse(text.encode())
        return {
            each.keyword.decode(): each.val.decode() for each in options if each.val is not None
        }
    except (Error, UnicodeError, TypeError, AttributeError):
        return None


async def resolve(target: Mapping[str, str]) -> Sequence[dict[str, str]]:
    """The addresses of a server: libpq looks names up too, but blocks while it does.

    A ``host`` stays beside its ``hostaddr``: certificates and passwords are kept by name.

    Raises:
      OSError: the name is not known.
    """
    host = target.get("host", "")
    if not host or target.get("hostaddr") or host[0] in "/@":
        await trio.lowlevel.checkpoint()
        return [dict(target)]
    try:
        found = await trio.socket.getaddrinfo(
            host, None, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )
    except UnicodeError as error:
        raise OSError(f"{host!r} is not a host name") from error
    addresses = dict.fromkeys(str(entry[4][0]) for entry in found)
    return [{**target, "hostaddr": address} for address in list(addresses)[:_MAX_TARGETS]]


def conninfo(parameters: Mapping[str, str]) -> bytes:
    """What libpq takes."""
    return make_conninfo(**parameters).encode()
