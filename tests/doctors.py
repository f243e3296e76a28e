"""`barnacle doctor` inside the test's own process."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import trio

from barnacle_trio import NodeName, TlsOptions
from barnacle_trio.cli._doctor import Doctor
from barnacle_trio.cli._edge import Failed
from tests.beam import COOKIE


@dataclass(frozen=True)
class Examined:
    """What was told, one finding after the other, and why it ended; None if all is well."""

    findings: list[dict[str, str]]
    reason: str | None

    @property
    def states(self) -> dict[str, str]:
        return {finding["step"]: finding["state"] for finding in self.findings}

    @property
    def failure(self) -> tuple[str, str, str]:
        """The step at which it failed, what was found, and what to do."""
        assert [*self.states.values()].count("failed") == 1
        last = self.findings[-1]
        assert last["state"] == "failed"
        assert last["advice"]
        assert self.reason is not None
        assert self.reason.endswith(f" cannot be met: {last['step']}: {last['found']}")
        return last["step"], last["found"], last["advice"]


async def examine(
    capfd: pytest.CaptureFixture[str],
    peer: str,
    *,
    own: str | None = None,
    cookie: str = COOKIE,
    tls: TlsOptions | None = None,
    port: int | None = None,
    patience: float = 5.0,
) -> Examined:
    """Examine the way to a node, to the end."""
    doctor = Doctor(
        peer=NodeName(peer),
        own=None if own is None else NodeName(own),
        cookie=cookie,
        tls=tls,
        fixed_port=port,
        patience=patience,
        as_json=True,
    )
    capfd.readouterr()
    reason = None
    with trio.fail_after(30):
        try:
            assert await doctor.examine() == 0
        except Failed as failure:
            reason = str(failure)
    out = capfd.readouterr().out
    assert cookie not in f"{out} {reason}"
    return Examined([json.loads(line) for line in out.splitlines()], reason)
