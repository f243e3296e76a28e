"""The commands beside real BEAM nodes."""

from __future__ import annotations

import signal

from barnacle_trio.epmd import names
from tests.beam import COOKIE, open_beam, unique
from tests.cli_lab import assert_fails, assert_left_well, barnacle, running
from tests.cluster_lab import sees
from tests.erlang import Erlang


async def test_a_beam_is_listed_and_pinged(erlang: Erlang, epmd_port: int) -> None:
    async with running("epmd") as mapper:
        await mapper.line("port mapper")
        async with open_beam(erlang) as beam:
            listed = await barnacle("names")
            basename = beam.name.partition("@")[0]
            assert listed.out.split()[0] == basename
            ended = await barnacle("ping", beam.name)
            assert (ended.code, ended.err) == (0, "")
            assert ended.out.startswith(f"pong from {beam.name}: ")
            assert_fails(await barnacle("ping", beam.name, "--cookie", "x" * 20), 1, "cookie")
            await sees(beam)
            assert list(await names()) == [basename]
            assert_fails(await barnacle("ping", unique("absent")), 1, "is not registered")
            found = await barnacle("discover", "local-epmd:beam*", "epmd:other@127.0.0.1")
            assert found.out == f"{beam.name}\nother@127.0.0.1\n"


async def test_a_beam_with_short_names_is_pinged(erlang: Erlang, epmd_port: int) -> None:
    async with running("epmd") as mapper:
        await mapper.line("port mapper")
        async with open_beam(erlang, unique("short", "localhost"), short=True) as beam:
            ended = await barnacle("ping", beam.name)
            assert (ended.code, ended.err) == (0, "")


async def test_a_cluster_with_a_beam(erlang: Erlang, epmd_port: int) -> None:
    async with running("epmd") as mapper:
        await mapper.line("port mapper")
        name, beam_name = unique("py"), unique("beam")
        options = ("--json", "--poll-interval", "0.5", "local-epmd")
        async with running("run", "--name", name, *options) as node:
            await node.event("Started", node=name)
            async with open_beam(erlang, beam_name) as beam:
                await node.event("NodeUp", node=beam_name)
                await sees(beam, name)
                await beam.kill()
                await node.event("NodeDown", node=beam_name, reason="lost")
            async with open_beam(erlang, beam_name) as beam:
                await node.event("NodeUp", node=beam_name)
                ended = await node.end(signal.SIGTERM)
                await sees(beam)
    assert_left_well(ended)
    told = ended.objects()
    assert [each["type"] for each in told][-3:] == ["Draining", "NodeDown", "ShutDown"]
    assert all({"type", "time", "at"} <= each.keys() for each in told)
    assert COOKIE not in ended.out
