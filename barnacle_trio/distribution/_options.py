"""What ``erl`` would make of its command line: a node's options from the environment.

Gleam and Elixir programs are started by ``ERL_FLAGS="-name app@host -setcookie ..."``; a Python
node takes the same words. Sources: OTP's documentation of ``erl`` and ``kernel``; where those are
silent (quotes, repeated flags) the behaviour of OTP 25 and 28, which agree.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from barnacle_trio._errors import ConfigurationError
from barnacle_trio._names import NodeName, shorten

_VARIABLES = ("ERL_AFLAGS", "ERL_FLAGS", "ERL_ZFLAGS")  # in the order of erl's command line
_PROTOCOLS = ("inet_tcp", "inet6_tcp", "inet_tls", "inet6_tls")
_BASENAME = re.compile(r"[0-9A-Za-z_-]+")
_WHITESPACE = frozenset(" \t\n\v\f\r")  # what C's isspace() takes for it
_PORT = re.compile(r"[0-9]{1,5}")

Flags: TypeAlias = list[tuple[str, list[str]]]
"""Flags in their order, without the hyphen, each with its arguments."""


@dataclass(frozen=True, kw_only=True)
class NodeOptions:
    """How a node is to be set up.

    Args:
      name: the node's name.
      cookie: None means the cookie file.
      cookies: other cookies for some peers.
      hidden: not listed by ``nodes()`` of its peers.
      listen_host: the one address to listen on; None leaves it to the name.
      listen_ports: the first and the last port to try; None means any.
      start_epmd: whether a port mapper may be started where none answers.
      epmd_port: where no port mapper is asked, the port that every node listens on.
      proto_dist: one of ``inet_tcp``, ``inet6_tcp``, ``inet_tls``, ``inet6_tls``.
      ssl_dist_optfile: for the latter two, Erlang's file of options, which is read when the node is
        opened without ``tls=``.
      short_names: the host part of names has no dots (``-sname``).
    """

    name: NodeName
    cookie: str | bytes | None = field(default=None, repr=False)
    cookies: Mapping[NodeName, str] = field(default_factory=dict, repr=False, hash=False)
    hidden: bool = False
    listen_host: str | None = None
    listen_ports: tuple[int, int] | None = None
    start_epmd: bool = True
    epmd_port: int | None = None
    proto_dist: str = "inet_tcp"
    ssl_dist_optfile: Path | None = None
    short_names: bool = False

    @property
    def tls(self) -> bool:
        """Whether connections are inside TLS."""
        return self.proto_dist.endswith("_tls")

    @property
    def ipv6(self) -> bool:
        """Whether connections go over IPv6."""
        return self.proto_dist.startswith("inet6_")

    @classmethod
    def from_erl_flags(cls, environ: Mapping[str, str] | None = None) -> NodeOptions:
        """Read ``ERL_AFLAGS``, ``ERL_FLAGS`` and ``ERL_ZFLAGS``, in that order, as ``erl`` does.

        As there, ``-sname`` goes before ``-name``, and of a flag or kernel parameter given
        repeatedly the first one counts. Flags that are not a node's concern are passed over.
        Without a host, ``-name`` takes this machine's full name (its own, the one in the hosts
        file or the DNS, or with the domain of ``resolv.conf``; this may ask the DNS, and blocks
        meanwhile), ``-sname`` its short one.

        Raises:
          ConfigurationError: nothing names a node, or a value makes no sense. Two different
            cookies are one such case: ``erl`` drops both and reads the cookie file. A dynamic name
            (``undefined``) is another: it is given by a peer, which this node does not ask for.
        """
        flags = erl_flags(os.environ if environ is None else environ)
        name, short_names = _name(flags)
        _refuse_unsupported(flags)
        kernel = _kernel(flags)
        cookie, cookies = _cookies(flags, name)
        return cls(
            name=name,
            cookie=cookie,
            cookies=cookies,
            hidden=_hidden(flags),
            listen_host=_listen_host(kernel),
            listen_ports=_listen_ports(kernel),
            start_epmd=_start_epmd(flags),
            epmd_port=_epmd_port(flags),
            proto_dist=_proto_dist(flags),
            ssl_dist_optfile=_optfile(flags),
            short_names=short_names,
        )


def split_words(text: str) -> list[str]:
    """Split a variable's text into words as ``erl`` does.

    Words end at whitespace. Single and double quotes hold text together, a backslash outside of
    them takes the next character as it is; inside of them it is a character like others. A quote
    that is never closed ends with the text.
    """
    words: list[str] = []
    word: list[str] | None = None
    quote = ""
    letters = iter(text)
    for letter in letters:
        if quote:
            if letter == quote:
                quote = ""
            elif word is not None:
                word.append(letter)
            continue
        if letter in _WHITESPACE:
            if word is not None:
                words.append("".join(word))
            word = None
            continue
        if word is None:
            word = []
        if letter in "'\"":
            quote = letter
        elif letter == "\\":
            word.append(next(letters, ""))
        else:
            word.append(letter)
    if word is not None:
        words.append("".join(word))
    return words


def erl_flags(environ: Mapping[str, str]) -> Flags:
    """The flags of all three variables, in erl's order."""
    flags: Flags = []
    for variable in _VARIABLES:
        arguments: list[str] | None = None
        for word in split_words(environ.get(variable, "")):
            if word == "-extra":
                break  # what follows in this variable is for the program
            if word == "--" or word.startswith("+"):
                arguments = None  # plain arguments, or one of the emulator's own flags
            elif word.startswith("-") and len(word) > 1:
                arguments = []
                flags.append((word[1:], arguments))
            elif arguments is not None:
                arguments.append(word)
    return flags


def _given(flags: Flags, flag: str) -> Iterator[list[str]]:
    return (arguments for name, arguments in flags if name == flag)


def _single(flags: Flags, flag: str) -> str | None:
    """The one argument of the first such flag, None where it is not given."""
    for arguments in _given(flags, flag):
        if len(arguments) != 1:
            raise ConfigurationError(f"-{flag} takes one value, not {len(arguments)}")
        return arguments[0]
    return None


def _name(flags: Flags) -> tuple[NodeName, bool]:
    for flag in ("sname", "name"):
        text = _single(flags, flag)
        if text is not None:
            return _complete(flag, text), flag == "sname"
    raise ConfigurationError(
        "nothing names this node: give open_node a name, or ERL_FLAGS a -name or -sname"
    )


def _complete(flag: str, text: str) -> NodeName:
    basename, at, host = text.partition("@")
    if basename == "undefined":
        raise ConfigurationError(
            f"-{flag} {text}: a dynamic name is given by a peer, and that is not supported here"
        )
    if not _BASENAME.fullmatch(basename):
        raise ConfigurationError(
            f"-{flag} {shorten(text)}: letters, digits, '_' and '-' make the name before the '@'"
        )
    if not at:
        host = _short_host() if flag == "sname" else _long_host()
    elif flag == "sname" and "." in host:
        raise ConfigurationError(f"-sname {shorten(text)}: a short name's host has no dots")
    try:
        return NodeName(f"{basename}@{host}")
    except ValueError as error:
        raise ConfigurationError(f"-{flag}: {error}") from error


def _short_host() -> str:
    return socket.gethostname().partition(".")[0]


def _long_host() -> str:
    host = socket.gethostname()
    if "." in host:
        return host
    try:
        canonical = socket.getaddrinfo(host, None, flags=socket.AI_CANONNAME)[0][3]
    except OSError:
        canonical = ""
    if "." in canonical:
        return canonical
    domain = _resolver_domain()
    if domain is None:
        raise ConfigurationError(
            f"-name without a host: this machine, {shorten(host)}, has no full name; "
            "write -name basename@host"
        )
    return f"{host}.{domain}"


def _resolver_domain(path: Path = Path("/etc/resolv.conf")) -> str | None:
    try:
        lines = path.read_text("ascii", "replace").splitlines()
    except OSError:
        return None
    for line in lines:
        match line.split():
            case ["domain" | "search", domain, *_]:
                return domain.strip(".") or None
    return None


def _cookies(flags: Flags, own: NodeName) -> tuple[str | None, Mapping[NodeName, str]]:
    default: str | None = None
    cookies: dict[NodeName, str] = {}
    for arguments in _given(flags, "setcookie"):
        match arguments:
            case [cookie]:
                if default not in (None, cookie):
                    raise ConfigurationError("-setcookie gives two different cookies")
                default = cookie
            case [node, cookie]:
                try:
                    name = NodeName(node)
                except ValueError as error:
                    raise ConfigurationError(f"-setcookie: {error}") from error
                if cookies.setdefault(name, cookie) != cookie:
                    raise ConfigurationError(f"-setcookie gives two different cookies for {name}")
            case _:
                raise ConfigurationError("-setcookie takes a cookie, or a node and its cookie")
    # The cookie for one's own name is the default, as in erlang:set_cookie/2.
    return cookies.pop(own, default), MappingProxyType(cookies)


def _hidden(flags: Flags) -> bool:
    for arguments in _given(flags, "hidden"):
        match arguments:
            case [] | ["true"]:
                return True
            case ["false"]:
                return False
        raise ConfigurationError("-hidden takes nothing, true or false")
    return False


def _refuse_unsupported(flags: Flags) -> None:
    for arguments in _given(flags, "dist_listen"):
        if arguments[:1] == ["false"]:
            raise ConfigurationError(
                "-dist_listen false: a node that does not listen is no use here"
            )


def _start_epmd(flags: Flags) -> bool:
    text = _single(flags, "start_epmd")
    if text not in (None, "true", "false"):
        raise ConfigurationError(f"-start_epmd takes true or false, not {shorten(text)}")
    return text != "false"


def _epmd_port(flags: Flags) -> int | None:
    text = _single(flags, "erl_epmd_port")
    return None if text is None else _port("-erl_epmd_port", text, least=1)


def _proto_dist(flags: Flags) -> str:
    text = _single(flags, "proto_dist")
    if text is None:
        return "inet_tcp"
    if text not in _PROTOCOLS:
        raise ConfigurationError(
            f"-proto_dist takes one of {', '.join(_PROTOCOLS)}, not {shorten(text)}"
        )
    return text


def _optfile(flags: Flags) -> Path | None:
    text = _single(flags, "ssl_dist_optfile")
    return None if text is None else Path(text)


def _kernel(flags: Flags) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for arguments in _given(flags, "kernel"):
        if len(arguments) % 2:
            raise ConfigurationError("-kernel takes pairs of a parameter and its value")
        for parameter, value in zip(arguments[::2], arguments[1::2], strict=True):
            parameters.setdefault(parameter, value)
    return parameters


def _listen_ports(kernel: Mapping[str, str]) -> tuple[int, int] | None:
    # A largest port without a smallest one means nothing to erl either.
    if "inet_dist_listen_min" not in kernel:
        return None
    first = _port("inet_dist_listen_min", kernel["inet_dist_listen_min"])
    last = first
    if "inet_dist_listen_max" in kernel:
        last = _port("inet_dist_listen_max", kernel["inet_dist_listen_max"])
    if last < first:
        raise ConfigurationError(f"no port lies between {first} and {last}")
    return first, last


def _port(what: str, text: str, least: int = 0) -> int:
    if not _PORT.fullmatch(text) or not least <= int(text) <= 65535:
        raise ConfigurationError(f"{what} {shorten(text)} is not a port")
    return int(text)


def _listen_host(kernel: Mapping[str, str]) -> str | None:
    """The address in ``{127,0,0,1}`` or ``{0,0,0,0,0,0,0,1}``, Erlang's terms for addresses."""
    text = kernel.get("inet_dist_use_interface")
    if text is None:
        return None
    parts = text.strip().removeprefix("{").removesuffix("}").split(",")
    try:
        numbers = [int(part) for part in parts]
        if len(numbers) == 4:
            return str(ipaddress.IPv4Address(bytes(numbers)))
        octets = b"".join(number.to_bytes(2) for number in numbers)
        return str(ipaddress.IPv6Address(octets))
    except (ValueError, OverflowError) as error:
        raise ConfigurationError(
            f"inet_dist_use_interface {shorten(text)} is not a tuple of 4 or 8 numbers"
        ) from error
