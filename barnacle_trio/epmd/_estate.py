"""What a port mapper leaves to its successor: open sockets, and what is known about them."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from barnacle_trio.epmd._wire import PortEntry


@dataclass(slots=True, kw_only=True)
class Estate:
    """The port, the sockets listened at, the connections that hold names, the next creation.

    Whoever has it owns the sockets, and closes them or goes on with them.
    """

    port: int
    next_creation: int
    listeners: list[socket.socket] = field(default_factory=list)
    names: list[tuple[PortEntry, socket.socket]] = field(default_factory=list)  # the oldest first

    @property
    def sockets(self) -> list[socket.socket]:
        """All of them."""
        return [*self.listeners, *(sock for _entry, sock in self.names)]

    def close(self) -> None:
        """Close these descriptors. What another process has of the same sockets goes on."""
        for sock in self.sockets:
            sock.close()

    def shut_down(self) -> None:
        """End the sockets themselves, for whoever has a descriptor of them, and close these."""
        for sock in self.sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self.close()

    def to_json(self, path: Sequence[str]) -> str:
        """Everything, with the sockets by their descriptors, for a process that inherits those.

        ``path`` is where that process imports from.
        """
        return json.dumps(
            {
                "path": [each for each in path if Path(each).is_absolute()],
                "port": self.port,
                "next_creation": self.next_creation,
                "listeners": [sock.fileno() for sock in self.listeners],
                "names": [
                    {
                        "fd": sock.fileno(),
                        "name": entry.name,
                        "port": entry.port,
                        "node_type": entry.node_type,
                        "protocol": entry.protocol,
                        "highest": entry.highest,
                        "lowest": entry.lowest,
                        "extra": entry.extra.hex(),
                    }
                    for entry, sock in self.names
                ],
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Estate:
        """Take over in the process that inherited the descriptors."""
        told: dict[str, Any] = json.loads(text)
        names: list[tuple[PortEntry, socket.socket]] = []
        for each in told["names"]:
            sock = _inherited(each.pop("fd"))
            extra = bytes.fromhex(each.pop("extra"))
            names.append((PortEntry(**each, extra=extra), sock))
        return cls(
            port=told["port"],
            next_creation=told["next_creation"],
            listeners=[_inherited(fd) for fd in told["listeners"]],
            names=names,
        )


def _inherited(fd: int) -> socket.socket:
    sock = socket.socket(fileno=fd)
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock
