"""Nodes at addresses that only a network namespace can give them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.erlang import require_erlangs

OURS, THEIRS = "fdaa::3", "fdaa:0:1::4"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)


@pytest.fixture
def namespace() -> Iterator[str]:
    """A network namespace of its own, with two private IPv6 addresses on its loopback."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        complaint = "network namespaces need root and iproute2: IPv6 beyond ::1 is NOT tested here"
        if os.environ.get("CI"):
            pytest.fail(complaint)
        pytest.skip(complaint)
    name = f"barnacle-{os.getpid()}"
    _ip("netns", "add", name)
    try:
        _ip("-n", name, "link", "set", "lo", "up")
        for address in (OURS, THEIRS):
            _ip("-n", name, "addr", "add", f"{address}/128", "dev", "lo", "nodad")
        yield name
    finally:
        _ip("netns", "delete", name)


def test_private_ipv6_addresses_meet_beam_nodes(namespace: str) -> None:
    program = [sys.executable, "-W", "error", "-m", "tests.ipv6_program", OURS, THEIRS]
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, *program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("met") == len(require_erlangs())
