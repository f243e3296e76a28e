"""One kind of objects of one namespace: listed in pages, and watched."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

from barnacle_trio.strategies._kube_http import ApiError, Http, Lines
from barnacle_trio.strategies._kube_objects import Lookup
from barnacle_trio.strategies._kube_state import Entries
from barnacle_trio.strategies._kube_wire import (
    GONE,
    RESOURCES,
    Failure,
    Page,
    Position,
    Resource,
    WatchEvent,
    read_event,
    read_page,
)

PAGE_SIZE = 100
"""Objects asked for at once."""
MAX_PAGE = 8 * 1024 * 1024
"""Bytes of one page."""
MAX_PAGES = 1000
MAX_EVENT = 4 * 1024 * 1024
"""Bytes of one event; the server's own store takes objects of at most 1.5 MiB."""
LIST_TRIES = 3
"""How often a list is begun that becomes too old while its pages are read."""
SILENCE = 150.0
"""Seconds after which a watch that says nothing is begun anew; bookmarks come every minute."""

_NOT_FOUND: Final = 404


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which objects to ask for."""

    lookup: Lookup
    labels: str
    """A label selector; empty for all."""
    fields: str = ""
    """A field selector."""


class Gone(ApiError):
    """The server no longer knows what has changed since: everything must be listed anew."""


class Listing:
    """A list as far as it was read: ``position``, from which to watch, is None until all was."""

    def __init__(self) -> None:
        self.entries = Entries()
        self.position: Position | None = None
        self.begun = False
        """Whether any page was read."""


class KubeApi:
    """Lists and watches what is selected."""

    def __init__(self, http: Http, namespace: str, selection: Selection) -> None:
        self._http = http
        self._namespace = namespace
        self._selection = selection

    async def list(self, listing: Listing) -> None:
        """Read all pages into a listing, which keeps what was read if this is cut short.

        Raises:
          ApiError: the server does not answer as it should.
        """
        *others, last = RESOURCES[self._selection.lookup]
        for resource in others:
            try:
                await self._list(resource, listing)
            except ApiError as error:
                if error.status != _NOT_FOUND:
                    raise
            else:
                return
        await self._list(last, listing)

    async def _list(self, resource: Resource, listing: Listing) -> None:
        await trio.lowlevel.checkpoint()
        for left in reversed(range(LIST_TRIES)):
            try:
                await self._pages(resource, listing)
            except ApiError as error:
                if error.status != GONE or not left:
                    raise _explained(error, resource) from error
            else:
                return

    async def _pages(self, resource: Resource, listing: Listing) -> None:
        listing.entries = Entries()
        more: str | None = ""
        for _ in range(MAX_PAGES):
            page = await self._page(resource, more)
            for entry in page.entries:
                listing.entries.put(entry)
            listing.begun = True
            more = page.more
            if more is None:
                listing.position = Position(resource=resource, version=page.version)
                return
        raise ApiError(self._http.reason(f"has more than {MAX_PAGES} pages of {resource.plural}"))

    async def _page(self, resource: Resource, more: str | None) -> Page:
        params = self._params(limit=str(PAGE_SIZE), **({"continue": more} if more else {}))
        body = await self._http.get(self._path(resource), params, limit=MAX_PAGE)
        with self._http.translating():
            return read_page(self._selection.lookup, resource.kind, body)

    @asynccontextmanager
    async def watch(self, since: Position, seconds: float) -> AsyncIterator[Watch]:
        """What changes from a position on, for so many seconds (or less, as the server likes).

        Raises:
          Gone: the server can no longer tell what changed since.
          ApiError: the server does not answer as it should.
        """
        resource = since.resource
        params = self._params(
            watch="1",
            resourceVersion=since.version,
            allowWatchBookmarks="true",
            timeoutSeconds=str(int(seconds)),
        )
        try:
            async with self._http.lines(self._path(resource), params, limit=MAX_EVENT) as lines:
                yield Watch(self._http, lines, self._selection.lookup, resource)
        except ApiError as error:
            if isinstance(error, Gone):
                raise
            if error.status == GONE:
                raise Gone(error.reason, status=GONE) from error
            raise _explained(error, resource) from error

    def _params(self, **params: str) -> dict[str, str]:
        if self._selection.labels:
            params["labelSelector"] = self._selection.labels
        if self._selection.fields:
            params["fieldSelector"] = self._selection.fields
        return params

    def _path(self, resource: Resource) -> str:
        return f"{resource.group}/namespaces/{self._namespace}/{resource.plural}"


class Watch:
    """The events of a watch. Made by `KubeApi.watch`."""

    def __init__(self, http: Http, lines: Lines, lookup: Lookup, resource: Resource) -> None:
        self._http = http
        self._lines = lines
        self._lookup = lookup
        self._resource = resource

    async def next(self) -> WatchEvent | None:
        """The next event; None at the end, which comes by silence too.

        Raises:
          Gone: the changes since the version that was asked for are no longer known.
          ApiError: the connection broke, or what was sent is no event.
        """
        await trio.lowlevel.checkpoint()
        event: WatchEvent | None = None
        while event is None:
            line = None
            with trio.move_on_after(SILENCE):
                line = await self._lines.next()
            if line is None:
                return None
            with self._http.translating():
                event = read_event(self._lookup, self._resource.kind, line)
        if isinstance(event, Failure):
            kind = Gone if event.code == GONE else ApiError
            reason = self._http.reason(f"ends a watch: {event.code} {event.message}")
            raise kind(reason, status=event.code or None)
        return event


def _explained(error: ApiError, resource: Resource) -> ApiError:
    """An error with what to do about it, where that is known."""
    hint = {
        401: "it does not know our token",
        403: f"a Role must allow to list and watch {resource.plural}",
        _NOT_FOUND: f"it has no {resource.plural}",
    }.get(error.status or 0)
    if hint is None:
        return error
    return ApiError(f"{error.reason} ({hint})", status=error.status, retry_after=error.retry_after)
