"""A switch in a program: it loses, delays, jitters and so reorders packets between its ports.

The kernels that tests run on may lack ``netem``. Run inside the namespace of a switch, whose ports
are the ends of the hosts' cards: ``python -m tests.lab.wire --loss 5 --delay 50 p1 p2``.
"""

from __future__ import annotations

import argparse
import fcntl
import heapq
import itertools
import random
import selectors
import socket
import struct
import time
from contextlib import suppress

_ETH_P_ALL = 3
_SIOCETHTOOL = 0x8946
# Checksums are to be made, and packets cut to size, before a program sees them.
_TURNED_OFF = {"tx checksums": 0x17, "tso": 0x1F, "gso": 0x24, "gro": 0x2C}


def prepare(card: str) -> None:
    """Have the kernel send on a card what could travel over a real cable."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        import array

        for command in _TURNED_OFF.values():
            value = array.array("B", struct.pack("II", command, 0))
            address, _ = value.buffer_info()
            request = struct.pack("16sP", card.encode(), address)
            fcntl.ioctl(sock.fileno(), _SIOCETHTOOL, request)


def forward(ports: list[str], *, loss: float, delay: float, jitter: float, seed: int) -> None:
    """Carry frames between the ports, for ever. Times in seconds, ``loss`` from 0 to 1."""
    chance = random.Random(seed)
    sockets: list[socket.socket] = []
    selector = selectors.DefaultSelector()
    for port in ports:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        sock.bind((port, 0))
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ, sock)
        sockets.append(sock)
    print("ready", flush=True)
    known: dict[bytes, socket.socket] = {}
    order = itertools.count()
    waiting: list[tuple[float, int, socket.socket, bytes]] = []
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, target, frame = heapq.heappop(waiting)
            with suppress(OSError):  # as with a cable, what does not fit is lost
                target.send(frame)
        pause = waiting[0][0] - time.monotonic() if waiting else None
        for key, _ in selector.select(None if pause is None else max(pause, 0)):
            source: socket.socket = key.data
            for _ in range(64):
                try:
                    frame, (_, _, kind, _, _) = source.recvfrom(65536)
                except BlockingIOError:
                    break
                if kind == socket.PACKET_OUTGOING:
                    continue
                known[frame[6:12]] = source
                found = known.get(frame[:6])
                # An address is asked for by everybody at first: that is not what is tried here.
                spared = frame[12:14] == b"\x08\x06"
                for target in [found] if found else [each for each in sockets if each != source]:
                    if not spared and chance.random() < loss:
                        continue
                    late = 0.0 if spared else max(0.0, delay + chance.uniform(-jitter, jitter))
                    due = time.monotonic() + late
                    heapq.heappush(waiting, (due, next(order), target, frame))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prepare", metavar="CARD")
    parser.add_argument("--loss", type=float, default=0, help="percent")
    parser.add_argument("--delay", type=float, default=0, help="milliseconds")
    parser.add_argument("--jitter", type=float, default=0, help="milliseconds, either way")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("ports", nargs="*")
    given = parser.parse_args()
    if given.prepare:
        prepare(given.prepare)
    else:
        forward(
            given.ports,
            loss=given.loss / 100,
            delay=given.delay / 1000,
            jitter=given.jitter / 1000,
            seed=given.seed,
        )


if __name__ == "__main__":
    main()
