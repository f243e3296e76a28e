"""One session with a PostgreSQL server, on libpq's non-blocking calls ("Asynchronous Command
Processing"): Trio waits for the socket, and no thread is needed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import trio
from psycopg import Error, pq
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, PollingStatus
from psycopg.pq.abc import PGconn, PGresult

ANSWER_WITHIN = 5.0
"""Seconds for the server to answer a statement."""

_MAX_REASON = 300
_INTERVENTION = b"57P"  # SQLSTATEs of a server that starts, stops or crashed; it will be back

# Before a session is greeted, libpq hands on a server's words alone. This is how they begin in
# any language ("FATAL:  ..."), and what is said in English of a server that will be back.
_SAID = re.compile(r"\w:  \S")
_WILL_BE_BACK = re.compile(
    r"starting up|shutting down|recovery|not yet accepting|too many|reserved"
)


class PostgresError(Exception):
    """The server is away, or says no.

    ``refused`` tells the latter: something is to be mended, a password or a right. The text is
    one line, and has no password in it: libpq's texts name hosts, users and databases only.
    """

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.refused = refused


@dataclass(frozen=True, slots=True)
class Notification:
    """What somebody said on a channel."""

    channel: str
    payload: bytes


async def connect(conninfo: bytes, *, within: float) -> Connection:
    """Open a session with one server; the caller closes it.

    ``conninfo`` should give an address: libpq would block to look up a name.

    Raises:
      PostgresError: nobody is there, or greets us in ``within`` seconds, or we are turned away.

    If cancelled, nothing stays open.
    """
    connection = Connection(pq.PGconn.connect_start(conninfo))
    try:
        with trio.fail_after(within):
            await connection._greet()
    except trio.TooSlowError:
        connection.close()
        raise PostgresError(f"{connection.where} does not answer within {within:g} s") from None
    except BaseException:
        connection.close()
        raise
    return connection


class Connection:
    """A session with a server. Made by `connect`; for one task at a time.

    Whatever breaks it, or a statement that fails, raises `PostgresError`: open another one then.
    """

    def __init__(self, pgconn: PGconn) -> None:
        self._pgconn = pgconn
        self.where = (pgconn.hostaddr or pgconn.host or b"the server").decode(errors="replace")
        self._farewell: PostgresError | None = None
        pgconn.notice_handler = self._note

    def _note(self, notice: PGresult) -> None:
        if notice.error_field(DiagnosticField.SEVERITY_NONLOCALIZED) in (b"FATAL", b"PANIC"):
            self._farewell = _said(notice)

    async def _greet(self) -> None:
        pgconn = self._pgconn
        await trio.lowlevel.checkpoint()
        polled = int(PollingStatus.WRITING)  # which is how libpq wants this to begin
        while pgconn.status != ConnStatus.BAD and polled != PollingStatus.OK:
            # The socket may be another one each time.
            if polled == PollingStatus.READING:
                await trio.lowlevel.wait_readable(pgconn.socket)
            elif polled == PollingStatus.WRITING:
                await trio.lowlevel.wait_writable(pgconn.socket)
            else:
                break
            polled = pgconn.connect_poll()
        if polled != PollingStatus.OK:
            text = pgconn.get_error_message()
            refused = _SAID.search(text) is not None and _WILL_BE_BACK.search(text) is None
            raise PostgresError(_one_line(text), refused=refused)
        pgconn.nonblocking = 1

    def close(self) -> None:
        """End it. The server is told if the socket takes that at once; nothing is waited for."""
        self._pgconn.finish()

    async def listen(self, channel: str) -> None:
        """Hear what is said on a channel from now on."""
        quoted = channel.replace('"', '""')  # a statement that takes no parameters
        await self._execute(f'LISTEN "{quoted}"'.encode())

    async def notify(self, channel: str, payload: str) -> None:
        """Say something on a channel; everybody who listens hears it, this connection too."""
        await self._execute(
            b"SELECT pg_catalog.pg_notify($1, $2)", channel.encode(), payload.encode()
        )

    async def _execute(self, statement: bytes, *parameters: bytes) -> None:
        pgconn = self._pgconn
        try:
            with trio.fail_after(ANSWER_WITHIN):
                pgconn.send_query_params(statement, [*parameters])  # 3.2 takes lists only
                while pgconn.flush():
                    # A server that waits for us to read would not take what we write.
                    await _wait_for_either(pgconn.socket)
                    pgconn.consume_input()
                while (result := await self._next_result()) is not None:
                    if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
                        raise _said(result)
        except Error as error:
            raise self._lost(error) from None
        except trio.TooSlowError:
            raise PostgresError(
                f"the server does not answer a statement within {ANSWER_WITHIN:g} s"
            ) from None

    async def _next_result(self) -> PGresult | None:
        await trio.lowlevel.checkpoint()
        while self._pgconn.is_busy():
            await trio.lowlevel.wait_readable(self._pgconn.socket)
            self._pgconn.consume_input()
        return self._pgconn.get_result()

    async def wait(self) -> None:
        """Wait until the server sends something."""
        await trio.lowlevel.wait_readable(self._pgconn.socket)

    def receive_nowait(self) -> list[Notification]:
        """What has been said and was not received yet; often nothing."""
        try:
            self._pgconn.consume_input()
        except Error as error:
            raise self._lost(error) from None
        received: list[Notification] = []
        while notify := self._pgconn.notifies():
            received.append(Notification(notify.relname.decode(errors="replace"), notify.extra))
        return received

    def _lost(self, error: Error) -> PostgresError:
        """What the server said at last explains an end better than libpq does."""
        text = self._pgconn.get_error_message()  # without psycopg's own words before it
        return self._farewell or PostgresError(_one_line(text or str(error)))


async def _wait_for_either(fd: int) -> None:
    """Wait until a socket can be read or written."""
    async with trio.open_nursery() as nursery:

        async def wait_readable() -> None:
            await trio.lowlevel.wait_readable(fd)
            nursery.cancel_scope.cancel("it can be read")

        nursery.start_soon(wait_readable)
        await trio.lowlevel.wait_writable(fd)
        nursery.cancel_scope.cancel("it can be written")


def _said(result: PGresult) -> PostgresError:
    """An error by what a server said."""
    state = result.error_field(DiagnosticField.SQLSTATE) or b""
    return PostgresError(
        _one_line(result.get_error_message()), refused=not state.startswith(_INTERVENTION)
    )


def _one_line(text: str) -> str:
    """The first line, which is the one that matters, fit for a log."""
    line = text.strip().partition("\n")[0].encode("ascii", "backslashreplace").decode()
    return line if len(line) <= _MAX_REASON else f"{line[:_MAX_REASON]}..."
