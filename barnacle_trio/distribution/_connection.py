"""One live connection to a peer: a reader, a writer with a bound, and a failure detector."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import TypeAlias

import trio

from barnacle_trio._errors import RemoteProtocolError
from barnacle_trio._transport import PeerDownReason
from barnacle_trio.distribution._detector import Detector, Due, Patience
from barnacle_trio.distribution._flags import Flag
from barnacle_trio.distribution._frames import TICK, FrameDecoder
from barnacle_trio.distribution._handshake import Identity
from barnacle_trio.etf import Reference

logger = logging.getLogger("barnacle_trio.node")

RECEIVE_SIZE = 64 * 1024
"""Bytes asked for in one read."""
MAX_RECEIVE_SIZE = 1024 * 1024
"""The same in the midst of a large frame."""
WRITE_SIZE = 256 * 1024
"""Bytes, about, that are joined into one write."""
HIGH_WATER = 1024 * 1024
"""Bytes that wait for a peer above which users' messages wait, too."""
MAX_OUTBOX = 64 * 1024 * 1024
"""Bytes that wait for a peer which does not read, before it is given up."""

LARGE = 64 * 1024
"""Bytes of a payload that is worth not being joined to what goes before it."""
DIRECT_AFTER = 50e-6
"""Seconds without a write after which the next one does not wait for others to be joined."""

OnFrame: TypeAlias = Callable[["Connection", bytes], None]
OnClose: TypeAlias = Callable[["Connection"], None]


class Connection:
    """A connection whose handshake is done.

    Made by a `Node`, which also runs it. Everything but `run` is synchronous.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        peer: Identity,
        *,
        agreed: Flag,
        hidden: bool,
        dialled: bool,
        patience: Patience,
        max_frame: int,
    ) -> None:
        self.peer = peer
        self.agreed = agreed
        self.agreed_bits = int(agreed)
        self.hidden = hidden
        self.dialled = dialled
        self.up_since = trio.current_time()
        self.detector = Detector(patience)
        self.reason: PeerDownReason | None = None
        self.on_close: OnClose | None = None
        self.closed = trio.Event()
        self.leaving = False
        self.probe: Reference | None = None
        self.stream = stream
        self._frames = FrameDecoder(max_frame=max_frame)
        self._outbox: deque[bytes] = deque()
        self._outbox_size = 0
        self._largest = 0  # frame, since nothing waited
        self._writing = False
        self._written_at = 0.0
        self._writer: trio.lowlevel.Task | None = None  # waits for something to write
        self._fd = stream.socket.fileno() if isinstance(stream, trio.SocketStream) else -1
        self._idle = trio.Event()
        self._room = trio.Event()
        self._scope = trio.CancelScope()

    def send(self, *parts: bytes) -> None:
        """Queue a frame, whole (with its length) or in parts. Frames leave in this order.

        The first one after a pause goes straight to the socket; what comes right after it is
        joined into one write. A peer that lets more than `MAX_OUTBOX` bytes wait, beside the
        largest frame, is closed as silent.
        """
        if self.reason is not None:
            return
        if not self._outbox_size and len(parts) == 1 and self._fd >= 0:
            now = perf_counter()
            if now - self._written_at > DIRECT_AFTER:
                self._written_at = now
                rest = self._write_directly(parts[0])
                if not rest:
                    return
                parts = (rest,)
        before = self._outbox_size
        for part in parts:
            self._outbox.append(part)
            self._outbox_size += len(part)
        self._largest = max(self._largest, self._outbox_size - before)
        if self._outbox_size > MAX_OUTBOX + self._largest:
            logger.warning("[%s] does not read: %d bytes wait", self.peer.name, self._outbox_size)
            self.close("silent")
        elif self._writer is not None:
            writer, self._writer = self._writer, None
            trio.lowlevel.reschedule(writer)

    def send_body(self, head: bytes, payload: bytes) -> None:
        """Queue a frame of a body in two parts, see `send`."""
        size = (len(head) + len(payload)).to_bytes(4)
        if len(payload) < LARGE:
            self.send(size + head + payload)
        else:
            self.send(size + head, payload)  # not copied once more

    def _write_directly(self, frame: bytes) -> bytes:
        """Try to write without a task; gives what is left."""
        try:
            written = os.write(self._fd, frame)
        except BlockingIOError:
            return frame
        except OSError:
            self.close("lost")
            return b""
        self.detector.wrote()
        return frame[written:]

    def close(self, reason: PeerDownReason) -> None:
        """Have the connection closed, and tell so at once; only the first reason counts."""
        if self.reason is None:
            self.reason = "left" if self.leaving and reason == "lost" else reason
            self._scope.cancel(f"connection closed: {reason}")
            if self.on_close is not None:
                self.on_close(self)

    @property
    def writable(self) -> bool:
        """Whether little enough waits for the peer to read."""
        return self._outbox_size < HIGH_WATER

    async def wait_writable(self) -> None:
        """Wait until `writable`, or the connection ends."""
        while self.reason is None and not self.writable:
            await self._room.wait()
        await trio.lowlevel.checkpoint_if_cancelled()

    async def flush(self) -> None:
        """Wait until all that is queued is in the kernel's hands, or the connection ends."""
        while self.reason is None and (self._outbox or self._writing):
            await self._idle.wait()
        await trio.lowlevel.checkpoint()

    def pass_time(self, elapsed: float, acknowledged: Callable[[], int | None]) -> Due:
        """Ask the detector what is due, and send a tick if that is it.

        Args:
          elapsed: seconds since the last call.
          acknowledged: tells how many bytes of ours the peer has acknowledged so far.
        """
        due = self.detector.pass_time(
            elapsed,
            acknowledged=acknowledged() if self._writing else None,
            in_frame=self._frames.partial > 0,
        )
        if Due.TICK in due and not self._outbox and not self._writing:
            self.send(TICK)
        return due

    async def run(self, leftover: bytes, on_frame: OnFrame) -> None:
        """Read frames and write what is queued until the connection ends, then close the stream.

        Returns for whatever reason it ended, which is then in ``reason``. Bytes that came with the
        handshake's last message are ``leftover``. ``on_frame`` is called for each frame that is no
        tick; a `RemoteProtocolError` of its closes the connection. If cancelled, the stream is
        closed before `trio.Cancelled` leaves.
        """
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write, name=f"write to {self.peer.name}")
                    try:
                        await self._read(leftover, on_frame)
                    except (trio.BrokenResourceError, trio.ClosedResourceError):
                        pass
                    except RemoteProtocolError as error:
                        logger.warning("[%s] %s; closing", self.peer.name, error)
                    self.close("lost")
        finally:
            self.close("lost")
            self._idle.set()
            self._room.set()
            try:
                await trio.aclose_forcefully(self.stream)
            finally:
                self.closed.set()

    async def _read(self, leftover: bytes, on_frame: OnFrame) -> None:
        data = leftover
        receive, feed = self.stream.receive_some, self._frames.feed
        while True:
            for frame in feed(data):
                if frame and self.reason is None:
                    on_frame(self, frame)
            # A large frame is read in large pieces.
            size = min(max(self._frames.partial, RECEIVE_SIZE), MAX_RECEIVE_SIZE)
            data = bytes(await receive(size))
            if not data:
                return
            self.detector.read(len(data))

    async def _write(self) -> None:
        await trio.lowlevel.checkpoint()
        while True:  # noqa: ASYNC913 - it waits for something to write, or writes
            while not self._outbox:
                self._largest = 0
                self._idle.set()
                self._idle = trio.Event()
                await self._wait_for_more()
            joined: list[bytes] = []
            size = 0
            while self._outbox and (size + len(self._outbox[0]) <= WRITE_SIZE or not joined):
                frame = self._outbox.popleft()
                joined.append(frame)
                size += len(frame)
            self._writing = True
            try:
                await self.stream.send_all(joined[0] if len(joined) == 1 else b"".join(joined))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.close("lost")
                return
            finally:
                self._writing = False
                self._outbox_size -= size
                if self.writable:
                    self._room.set()
                    self._room = trio.Event()
            self._written_at = perf_counter()
            self.detector.wrote()

    async def _wait_for_more(self) -> None:
        self._writer = trio.lowlevel.current_task()

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._writer = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
