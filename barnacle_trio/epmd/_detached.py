"""A port mapper in a process of its own, that goes on where one inside a program ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import trio

from barnacle_trio.epmd._estate import Estate
from barnacle_trio.epmd._server import EpmdServer

READY: Final = b"ready"
"""What the new process writes once it holds the sockets."""

# What the new process may know of ours: nothing secret, such as a cookie, is among it.
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "ERL_EPMD_ADDRESS")

_LINGER = 0.3  # seconds without a name, after which it ends


async def hand_to_detached(estate: Estate) -> None:
    """Start a detached process that serves the estate from now on.

    It belongs to a session of its own, holds neither our terminal nor our working directory, is
    nobody's child, and ends with its last name. Our descriptors are closed in any case. Returns
    as soon as the process holds its own; requests that come before it answers wait in the kernel.

    Raises:
      OSError: it could not be started. As if cancelled, the sockets themselves are ended then,
        so that who holds a name knows at once and registers anew.
    """
    if not sys.executable or getattr(sys, "frozen", False):
        estate.shut_down()
        raise OSError("there is no Python interpreter to start")
    try:
        # By its path, not by `-m`: nothing but the standard library is imported until the
        # sockets are safe. `-P`: its own folder is no place to import from.
        started = await trio.run_process(
            [sys.executable, "-P", Path(__file__).with_name("__main__.py"), "--take-over"],
            stdin=estate.to_json(sys.path).encode(),
            capture_stdout=True,
            stderr=subprocess.DEVNULL,
            check=False,
            deliver_cancel=_kill,
            pass_fds=[sock.fileno() for sock in estate.sockets],
            cwd="/",
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            start_new_session=True,
        )
        if started.stdout != READY:
            raise OSError(f"the process ended with status {started.returncode}")
    except BaseException:
        estate.shut_down()
        raise
    estate.close()


async def _kill(process: trio.Process) -> None:
    process.kill()
    await trio.lowlevel.checkpoint()


async def serve_estate(estate: Estate) -> None:
    """Serve what was handed over until its last name is free."""
    server = EpmdServer(estate.port, estate=estate)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        await server.count.wait_value(0, held_for=_LINGER)
        nursery.cancel_scope.cancel("the last name is free")
