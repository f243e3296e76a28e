"""Ports for what tests start, none of which two tests are given at one time."""

from __future__ import annotations

import itertools
import os
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

_EVERYWHERE = (
    (socket.AF_INET, "0.0.0.0"),  # noqa: S104  # closed at once
    (socket.AF_INET6, "::"),
)
_WORKERS = 8


def _ports() -> Iterator[int]:
    """Ports below those that the system hands out to whoever asks for any, each once in a round.

    Each worker has its own: between the look that finds a port free and the moment that somebody
    listens there, another worker must not be given it.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    mine = list(range(10_000 + worker % _WORKERS, 20_000, _WORKERS))
    random.SystemRandom().shuffle(mine)
    return itertools.cycle(mine)


_next_ports = _ports()


def free_port() -> int:
    """A port that is free in both families, and that nobody else is given by chance."""
    for port in itertools.islice(_next_ports, 1000):
        with suppress(OSError), ExitStack() as stack:
            for family, address in _EVERYWHERE:
                sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind((address, port))
            return port
    raise AssertionError("none of 1,000 ports is free in IPv4 and IPv6")
