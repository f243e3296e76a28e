"""What a Kubernetes API server answers, read: pages of a list, events of a watch, refusals.

Source: the Kubernetes API concepts, "Efficient detection of changes" and "Retrieving large results
sets in chunks". Knows nothing of HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from barnacle_trio._names import shorten
from barnacle_trio.strategies._kube_objects import (
    Entry,
    Junk,
    Lookup,
    mapping,
    read_entry,
    sequence,
    text,
)

GONE: Final = 410
"""The status of a version that the server no longer knows the changes since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A kind of objects: the path of its group and version, its plural, and how one is called."""

    group: str
    plural: str
    kind: str


RESOURCES: Mapping[Lookup, tuple[Resource, ...]] = {
    "endpointslices": (
        Resource(group="/apis/discovery.k8s.io/v1", plural="endpointslices", kind="EndpointSlice"),
        # Up to Kubernetes 1.20; gone since 1.25.
        Resource(
            group="/apis/discovery.k8s.io/v1beta1", plural="endpointslices", kind="EndpointSlice"
        ),
    ),
    "endpoints": (Resource(group="/api/v1", plural="endpoints", kind="Endpoints"),),
    "pods": (Resource(group="/api/v1", plural="pods", kind="Pod"),),
}
"""Where each kind is found; the first that the server has counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A version of a kind of objects, from which a watch can go on."""

    resource: Resource
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A part of a list. ``version`` is the whole list's; ``more`` is None on the last page."""

    entries: tuple[Entry, ...]
    version: str
    more: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """An object is there, new or otherwise than before."""

    entry: Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """An object is gone, or is no longer among those that were asked for."""

    entry: Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Bookmark:
    """Nothing up to this version is missing."""

    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The watch ends; ``code`` is a status of HTTP."""

    code: int
    message: str


WatchEvent: TypeAlias = Changed | Deleted | Bookmark | Failure


def read_page(lookup: Lookup, kind: str, body: bytes) -> Page:
    """Read one page of a list.

    Raises:
      Junk: it is none.
    """
    content = _content(body)
    if content.get("kind") != f"{kind}List":
        raise Junk(f"not a {kind}List but {shorten(content.get('kind'))}")
    meta = mapping(content.get("metadata"))
    version = text(meta.get("resourceVersion"))
    if not version:
        raise Junk("a list without a version")
    return Page(
        entries=tuple(read_entry(lookup, each) for each in sequence(content.get("items"))),
        version=version,
        more=text(meta.get("continue")) or None,
    )


def read_event(lookup: Lookup, kind: str, line: bytes) -> WatchEvent | None:
    """Read one line of a watch; None is an event of a type that is not known here.

    Raises:
      Junk: it is none.
    """
    content = _content(line)
    what, thing = text(content.get("type")), mapping(content.get("object"))
    if not what:
        raise Junk("an event without a type")
    if what == "ERROR":
        code = thing.get("code")
        return Failure(code=code if isinstance(code, int) else 0, message=_message(thing))
    if what not in {"ADDED", "MODIFIED", "DELETED", "BOOKMARK"}:
        return None
    if thing.get("kind") != kind:
        raise Junk(f"an event of {shorten(thing.get('kind'))}, not of a {kind}")
    if what == "BOOKMARK":
        version = text(mapping(thing.get("metadata")).get("resourceVersion"))
        if not version:
            raise Junk("a bookmark without a version")
        return Bookmark(version=version)
    entry = read_entry(lookup, thing)
    if not entry.version:
        raise Junk("an event without a version")
    return Deleted(entry=entry) if what == "DELETED" else Changed(entry=entry)


class TooMuch(Junk):
    """More than there is room for."""


class LineCutter:
    """Cuts bytes into lines of at most ``limit`` bytes; blank ones are left out."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._unfinished = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take any slice, return the lines that it completes.

        Raises:
          TooMuch: a line is longer than the limit.
        """
        *ends, rest = data.split(b"\n")
        lines: list[bytes] = []
        for end in ends:
            self._take(end)
            if self._unfinished.strip():
                lines.append(bytes(self._unfinished))
            self._unfinished.clear()
        self._take(rest)
        return lines

    def _take(self, part: bytes) -> None:
        self._unfinished += part
        if len(self._unfinished) > self._limit:
            raise TooMuch(f"a line of more than {self._limit} bytes")

    @property
    def unfinished(self) -> bool:
        """Whether a line was begun."""
        return bool(self._unfinished.strip())


def read_message(body: bytes) -> str:
    """What the server says of a refusal, fit for a log; empty where it says nothing."""
    try:
        return _message(_content(body))
    except Junk:
        return ""


def _message(status: Mapping[str, Any]) -> str:
    message = text(status.get("message")) or text(status.get("reason"))
    return shorten(message, 200) if message else ""


def _content(data: bytes) -> Mapping[str, Any]:
    try:
        content = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        # The error itself quotes nothing that should not be read, but may do so at length.
        raise Junk(f"no JSON ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise Junk("not an object of JSON")
    return content
