"""One live connection to a peer: a reader, a writer with a bound, and a failure detector."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TypeAlias

import trio

from barnacle_trio._errors import RemoteProtocolError
from barnacle_trio._transport import PeerDownReason
from barnacle_trio.distribution._detector import Detector, Due, Patience
from barnacle_trio.distribution._flags import Flag
from barnacle_trio.distribution._fragments import FRAGMENT, Reassembly, Transfer
from barnacle_trio.distribution._frames import TICK, FrameDecoder
from barnacle_trio.distribution._handshake import Identity
from barnacle_trio.distribution._lanes import Lanes, Parties
from barnacle_trio.etf import Limits, Reference
from barnacle_trio.etf._encode import Pieces

logger = logging.getLogger("barnacle_trio.node")

RECEIVE_SIZE = 64 * 1024
"""Bytes asked for in one read."""
MAX_RECEIVE_SIZE = 1024 * 1024
"""The same in the midst of a large frame."""
WRITE_SIZE = 256 * 1024
"""Bytes, about, that are joined into one write."""
HIGH_WATER = 1024 * 1024
"""Bytes that wait for a peer above which users' messages wait, too.

Those of large messages in fragments, and of what must not pass them, are counted apart.
"""
MAX_OUTBOX = 64 * 1024 * 1024
"""Bytes that wait for a peer which does not read, before it is given up."""

MAX_CONTROL = 64 * 1024
"""Bytes of a frame beside its payload."""
LAST_WORDS = 1.0
"""Seconds in which a peer that no longer hears us is read to the end of what it said."""
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
        limits: Limits,
    ) -> None:
        self.peer = peer
        self.agreed = agreed
        self.agreed_bits = int(agreed)
        self.headed = Flag.FRAGMENTS in agreed
        # Without payloads, the reason of an exit stands in its control term, which is never cut.
        self._cuts = self.headed and Flag.EXIT_PAYLOAD in agreed
        self.hidden = hidden
        self.dialled = dialled
        self.up_since = trio.current_time()
        self.detector = Detector(patience)
        self.reason: PeerDownReason | None = None
        self.on_close: OnClose | None = None
        self.closed = trio.Event()
        self.leaving = False  # the peer said goodbye
        self.parting = False  # we did
        self.probe: Reference | None = None
        self.stream = stream
        self.fragments = Reassembly(limits)
        self._frames = FrameDecoder(max_frame=limits.max_bytes + MAX_CONTROL)
        # Whole frames, and large messages that have not begun; then those that have, in turn.
        self._outbox: deque[bytes | Transfer] = deque()
        self._begun: deque[Transfer] = deque()
        self._lanes = Lanes()
        self._sequence = 0
        # Bytes that wait, or are being written: in whole frames; of large messages, and what waits
        # for those to pass.
        self._outbox_size = 0
        self._bulk_size = 0
        self._largest = 0  # bytes queued in one call, since nothing waited
        self._freed = False  # somebody may say more, since the last who waited were told
        self._writing = False
        self._unheard = False  # a write failed: what is queued is dropped
        self._written_at = 0.0
        self._writer: trio.lowlevel.Task | None = None  # waits for something to write
        self._fd = stream.socket.fileno() if isinstance(stream, trio.SocketStream) else -1
        self._idle = trio.Event()
        self._room = trio.Event()
        self._scope = trio.CancelScope()

    def send(self, frame: bytes) -> None:
        """Queue a frame, whole, with its length. Frames leave in this order.

        The first one after a pause goes straight to the socket; what comes right after it is
        joined into one write. A peer that lets more than `MAX_OUTBOX` bytes wait, beside the
        largest message, is closed as silent.
        """
        if self.reason is not None:
            return
        if not self._outbox_size and not self._writing and self._fd >= 0:
            now = perf_counter()
            if now - self._written_at > DIRECT_AFTER:
                self._written_at = now
                frame = self._write_directly(frame)
                if not frame:
                    return
        self._outbox.append(frame)
        self._outbox_size += len(frame)
        self._queued(len(frame))

    def offer(self, head: bytes, payload: bytes | Pieces, parties: Parties) -> bool:
        """Queue a signal as `send_signal` does, unless it had better wait: see `writable`."""
        size = len(head) + len(payload)
        waiting = self._outbox_size
        if (
            0 < waiting < HIGH_WATER  # the way of many that follow each other: the writer is busy
            and self._writer is None
            and not self._bulk_size
            and size <= FRAGMENT
            and type(payload) is bytes
            and self.reason is None
        ):
            self._outbox.append(b"".join((size.to_bytes(4), head, payload)))
            self._outbox_size = waiting + size + 4
            return True
        if not self.writable(size, parties):
            return False
        self.send_signal(head, payload, parties)
        return True

    def send_signal(self, head: bytes, payload: bytes | Pieces, parties: Parties) -> None:
        """Queue a signal, its body in two parts: up to the payload, and the payload.

        It never passes another one between the same ``parties``. A large one goes in fragments, if
        the peer takes them, and lets those of others pass.
        """
        size = len(head) + len(payload)
        # No bytes of large messages, no lanes. What is in pieces is large.
        if size <= FRAGMENT and not self._bulk_size and not isinstance(payload, Pieces):
            self.send(b"".join((size.to_bytes(4), head, payload)))
        else:
            self._send_among_large((head, *_parts(payload)), size, parties)

    def send_body(self, body: bytes | Pieces, parties: Parties) -> None:
        """As `send_signal`, for a body that is in one part."""
        if len(body) <= FRAGMENT and not self._bulk_size and not isinstance(body, Pieces):
            self.send(len(body).to_bytes(4) + body)
        else:
            self._send_among_large(_parts(body), len(body), parties)

    def _send_among_large(self, parts: Sequence[bytes], size: int, parties: Parties) -> None:
        if self.reason is not None:
            return
        item: bytes | Transfer
        if size > FRAGMENT and self._cuts:
            self._sequence += 1
            item = Transfer(self._sequence, parts)
        else:
            item = b"".join((size.to_bytes(4), *parts))
        waits = self._lanes.take(parties, item)
        if not waits and isinstance(item, bytes):
            self.send(item)
            return
        if not waits:
            self._outbox.append(item)
        self._bulk_size += _bulk(item)
        self._queued(size)

    def _queued(self, size: int) -> None:
        """Have the writer see what was queued, within bounds."""
        self._largest = max(self._largest, size)
        waiting = self._outbox_size + self._bulk_size
        if waiting > MAX_OUTBOX + self._largest:
            logger.warning("[%s] does not read: %d bytes wait", self.peer.name, waiting)
            self.close("silent")
        elif self._writer is not None:
            writer, self._writer = self._writer, None
            trio.lowlevel.reschedule(writer)

    def _write_directly(self, frame: bytes) -> bytes:
        """Try to write without a task; gives what is left."""
        try:
            written = os.write(self._fd, frame)
        except BlockingIOError:
            return frame
        except OSError:
            self._stop_writing()
            return b""
        self.detector.wrote()
        return frame[written:]

    def _stop_writing(self) -> None:
        """The peer hears us no more; answers and a goodbye of its may wait to be read yet."""
        self._unheard = True
        self._fd = -1
        self._scope.deadline = trio.current_time() + LAST_WORDS

    def close(self, reason: PeerDownReason) -> None:
        """Have the connection closed, and tell so at once; only the first reason counts."""
        if self.reason is None:
            if reason == "lost":  # expected, once somebody said goodbye
                reason = "left" if self.leaving else "closed_by_us" if self.parting else reason
            self.reason = reason
            self._scope.cancel(f"connection closed: {reason}")
            if self.on_close is not None:
                self.on_close(self)

    def writable(self, size: int, parties: Parties) -> bool:
        """Whether little enough waits for the peer to read, for a signal of that many bytes."""
        if self._outbox_size >= HIGH_WATER:
            return False
        if self._bulk_size < HIGH_WATER:
            return True
        return (size <= FRAGMENT or not self._cuts) and not self._lanes.holds(parties)

    async def wait_writable(self, size: int, parties: Parties) -> None:
        """Wait until `writable`, or the connection ends."""
        while self.reason is None and not self.writable(size, parties):
            await self._room.wait()
        await trio.lowlevel.checkpoint_if_cancelled()

    async def flush(self) -> None:
        """Wait until all that is queued is in the kernel's hands, or the connection ends."""
        while self.reason is None and (self._outbox or self._begun or self._writing):
            await self._idle.wait()
        await trio.lowlevel.checkpoint()

    def pass_time(
        self,
        elapsed: float,
        acknowledged: Callable[[], int | None],
        unheard: Callable[[], float | None],
    ) -> Due:
        """Ask the detector what is due, and send a tick if that is it.

        Args:
          elapsed: seconds since the last call.
          acknowledged: tells how many bytes of ours the peer has acknowledged so far.
          unheard: tells for how long (seconds) it has acknowledged nothing.
        """
        due = self.detector.pass_time(
            elapsed,
            acknowledged=acknowledged() if self._writing else None,
            # Its kernel is asked ever less often while it does not read what we write.
            unheard=(lambda: None) if self._writing else unheard,
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
            # Large frames, or many of the same message, are read in large pieces.
            size = 4 * RECEIVE_SIZE if self.fragments else RECEIVE_SIZE
            size = min(max(self._frames.partial, size), MAX_RECEIVE_SIZE)
            data = bytes(await receive(size))
            if not data:
                return
            self.detector.read(len(data))

    async def _write(self) -> None:
        await trio.lowlevel.checkpoint()
        while True:  # noqa: ASYNC913 - it waits for something to write, or writes
            while not self._outbox and not self._begun:
                self._largest = 0
                self._idle.set()
                self._idle = trio.Event()
                await self._wait_for_more()
            whole, pieces = self._next_frames()
            frames = [*whole, *pieces]
            self._writing = True
            try:
                if self._unheard:
                    await trio.lowlevel.checkpoint()
                else:
                    await self.stream.send_all(frames[0] if len(frames) == 1 else b"".join(frames))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._stop_writing()
            finally:
                self._writing = False
                self._freed |= self._outbox_size >= HIGH_WATER
                self._outbox_size -= sum(map(len, whole))
                self._make_room()
            self._written_at = perf_counter()
            self.detector.wrote()

    def _make_room(self) -> None:
        """Have those look again who wait until `writable`, if any of them may find it so."""
        if self._outbox_size < HIGH_WATER and (self._freed or self._bulk_size < HIGH_WATER):
            self._freed = False
            self._room.set()
            self._room = trio.Event()

    def _next_frames(self) -> tuple[list[bytes], list[bytes]]:
        """What to write next: whole frames, and behind them pieces of large messages."""
        whole: list[bytes] = []
        pieces: list[bytes] = []
        size = 0
        outbox, begun = self._outbox, self._begun
        while outbox and size < WRITE_SIZE:
            item = outbox[0]
            if size + len(item) > WRITE_SIZE and whole:
                break
            outbox.popleft()
            if isinstance(item, Transfer):
                begun.append(item)  # what came after it and goes before it does not concern it
                continue
            whole.append(item)
            size += len(item)
        while begun and (size < WRITE_SIZE or not pieces):
            transfer = begun.popleft()
            before = transfer.left
            pieces.append(transfer.next())
            self._bulk_size -= before - transfer.left
            size += len(pieces[-1])
            if transfer.left:
                begun.append(transfer)
            else:
                self._free(transfer)
        return whole, pieces

    def _free(self, transfer: Transfer) -> None:
        """Let go what waited for a large message to leave."""
        self._freed = True
        for item in self._lanes.finish(transfer):
            self._outbox.append(item)
            if not isinstance(item, Transfer):
                self._outbox_size += len(item)
                self._bulk_size -= _bulk(item)

    async def _wait_for_more(self) -> None:
        self._writer = trio.lowlevel.current_task()

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._writer = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)


def _bulk(item: bytes | Transfer) -> int:
    """The size of what is counted among large messages."""
    return item.left if isinstance(item, Transfer) else len(item)


def _parts(encoded: bytes | Pieces) -> Sequence[bytes]:
    return encoded.parts if isinstance(encoded, Pieces) else (encoded,)
