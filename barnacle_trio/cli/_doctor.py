"""``barnacle doctor``: why two nodes cannot meet, step by step."""

from __future__ import annotations

import math
import secrets
from dataclasses import asdict, dataclass
from functools import partial

import trio

from barnacle_trio import ConfigurationError, NodeName, TlsOptions
from barnacle_trio.cli._edge import OK, Failed, one_line
from barnacle_trio.cli._findings import (
    Finding,
    judge_addresses,
    judge_handshake,
    judge_mapper,
    judge_names,
    judge_port,
    judge_registration,
    unresolved,
)
from barnacle_trio.cli._output import write_json, write_lines
from barnacle_trio.cli._ping import own_host, time_signs_of_life
from barnacle_trio.cli._probe import at_each, connects, resolve, shake_hands
from barnacle_trio.distribution._cookie import check_cookie, read_cookie_file
from barnacle_trio.distribution._tls_files import Keyring
from barnacle_trio.epmd import names
from barnacle_trio.epmd._client import mapper_port


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """An examination of the way from here to a node.

    Args:
      peer: the node.
      own: what the node here is called, or would be; it is not opened, its name is only compared.
      cookie: None is the one of Erlang's file.
      tls: certificates, where the cluster speaks inside TLS.
      fixed_port: where the node listens, in a cluster without port mappers.
      patience: seconds for each question.
      as_json: tell one object a line.
    """

    peer: NodeName
    own: NodeName | None
    cookie: str | bytes | None
    tls: TlsOptions | None
    fixed_port: int | None
    patience: float
    as_json: bool

    async def examine(self) -> int:
        """Tell each step as it is done; nothing is left behind.

        Raises:
          Failed: a step failed; no other follows.
          ConfigurationError: the cookie, a certificate, a port or the time is none.
        """
        cookie = await self._checked_cookie()
        if self.fixed_port is not None:
            mapper_port(self.fixed_port)
        if not 0 < self.patience < math.inf:
            raise ConfigurationError(f"--timeout is a positive number, not {self.patience:g}")
        await self._tell(judge_names(self.peer, self.own))
        addresses = await self._resolve()
        port = self.fixed_port or await self._look_up(addresses)
        reached, troubles = await at_each(
            addresses, partial(connects, port=port), patience=self.patience
        )
        await self._tell(judge_port(port, reached, troubles))
        host = await own_host(self.peer.host) if self.own is None else self.own.host
        name = NodeName(f"barnacle_{secrets.token_hex(6)}@{host}")
        keyring = None
        if self.tls is not None:
            keyring = Keyring(self.tls, name)
            await keyring.open()
        shaken = await shake_hands(
            *(next(iter(reached)), port),
            own=name,
            peer=self.peer,
            cookie=cookie,
            keyring=keyring,
            patience=self.patience,
        )
        for finding in judge_handshake(self.peer, shaken):
            await self._tell(finding)
        await self._tell(await self._ping(name, port, cookie))
        return OK

    async def _checked_cookie(self) -> bytes:
        if self.cookie is None:
            return await trio.to_thread.run_sync(read_cookie_file)
        await trio.lowlevel.checkpoint()
        return check_cookie(self.cookie)

    async def _resolve(self) -> list[str]:
        addresses: list[str] = []
        reason = f"no answer within {self.patience:g} s"
        try:
            with trio.move_on_after(self.patience):
                addresses = await resolve(self.peer.host)
        except OSError as error:
            reason = error.strerror or str(error)
        if addresses:
            await self._tell(judge_addresses(self.peer.host, addresses))
        else:
            await self._tell(unresolved(self.peer.host, reason))
        return addresses

    async def _look_up(self, addresses: list[str]) -> int:
        port = mapper_port()
        answers, troubles = await at_each(addresses, names, patience=self.patience)
        await self._tell(judge_mapper(port, answers, troubles))
        known = {name: port for answer in answers.values() for name, port in answer.items()}
        await self._tell(judge_registration(self.peer, known))
        return known[self.peer.basename]

    async def _ping(self, name: NodeName, port: int, cookie: bytes) -> Finding:
        await trio.lowlevel.checkpoint()
        try:
            connected, answered = await time_signs_of_life(
                self.peer,
                name=name,
                cookie=cookie,
                tls=self.tls,
                fixed_port=port,
                patience=self.patience,
            )
        except Failed as failure:
            return Finding(
                step="answer",
                state="failed",
                found=str(failure),
                advice="see the node's log: it lets nodes in, and closes or does not answer",
            )
        return Finding(
            step="answer",
            state="ok",
            found=f"connected in {1000 * connected:.1f} ms, answered in {1000 * answered:.1f} ms",
        )

    async def _tell(self, finding: Finding) -> None:
        if self.as_json:
            await write_json(asdict(finding))
        else:
            lines = [f"{finding.state:8} {finding.step:13} {one_line(finding.found)}"]
            if finding.advice is not None:
                lines.append(f"{'':23}-> {finding.advice}")
            await write_lines(lines)
        if finding.state == "failed":
            raise Failed(f"{self.peer} cannot be met: {finding.step}: {finding.found}")
