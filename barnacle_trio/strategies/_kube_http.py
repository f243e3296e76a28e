"""Asking a Kubernetes API server: one GET, its whole answer or its lines, both within bounds."""

from __future__ import annotations

import os
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final, Protocol
from urllib.parse import urlencode, urlsplit

import httpcore2
import trio

from barnacle_trio._errors import DiscoveryError
from barnacle_trio._names import shorten
from barnacle_trio.strategies._kube_access import Access
from barnacle_trio.strategies._kube_objects import Junk
from barnacle_trio.strategies._kube_wire import LineCutter, TooMuch, read_message

ANSWER_WITHIN: Final = 10.0
"""Seconds from the first byte of a request, connecting included, to the last of an answer's head;
and for the body of one whole answer."""
LEAVE_WITHIN: Final = 1.0
"""Seconds for closing a connection, which waits for nobody."""
MAX_REFUSAL = 64 * 1024
"""Bytes that are read of an answer that refuses something."""
MOST_PATIENCE = 120.0
"""Seconds for which a server can ask us to stay away (``Retry-After``)."""

_FAILURES = (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException)


class ApiError(DiscoveryError):
    """An API server did not answer as it should.

    ``status`` is what it answered with instead, None where there was no answer or a broken one;
    ``retry_after`` how many seconds it asks us to stay away.
    """

    def __init__(
        self, reason: str, *, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.retry_after = retry_after


class Requests(Protocol):
    """What sends a request: a pool of connections."""

    async def handle_async_request(self, request: httpcore2.Request) -> httpcore2.Response:
        """Send it; the answer's body is read from the response."""
        ...


class Broken(ApiError):
    """The connection ended in the middle of an answer."""


class Http:
    """Requests to one API server, over connections that the caller opens and closes.

    The core of httpx2 is used without the client around it, which would obey the environment, keep
    cookies and log each request. Redirects are not followed, so that the token goes where it
    belongs or nowhere. Compressed answers are neither asked for nor read.
    """

    def __init__(self, access: Access, pool: Requests) -> None:
        self._access = access
        self._pool = pool

    async def get(self, path: str, params: Mapping[str, str], *, limit: int) -> bytes:
        """The body of an answer, of at most ``limit`` bytes, within `ANSWER_WITHIN` seconds.

        Raises:
          ApiError: no answer, not in time, too long a one, or another status than 200.
        """
        async with self._asked(path, params) as answer:
            with self.translating(), trio.fail_after(ANSWER_WITHIN):
                return await answer.read(limit)

    @asynccontextmanager
    async def lines(
        self, path: str, params: Mapping[str, str], *, limit: int
    ) -> AsyncIterator[Lines]:
        """The lines of an answer that goes on, each of at most ``limit`` bytes.

        Raises:
          ApiError: no answer, or another status than 200.
        """
        async with self._asked(path, params) as answer:
            yield Lines(self, answer, limit)

    @asynccontextmanager
    async def _asked(self, path: str, params: Mapping[str, str]) -> AsyncIterator[_Answer]:
        with self.translating(), trio.fail_after(ANSWER_WITHIN):
            response = await self._pool.handle_async_request(self._request(path, params))
        answer = _Answer(response)
        try:
            if response.status != 200:
                raise await self._refusal(answer)
            encoding = answer.header("Content-Encoding")
            if encoding not in (None, "identity"):
                raise ApiError(self.reason(f"answers in the encoding {shorten(encoding)}, unasked"))
            yield answer
        finally:
            with trio.move_on_after(LEAVE_WITHIN, shield=True):  # which waits for nobody
                await answer.leave()

    def _request(self, path: str, params: Mapping[str, str]) -> httpcore2.Request:
        headers: dict[bytes | str, bytes | str] = {
            "Host": urlsplit(self._access.server).netloc,
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "barnacle-trio",
        }
        if self._access.token is not None:
            headers["Authorization"] = f"Bearer {self._access.token}"
        extensions = {}
        if self._access.tls_name is not None:
            extensions["sni_hostname"] = self._access.tls_name
        url = f"{self._access.server}{path}?{urlencode(params)}"
        return httpcore2.Request("GET", url, headers=headers, extensions=extensions)

    async def _refusal(self, answer: _Answer) -> ApiError:
        await trio.lowlevel.checkpoint()
        status = answer.response.status
        if 300 <= status < 400:
            return ApiError(
                self.reason("redirects to elsewhere, where it is not followed"), status=status
            )
        try:
            with self.translating(), trio.fail_after(ANSWER_WITHIN):
                said = read_message(await answer.read(MAX_REFUSAL))
        except ApiError:
            said = ""  # the status alone must do
        return ApiError(
            self.reason(f"answers {status}{f': {said}' if said else ''}"),
            status=status,
            retry_after=_retry_after(answer.header("Retry-After")),
        )

    def reason(self, what: str) -> str:
        """A reason that names the server, and is free of the token whatever the server says."""
        reason = f"the API server {self._access.server} {what}"
        if self._access.token is not None:
            reason = reason.replace(self._access.token, "...")
        return reason

    @contextmanager
    def translating(self) -> Iterator[None]:
        """Turn what goes wrong in the block into an `ApiError`."""
        try:
            yield
        except trio.TooSlowError as error:
            raise ApiError(self.reason("does not answer in time")) from error
        except Junk as error:
            raise ApiError(self.reason(f"sends {error}")) from error
        except (*_FAILURES, OSError) as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> ApiError:
        told = _told(error)
        if told is None:
            said = shorten(error, 200) if str(error) else type(error).__name__
            return Broken(self.reason(f"breaks off: {said}"))
        return ApiError(self.reason(told))


class Lines:
    """The lines of an answer, as they come. Made by `Http.lines`."""

    def __init__(self, http: Http, answer: _Answer, limit: int) -> None:
        self._http = http
        self._answer = answer
        self._cutter = LineCutter(limit)
        self._cut: deque[bytes] = deque()

    async def next(self) -> bytes | None:
        """The next line that is not blank; None once the answer has come to its end.

        Raises:
          ApiError: the connection broke, the line is too long, or the end is in its middle.
        """
        await trio.lowlevel.checkpoint()
        while not self._cut:
            with self._http.translating():
                data = await self._answer.receive()
                if data is None:
                    if self._cutter.unfinished:
                        raise Broken(self._http.reason("breaks off in the middle of a line"))
                    return None
                self._cut.extend(self._cutter.feed(data))
        return self._cut.popleft()


class _Answer:
    """The body of a response, which can be left before its end."""

    def __init__(self, response: httpcore2.Response) -> None:
        self.response = response
        self._chunks = response.aiter_stream()

    def header(self, name: str) -> str | None:
        """A header's value, the first where it comes more than once."""
        wanted = name.lower().encode()
        values = (value for key, value in self.response.headers if key.lower() == wanted)
        first = next(values, None)
        return None if first is None else first.decode("latin-1")

    async def receive(self) -> bytes | None:
        return await anext(self._chunks, None)

    async def read(self, limit: int) -> bytes:
        body = bytearray()
        while (chunk := await self.receive()) is not None:
            body += chunk
            if len(body) > limit:
                raise TooMuch(f"more than {limit} bytes")
        return bytes(body)

    async def leave(self) -> None:
        """Let go of the response; its connection is closed where anything of it is unread."""
        # Iterators inside the library stay open unless something is raised in the innermost.
        with trio.CancelScope() as scope, suppress(*_FAILURES):
            scope.cancel("the rest of the answer is not wanted")
            while await self.receive() is not None:
                pass
        await self.response.aclose()


def _retry_after(stated: str | None) -> float | None:
    # The other form, a date, is not used by API servers, and our clock may differ from theirs.
    if stated is None or not stated.isdecimal() or not stated.isascii():
        return None
    return min(float(stated[:10]), MOST_PATIENCE)


def _told(error: BaseException) -> str | None:
    """Why there was no answer, from what lies at the bottom of an error; None if it broke off."""
    causes = list(_causes(error))
    for each in causes:
        if isinstance(each, ssl.SSLCertVerificationError):
            return f"cannot be verified: {each.verify_message}"
    for each in causes:
        if isinstance(each, ssl.SSLError):
            return f"does not speak TLS as it should: {each.reason or 'broken off'}"
    for each in causes:
        if isinstance(each, socket.gaierror):
            return f"cannot be reached: {each.strerror}"
        if isinstance(each, OSError) and each.errno is not None:
            return f"cannot be reached: {os.strerror(each.errno)}"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        if isinstance(error, BaseExceptionGroup):
            for each in error.exceptions:
                yield from _causes(each)
        yield error
        error = error.__cause__ or error.__context__
