"""Asking a Kubernetes API server: one GET, its whole answer or its lines, both within bounds."""

from __future__ import annotations

import os
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

import httpx2
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

_KEEPALIVE: Final = [
    # A server that vanished without a word is noticed after some 30 s, not after the 15 minutes
    # that the kernel would need.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, option), value)
        for option, value in (
            ("TCP_KEEPIDLE", 15),
            ("TCP_KEEPINTVL", 5),
            ("TCP_KEEPCNT", 3),
            ("TCP_USER_TIMEOUT", 30_000),
        )
        if hasattr(socket, option)  # not every system has each
    ),
]


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


class Broken(ApiError):
    """The connection ended in the middle of an answer."""


class Http:
    """Requests to one API server, over a transport that the caller opens and closes.

    The bare transport is used: a client around it would obey the environment, keep cookies and
    log each request. Redirects are not followed, so that the token goes where it belongs or
    nowhere. Compressed answers are neither asked for nor read.
    """

    def __init__(self, access: Access, transport: httpx2.AsyncBaseTransport) -> None:
        self._access = access
        self._transport = transport

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
            response = await self._transport.handle_async_request(self._request(path, params))
        answer = _Answer(response)
        try:
            if response.status_code != 200:
                raise await self._refusal(answer)
            encoding = response.headers.get("Content-Encoding", "identity")
            if encoding != "identity":
                raise ApiError(self.reason(f"answers in the encoding {shorten(encoding)}, unasked"))
            yield answer
        finally:
            await answer.leave()

    def _request(self, path: str, params: Mapping[str, str]) -> httpx2.Request:
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "barnacle-trio",
        }
        if self._access.token is not None:
            headers["Authorization"] = f"Bearer {self._access.token}"
        extensions = {}
        if self._access.tls_name is not None:
            extensions["sni_hostname"] = self._access.tls_name
        return httpx2.Request(
            "GET",
            f"{self._access.server}{path}",
            params=dict(params),
            headers=headers,
            extensions=extensions,
        )

    async def _refusal(self, answer: _Answer) -> ApiError:
        status = answer.response.status_code
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
            retry_after=_retry_after(answer.response.headers.get("Retry-After")),
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
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
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

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self._chunks = response.aiter_raw()

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
        try:
            # Iterators inside the library stay open unless something is raised in the innermost.
            with trio.CancelScope() as scope, suppress(httpx2.HTTPError):
                scope.cancel("the rest of the answer is not wanted")
                while await self.receive() is not None:
                    pass
        finally:
            with trio.move_on_after(LEAVE_WITHIN, shield=True):
                await self.response.aclose()


@asynccontextmanager
async def open_http(access: Access) -> AsyncIterator[Http]:
    """Requests to an API server over connections that last as long as the block."""
    async with httpx2.AsyncHTTPTransport(
        verify=access.tls or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # that believes nobody
        trust_env=False,
        limits=httpx2.Limits(max_connections=1, max_keepalive_connections=1),
        socket_options=_KEEPALIVE,
    ) as transport:
        yield Http(access, transport)


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
