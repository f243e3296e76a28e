"""The `fly` strategy. Fly.io's DNS cannot run here: a dnsmasq serves the same names instead."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from barnacle_trio import ASK, ConfigurationError, NodeName, Strategy, fly
from barnacle_trio._strategy import Discovery, discover
from barnacle_trio.epmd import open_registration
from tests.beam import COOKIE
from tests.dns_server import DnsServer, open_dns_server, resolver_for
from tests.epmd_lab import real_epmd
from tests.erlang import require_erlangs

OURS = "fdaa:0:1:a7b:7d:f066:b83b:2"
THEIRS = "fdaa:0:1:a7b:1::2"
MORE = "fdaa:0:1:a7b:0:1:2:3"
LOCAL = NodeName(f"my_snake@{OURS}")
VMS = "683d314fdd4d68 ams,568323e9b54dd8 lhr,148ed193b95948 ams"
ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples" / "fly_io"


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Fly.io tells each machine."""
    monkeypatch.setenv("FLY_APP_NAME", "my-snake")
    monkeypatch.setenv("FLY_PRIVATE_IP", OURS)
    monkeypatch.setenv("FLY_REGION", "ams")
    monkeypatch.setenv("FLY_MACHINE_ID", "683d314fdd4d68")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[DnsServer]:
    async with open_dns_server(tmp_path, zones=["internal"]) as server:
        await server.set_lines(f'txt-record=vms.my-snake.internal,"{VMS}"')
        await server.set_records("my-snake.internal", OURS, THEIRS, MORE)
        await server.set_records("ams.my-snake.internal", OURS, MORE)
        await server.set_records("lhr.my-snake.internal", THEIRS)
        await server.set_records("my-shop.internal", "fdaa:0:1:a7b:2::2")
        yield server


async def ask(strategy: Strategy, local: NodeName = LOCAL) -> Discovery:
    with trio.fail_after(20):
        return await discover(strategy, local)


def told(answer: Discovery) -> tuple[str, set[str]]:
    return answer.kind, {name.host for name in answer.nodes}


class TestDnsmasqInFlysPlace:
    async def test_the_machines_of_ones_own_app_are_the_default(self, server: DnsServer) -> None:
        answer = await ask(fly(basename="other", resolver=resolver_for(server.port)))
        assert told(answer) == ("complete", {OURS, THEIRS, MORE})
        assert {name.basename for name in answer.nodes} == {"other"}

    async def test_several_apps_are_one_answer(self, server: DnsServer) -> None:
        resolver = resolver_for(server.port)
        answer = await ask(fly(["my-shop", "my-snake"], basename="x", resolver=resolver))
        assert told(answer) == ("complete", {OURS, THEIRS, MORE, "fdaa:0:1:a7b:2::2"})
        answer = await ask(fly(["my-shop", "tpyo"], basename="x", resolver=resolver))
        assert told(answer) == ("partial", {"fdaa:0:1:a7b:2::2"})
        assert "tpyo.internal.: no such name" in str(answer.error)

    @pytest.mark.parametrize(
        ("region", "hosts"),
        [
            ("ams", {OURS, MORE}),
            ("here", {OURS, MORE}),
            (["here", "ams"], {OURS, MORE}),
            (["lhr"], {THEIRS}),
            (["ams", "lhr"], {OURS, MORE, THEIRS}),
        ],
    )
    async def test_regions_choose(
        self, server: DnsServer, region: str | list[str], hosts: set[str]
    ) -> None:
        strategy = fly(region=region, basename="x", resolver=resolver_for(server.port))
        assert told(await ask(strategy)) == ("complete", hosts)

    async def test_a_region_without_machines_is_no_failure(self, server: DnsServer) -> None:
        resolver = resolver_for(server.port)
        some = fly(region=["lhr", "syd"], basename="x", resolver=resolver)
        none = fly(region="syd", basename="x", resolver=resolver)
        assert told(await ask(some)) == ("complete", {THEIRS})
        assert told(await ask(none)) == ("complete", set())

    async def test_a_region_is_a_failure_where_no_list_says_that_it_is_empty(
        self, server: DnsServer
    ) -> None:
        resolver = resolver_for(server.port)
        for lines in ((), (f'txt-record=vms.my-snake.internal,"{VMS},1 syd,nonsense"',)):
            await server.set_lines(*lines)
            strategy = fly(region=["lhr", "syd"], basename="x", resolver=resolver)
            answer = await ask(strategy)
            assert told(answer) == ("partial", {THEIRS})
            assert str(answer.error) == "syd.my-snake.internal.: no such name"

    async def test_a_server_that_is_down_is_a_failure(self, server: DnsServer) -> None:
        await server.stop()
        for how in ({}, {"region": "ams"}, {"host": "machine"}):
            resolver = resolver_for(server.port)
            strategy = fly(resolver=resolver, timeout=0.2, **how)  # type: ignore[arg-type]
            assert (await ask(strategy)).kind == "failed"

    @pytest.mark.parametrize(
        ("region", "machines"),
        [
            (None, {"683d314fdd4d68", "568323e9b54dd8", "148ed193b95948"}),
            ("here", {"683d314fdd4d68", "148ed193b95948"}),
            ("syd", set()),
        ],
    )
    async def test_nodes_may_be_named_by_their_machines(
        self, server: DnsServer, region: str | None, machines: set[str]
    ) -> None:
        resolver = resolver_for(server.port)
        strategy = fly(host="machine", region=region, basename="x", resolver=resolver)
        hosts = {f"{machine}.vm.my-snake.internal" for machine in machines}
        assert told(await ask(strategy)) == ("complete", hosts)

    async def test_a_long_list_of_machines_is_put_together(self, server: DnsServer) -> None:
        """It comes in texts of 255 bytes at most, cut anywhere."""
        machines = [f"{number:014x}" for number in range(40)]
        listed = ",".join(f"{machine} ams" for machine in machines)
        parts = [listed[start : start + 255] for start in range(0, len(listed), 255)]
        texts = ",".join(f'"{part}"' for part in parts)
        await server.set_lines(f"txt-record=vms.my-snake.internal,{texts}")
        resolver = resolver_for(server.port)
        answer = await ask(fly(host="machine", basename="x", resolver=resolver))
        assert told(answer) == ("complete", {f"{each}.vm.my-snake.internal" for each in machines})

    async def test_what_is_no_machine_is_left_out_and_told_once(
        self, server: DnsServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        text = "683d314fdd4d68 ams,nonsense,a@b ams,.. ams,,148ed193b95948 amsterdam"
        await server.set_lines(f'txt-record=vms.my-snake.internal,"{text}"')
        strategy = fly(host="machine", basename="x", resolver=resolver_for(server.port))
        for _ in range(2):
            answer = await ask(strategy)
            assert told(answer) == ("complete", {"683d314fdd4d68.vm.my-snake.internal"})
        (line,) = [record.getMessage() for record in caplog.records]
        assert line == (
            "fly('my-snake'): left out what is no node's machine: "
            "'.. ams', '148ed193b95948 amsterdam', 'a@b ams', 'nonsense'"
        )

    @pytest.mark.parametrize("local", [f"my_snake@{OURS}", "my_snake@fly-local-6pn"])
    async def test_whatever_runs_at_each_address_is_found_save_oneself(
        self,
        server: DnsServer,
        epmd_port: int,
        local: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """By the one address that a machine here has for certain."""
        monkeypatch.setenv("FLY_PRIVATE_IP", "::1")
        await server.set_records("my-snake.internal", "::1")
        strategy = fly(resolver=resolver_for(server.port))
        async with (
            real_epmd(epmd_port),
            open_registration("my_snake", 4000),
            open_registration("my-shop-01JAB3", 4001),
        ):
            answer = await ask(strategy, NodeName(local))
        assert (answer.kind, set(answer.nodes)) == ("complete", {"my-shop-01JAB3@::1"})


class TestCalls:
    def test_nothing_that_names_an_app_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("FLY_APP_NAME")
        fly("my-snake")
        with pytest.raises(ConfigurationError, match="FLY_APP_NAME is not set"):
            fly()
        monkeypatch.setenv("FLY_APP_NAME", "not an app")
        with pytest.raises(ConfigurationError, match="FLY_APP_NAME does not name an app"):
            fly()

    def test_no_region_to_be_here_in_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("FLY_REGION")
        fly(region="ams")
        with pytest.raises(ConfigurationError, match="FLY_REGION is not set"):
            fly(region="here")

    @pytest.mark.parametrize("app", ["", [], "my app", "a.b", "-a", "A", "a@b", b"a", 7, "x" * 64])
    def test_what_is_no_app_is_refused(self, app: str) -> None:
        with pytest.raises(ConfigurationError, match="app"):
            fly(app)

    @pytest.mark.parametrize("region", ["", [], "Ams", "amst", ["ams", "x"]])
    def test_what_is_no_region_is_refused(self, region: str) -> None:
        with pytest.raises(ConfigurationError, match="region"):
            fly(region=region)

    def test_what_is_no_kind_of_host_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="'address' or 'machine'"):
            fly(host="name")  # type: ignore[arg-type]

    def test_an_address_that_is_none_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FLY_PRIVATE_IP", "nonsense")
        with pytest.raises(ConfigurationError, match="FLY_PRIVATE_IP"):
            fly()

    def test_it_is_called_what_it_asks_for(self) -> None:
        assert repr(fly()) == "fly('my-snake')"
        assert repr(fly(["a", "b"], basename=ASK)) == "fly('a', 'b')"
        assert repr(fly("a", region=["here", "lhr"])) == "fly('a', region=['ams', 'lhr'])"


# -- the example ----------------------------------------------------------------------------------


def _ip(*arguments: str) -> str:
    done = subprocess.run(
        ["ip", *arguments], check=True, capture_output=True, text=True, timeout=20
    )
    return done.stdout


@pytest.fixture
def machines() -> Iterator[tuple[str, str]]:
    """Two network namespaces that see each other, as two machines on Fly.io do."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        complaint = "network namespaces need root and iproute2: the fly_io example is NOT tested"
        if os.environ.get("CI"):
            pytest.fail(complaint)
        pytest.skip(complaint)
    first, second = names = (f"fly-{os.getpid()}-a", f"fly-{os.getpid()}-b")
    try:
        for name in names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", first, "link", "add", "eth0", "type", "veth", "peer", "eth0", "netns", second)
        for name, addresses in ((first, (OURS, "fdaa::3")), (second, (THEIRS,))):
            for address in addresses:
                _ip("-n", name, "addr", "add", f"{address}/16", "dev", "eth0", "nodad")
            _ip("-n", name, "link", "set", "eth0", "up")
        yield names
    finally:
        for name in names:
            with suppress(subprocess.CalledProcessError):
                for pid in _ip("netns", "pids", name).split():  # port mappers that BEAMs left
                    os.kill(int(pid), signal.SIGKILL)
                _ip("netns", "delete", name)


def _in(namespace: str, *arguments: str) -> list[str]:
    program = [sys.executable, "-W", "error", "-m", "tests.fly_program", *arguments]
    return ["ip", "netns", "exec", namespace, *program]


async def test_the_example_meets_an_app_whose_names_change_with_every_image(
    machines: tuple[str, str], tmp_path: Path
) -> None:
    first, second = machines
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ERL_")},
        "CLUSTER_APPS": "my-snake,my-shop",
        "RELEASE_COOKIE": COOKIE,
    }
    process = await trio.lowlevel.open_process(
        _in(first, "example", str(tmp_path), OURS, THEIRS),
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=environ,
    )
    assert process.stdout is not None
    printed = b""
    try:
        with trio.fail_after(90):
            while b"looks for" not in printed:
                data = await process.stdout.receive_some()
                assert data, "the example ended"
                printed += data
            done = await trio.run_process(
                _in(second, "beams", OURS, THEIRS), cwd=ROOT, env=environ, capture_stdout=True
            )
            assert done.stdout.count(b"met") == len(require_erlangs())
            process.send_signal(signal.SIGTERM)
            async for data in process.stdout:
                printed += data
            assert await process.wait() == 0
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        await process.stdout.aclose()
    shown = printed.decode().splitlines()
    images = [f"my-shop-01JAB{image}@{THEIRS}" for image in range(len(require_erlangs()))]
    assert shown[0] == f"my-snake@{OURS} looks for fly('my-snake', 'my-shop')"
    assert [line for line in shown if line.startswith("up:")] == [f"up: {each}" for each in images]
    assert f"down: {images[0]} (lost)" in shown
    assert shown[-1] == "left"


def test_the_examples_files_fit_each_other() -> None:
    settings = tomllib.loads((FOLDER / "fly.toml").read_text())
    dockerfile = (FOLDER / "Dockerfile").read_text()
    main = (FOLDER / "main.py").read_text()
    assert (FOLDER / settings["build"]["dockerfile"]).is_file()
    assert settings["app"] in settings["env"]["CLUSTER_APPS"].split(",")
    for copied in re.findall(r"^COPY (\S+) ", dockerfile, re.MULTILINE):
        assert (FOLDER / copied).is_file()
    # What gets the signal is the program itself, and it has the time that it takes to drain.
    assert ast.literal_eval(dockerfile.rpartition("CMD ")[2])[-1] == "main.py"
    assert settings["kill_signal"] == "SIGTERM"
    (grace,) = re.findall(r"drain\(grace=(\d+)\)", main)
    assert int(grace) < int(settings["kill_timeout"].removesuffix("s"))
    for variable in settings["env"]:
        assert f'"{variable}"' in main
    # A machine that is stopped for want of visitors would be lost to the cluster.
    assert not {"http_service", "services"} & settings.keys()
