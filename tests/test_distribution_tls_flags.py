"""Erlang's file of options for TLS distribution, and the terms in it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barnacle_trio import Atom, ConfigurationError, NodeOptions, TlsOptions, open_node
from barnacle_trio.distribution._erlang_terms import MAX_DEPTH, parse_terms
from barnacle_trio.distribution._tls_flags import MAX_FILE, parse_optfile, read_optfile
from tests.beam import COOKIE, unique
from tests.tls_lab import Lab

# -- terms ----------------------------------------------------------------------------------------

GOOD = {
    "": [],
    "a. 'B c'. true. ": [Atom("a"), Atom("B c"), Atom("true")],
    '"text".': ["text"],
    r'"a\"b\\c\n\t\x41\x{e9}\101\^A\z".': ['a"b\\c\n\tA\xe9A\x01z'],
    r"'it\'s'.": [Atom("it's")],
    '<<"bytes">>. << "b" >>. <<"\xe9"/utf8>>.': [b"bytes", b"b", "\xe9".encode()],
    "1. -12. 0.": [1, -12, 0],
    "[]. {}. [a,{b , [1]}].": [[], (), [Atom("a"), (Atom("b"), [1])]],
    "% a comment\n[a % another\n , b].% the end": [[Atom("a"), Atom("b")]],
    "'tlsv1.3'.\n['tlsv1.2'].": [Atom("tlsv1.3"), [Atom("tlsv1.2")]],
}


@pytest.mark.parametrize("text", GOOD)
def test_terms(text: str) -> None:
    assert parse_terms(text) == GOOD[text]


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a b.",
        "[a.",
        "[a,].",
        "[,a].",
        "{a;b}.",
        "[a}.",
        "]",
        "].",
        ".",
        '"open.',
        "'open.",
        "Variable.",
        "1.5.",
        "16#ff.",
        "1abc.",
        "#{a => 1}.",
        "[a|b].",
        "fun x:y/1.",
        "<<1,2>>.",
        "$a.",
        '"a" "b".',
        "\x00.",
        "'" + "x" * 300 + "'.",
        "9" * 10_000 + ".",
        "[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2) + ".",
        "[" * 100_000,
    ],
)
def test_what_is_no_term(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
        parse_terms(text)


def test_a_fault_is_told_by_its_line_and_not_by_its_text() -> None:
    with pytest.raises(ValueError, match="line 3: ") as caught:
        parse_terms('[{a, "x"},\n % no\n {password, Sesame}].')
    assert "esame" not in str(caught.value)


@given(st.text())
def test_no_text_does_more_than_be_refused(text: str) -> None:
    with suppress(ValueError):
        parse_terms(text)


@given(st.text("[]{},.'\"<>%\\ab1 \n-", max_size=60))
def test_no_text_of_their_letters_does_more_than_be_refused(text: str) -> None:
    with suppress(ValueError):
        parse_terms(text)


# -- options --------------------------------------------------------------------------------------

BASE = '{certfile, "c.pem"}, {keyfile, "c.key"}, {cacertfile, "ca.pem"}'
BOTH = TlsOptions("c.pem", "c.key", "ca.pem")

FILES = {
    f"""[{{server, [{BASE}, {{verify, verify_peer}}, {{fail_if_no_peer_cert, true}}]}},
         {{client, [{BASE}, {{verify, verify_peer}}]}}].""": replace(
        BOTH, client_cert="c.pem", client_key="c.key"
    ),
    # As since OTP 26: a client verifies, a server does not.
    f'[{{server, [{BASE}]}}, {{client, [{{cacertfile, <<"ca.pem">>}}]}}].': replace(
        BOTH, client_certificates=False
    ),
    f"[{{server, [{BASE}]}}].": replace(BOTH, client_certificates=False),
    '[{server, [{certfile, "both.pem"}]}, {client, [{verify, verify_none}]}].': TlsOptions(
        "both.pem", verify=False, client_certificates=False
    ),
    f"""[{{server, [{BASE}, {{password, "open sesame"}}, {{versions, ['tlsv1.3']}}, honor_order]}},
         {{client, [{{versions, ['tlsv1.3']}}, {{server_name_indication, disable}}]}}].""": replace(
        BOTH,
        client_certificates=False,
        password="open sesame",
        minimum_version="1.3",
        check_name="any",
    ),
    f"""[{{server, [{BASE}, {{versions, ['tlsv1.3', 'tlsv1.2', 'tlsv1.1']}}]}}].""": replace(
        BOTH, client_certificates=False
    ),
    # Of an option given repeatedly the first one counts.
    f'[{{server, [{BASE}, {{certfile, "later.pem"}}]}}].': replace(BOTH, client_certificates=False),
}


@pytest.mark.parametrize("text", FILES)
def test_what_a_file_says(text: str) -> None:
    assert parse_optfile(text) == FILES[text]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "one list is expected, not 0 terms"),
        ("[]. [].", "not 2 terms"),
        ("{server, []}.", "a list"),
        ("[{server, x}].", "a list"),
        ("[{server, []}].", "no certfile"),
        ("[{sevrer, []}].", "neither server nor client"),
        ("[1].", "no option"),
        ("[{server, [{a,b,c}]}].", "no option"),
        ('[{server, [{certfile, "c.pem"}]}].', "neither cacertfile nor"),
        (f"[{{server, [{BASE}, {{certs_keys, []}}]}}].", "certs_keys cannot be followed"),
        (f"[{{server, [{BASE}]}}, {{client, [{{verify_fun, x}}]}}].", "client's verify_fun"),
        (f"[{{server, [{BASE}, {{verify, maybe_so}}]}}].", "verify makes no sense"),
        (f"[{{server, [{BASE}, {{versions, all}}]}}].", "versions makes no sense"),
        ("[{server, [{certfile, 5}]}].", "certfile makes no sense"),
        (f'[{{server, [{BASE}]}}, {{client, [{{cacertfile, "x"}}]}}].', "each another cacert"),
        (
            f"[{{server, [{BASE}, {{verify, verify_peer}}]}},"
            "{client, [{verify, verify_none}]}].",
            "is not done here",
        ),
    ],
)
def test_what_cannot_be_followed(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        parse_optfile(text)


def test_the_file_is_named_and_its_values_are_not(tmp_path: Path) -> None:
    path = tmp_path / "ssl.conf"
    path.write_text('[{server, [{password, {"open sesame"}}]}].')
    with pytest.raises(ConfigurationError, match=r"ssl\.conf: .*TlsOptions") as caught:
        read_optfile(path)
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "fault"),
    [(None, "No such file"), (b"\xff\xfe.", "not UTF-8"), (b" " * (MAX_FILE + 1), "longer than")],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, data: bytes | None, fault: str) -> None:
    path = tmp_path / "ssl.conf"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ConfigurationError, match=fault):
        read_optfile(path)


# -- flags ----------------------------------------------------------------------------------------


def test_the_flag_is_read() -> None:
    flags = "-name a@127.0.0.1 -proto_dist inet_tls -ssl_dist_optfile /etc/ssl.conf"
    options = NodeOptions.from_erl_flags({"ERL_FLAGS": flags})
    assert options.tls
    assert options.ssl_dist_optfile == Path("/etc/ssl.conf")


@pytest.mark.usefixtures("epmd_port")
async def test_tls_without_certificates_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    name = unique("py")
    monkeypatch.setenv("ERL_FLAGS", f"-name {name} -proto_dist inet_tls")
    with pytest.raises(ConfigurationError, match="give tls=TlsOptions"):
        async with open_node(cookie=COOKIE):
            raise AssertionError


@pytest.mark.usefixtures("epmd_port")
async def test_what_is_given_goes_before_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flags = f"-name {unique('py')} -proto_dist inet_tls -ssl_dist_optfile /nonexistent"
    monkeypatch.setenv("ERL_FLAGS", flags)
    with pytest.raises(ConfigurationError, match="/nonexistent"):
        async with open_node(cookie=COOKIE):
            raise AssertionError
    async with open_node(cookie=COOKIE, tls=Lab(tmp_path).options()) as node:
        assert node.nodes.value == frozenset()


# -- what is given --------------------------------------------------------------------------------


def test_verification_needs_an_authority() -> None:
    with pytest.raises(ConfigurationError, match="ca="):
        TlsOptions("c.pem", "c.key")


@pytest.mark.parametrize(
    "wrong",
    [
        {"check_name": "hosts"},
        {"minimum_version": "1.1"},
        {"client_key": "x"},
    ],
)
def test_what_makes_no_sense(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        TlsOptions("c.pem", "c.key", "ca.pem", **wrong)  # type: ignore[arg-type]


@pytest.mark.usefixtures("epmd_port")
@pytest.mark.parametrize("lacking", ["cert", "key", "ca"])
@pytest.mark.parametrize("content", [None, b"", b"no certificate\n"])
async def test_files_that_cannot_be_used(
    tmp_path: Path, lacking: str, content: bytes | None
) -> None:
    lab = Lab(tmp_path)
    files: Any = {lacking: tmp_path / "lacking.pem"}
    tls = replace(lab.options(), **files)
    if content is not None:
        lab.folder.joinpath("lacking.pem").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"lacking\.pem"):
        async with open_node(unique("py"), cookie=COOKIE, tls=tls):
            raise AssertionError
