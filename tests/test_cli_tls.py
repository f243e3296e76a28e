"""`barnacle` in clusters inside TLS."""

from __future__ import annotations

from pathlib import Path

import pytest

from barnacle_trio import ConfigurationError, TlsOptions, open_node
from barnacle_trio.cli._node import TlsFiles
from tests.beam import COOKIE, open_beam, unique
from tests.cli_lab import assert_fails, barnacle, environ, running
from tests.doctors import examine
from tests.tls_lab import TLS_ERLANGS, YESTERDAY, Lab

pytestmark = pytest.mark.usefixtures("epmd_port")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def options(tls: TlsOptions) -> list[str]:
    return ["--tls-cert", str(tls.cert), "--tls-key", str(tls.key), "--tls-ca", str(tls.ca)]


# -- the options ----------------------------------------------------------------------------------


def test_what_is_given() -> None:
    assert TlsFiles().options() is None
    cert, key, ca = Path("c.pem"), Path("c.key"), Path("ca.pem")
    given = TlsFiles(tls_cert=cert, tls_key=key, tls_ca=ca, tls_check_name="any")
    assert given.options({}) == TlsOptions(cert, key, ca, check_name="any")
    assert given.options({"BARNACLE_TLS_PASSWORD": "sesame"}) == TlsOptions(
        cert, key, ca, check_name="any", password="sesame"
    )
    insecure = TlsFiles(tls_cert=cert, tls_insecure=True)
    assert insecure.options({}) == TlsOptions(cert, verify=False)


def test_what_does_not_go_together() -> None:
    with pytest.raises(ConfigurationError, match="--tls-ca"):
        TlsFiles(tls_cert=Path("c.pem")).options({})
    with pytest.raises(ConfigurationError, match="--tls-cert"):
        TlsFiles(tls_ca=Path("ca.pem")).options({})


# -- the commands ---------------------------------------------------------------------------------


async def test_run_and_ping(lab: Lab) -> None:
    tls = lab.options()
    name = unique("stays")
    async with (
        open_node(unique("py"), cookie=COOKIE, tls=tls) as node,
        running(
            "run", "--name", name, *options(tls), "--json", f"epmd:{node.name}", env=environ()
        ) as run,
    ):
        await run.event("NodeUp", node=node.name)
        assert (await barnacle("ping", name, *options(tls))).code == 0
        ended = await barnacle("ping", name)
        assert_fails(ended, 1, "speak TLS")
        ended = await run.end()
        assert ended.code == 0
        assert "the peer speaks no TLS" in ended.err


async def test_an_encrypted_key(lab: Lab) -> None:
    tls = lab.encrypted("open sesame")
    async with open_node(unique("py"), cookie=COOKIE, tls=tls) as node:
        env = environ(BARNACLE_TLS_PASSWORD="open sesame")
        assert (await barnacle("ping", node.name, *options(tls), env=env)).code == 0
        ended = await barnacle("ping", node.name, *options(tls))
        assert_fails(ended, 2, "the key is encrypted")


async def test_files_that_are_not_there() -> None:
    ended = await barnacle("ping", "x@127.0.0.1", "--tls-cert", "/no/c", "--tls-ca", "/no/ca")
    assert_fails(ended, 2, "/no/c", "No such file")


# -- the doctor -----------------------------------------------------------------------------------


async def test_the_doctor_finds_nothing(lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    tls = lab.options()
    async with open_node(unique("py"), cookie=COOKIE, tls=tls) as node:
        examined = await examine(capfd, node.name, tls=tls)
    assert examined.reason is None
    assert set(examined.states.values()) == {"ok"}
    steps = list(examined.states)
    assert steps.index("port") < steps.index("tls") < steps.index("handshake")
    assert "both speak TLSv1.3" in [finding["found"] for finding in examined.findings]


async def test_the_doctor_at_a_node_without_tls(
    lab: Lab, capfd: pytest.CaptureFixture[str]
) -> None:
    async with open_node(unique("py"), cookie=COOKIE) as node:
        step, _, advice = (await examine(capfd, node.name, tls=lab.options())).failure
    assert step == "tls"
    assert "without TLS" in advice


async def test_the_doctor_at_a_beam_node_without_tls(
    lab: Lab, capfd: pytest.CaptureFixture[str]
) -> None:
    async with open_node(unique("py"), cookie=COOKIE), open_beam(TLS_ERLANGS[0]) as beam:
        examined = await examine(capfd, beam.name, tls=lab.options(), patience=0.5)
    step, found, advice = examined.failure
    assert (step, found) == ("tls", "no answer to a TLS greeting within 0.5 s")
    assert "without TLS" in advice


async def test_the_doctor_on_certificates(lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    expired = lab.special(addresses=["127.0.0.1"], not_after=YESTERDAY)
    async with open_node(unique("py"), cookie=COOKIE, tls=lab.options()) as node:
        step, found, advice = (await examine(capfd, node.name, tls=expired)).failure
        assert step == "tls"
        assert "refused this node's TLS: certificate expired" in found
        assert "openssl x509" in advice
        elsewhere = lab.options("10.0.0.7", file="elsewhere")
    async with open_node(unique("py"), cookie=COOKIE, tls=elsewhere) as node:
        step, found, _ = (await examine(capfd, node.name, tls=lab.options())).failure
        assert step == "tls"
        assert "its certificate is for '10.0.0.7', not for '127.0.0.1'" in found


async def test_the_doctor_with_a_certificate_for_another_host(
    lab: Lab, capfd: pytest.CaptureFixture[str]
) -> None:
    """Who is dialled turns it away by its name, and does not tell why."""
    elsewhere = lab.options("10.0.0.7", file="elsewhere")
    async with open_node(unique("py"), cookie=COOKIE, tls=lab.options()) as node:
        step, found, advice = (await examine(capfd, node.name, tls=elsewhere)).failure
    assert step == "handshake"
    assert "does not allow this node to connect" in found
    assert "the certificate is not for the host in this node's name (--name)" in advice


async def test_the_doctor_on_a_wrong_cookie_inside_tls(
    lab: Lab, capfd: pytest.CaptureFixture[str]
) -> None:
    tls = lab.options()
    async with open_node(unique("py"), cookie="a_cookie_of_others", tls=tls) as node:
        examined = await examine(capfd, node.name, tls=tls)
    assert examined.failure[0] == "cookie"
    assert examined.states["tls"] == "ok"
