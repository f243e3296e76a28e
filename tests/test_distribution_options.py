"""Options from erl's variables: as ``erl`` itself reads them."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barnacle_trio._errors import ConfigurationError
from barnacle_trio._names import NodeName
from barnacle_trio.distribution import _options
from barnacle_trio.distribution._options import NodeOptions, erl_flags, split_words
from tests.erlang import Erlang


def options(flags: str, **environ: str) -> NodeOptions:
    return NodeOptions.from_erl_flags({"ERL_FLAGS": flags, **environ})


def refusal(flags: str) -> str:
    with pytest.raises(ConfigurationError) as info:
        options(flags)
    return str(info.value)


# --- Words and flags, beside the real erl -------------------------------------------------------

TEXTS = [
    "-a x y -b",
    "-a 'x y' \"p q\" z",
    r"-a x\ y \'b \"c \\ d",
    r"-a 'x\y' " + r'"x\\y"',
    r"-a 'it\'s b'",
    r'-a "a\"b" c',
    "-a '' \"\" b''c",
    "-a \"x'y\" 'x\"y'",
    "-a 'never closed",
    "-a ends\\",
    " \t-a\r\nb\v\fc ",
    "-a x'y z'\"w v\"u",
    "   ",
]


def erl_words(erlang: Erlang, **environ: str) -> list[str]:
    """What the emulator is given, one word for each line, from the variables on."""
    answer = subprocess.run(
        [erlang.path, "-emu_args_exit"],
        env=erlang.environ(**environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    words = answer.stdout.split("\n")[:-1]
    return words[words.index("-home") + 2 :]


def test_words_are_split_as_erl_does(erlang: Erlang) -> None:
    for text in TEXTS:
        if "\n" not in text:
            seen = [word for word in erl_words(erlang, ERL_FLAGS=text) if word != "--"]
            assert split_words(text) == seen


def test_whitespace_of_every_kind_ends_a_word() -> None:
    assert split_words(" \t-a\r\nb\v\fc ") == ["-a", "b", "c"]
    assert split_words("a\u00a0b") == ["a\u00a0b"]


def test_variables_are_read_in_the_order_of_erl(erlang: Erlang) -> None:
    environ = {"ERL_ZFLAGS": "-c 3", "ERL_FLAGS": "-b 2 -extra x", "ERL_AFLAGS": "-a 1 -extra -y"}
    seen = [word for word in erl_words(erlang, **environ) if word != "--"]
    assert seen[:6] == ["-a", "1", "-b", "2", "-c", "3"]
    assert erl_flags(environ) == [("a", ["1"]), ("b", ["2"]), ("c", ["3"])]


def test_plain_arguments_and_flags_of_the_emulator_are_passed_over() -> None:
    flags = "plain -name a@h -- more +P 1000 -hidden +K true - -setcookie c"
    assert erl_flags({"ERL_FLAGS": flags}) == [
        ("name", ["a@h"]),
        ("hidden", []),
        ("setcookie", ["c"]),
    ]


@given(st.text(alphabet="ab -+'\"\\\n@.", max_size=40))
def test_of_any_text_options_come_out_or_an_error(text: str) -> None:
    try:
        assert options("-name a@h -setcookie c " + text).name == "a@h"
    except ConfigurationError as error:
        assert str(error)  # noqa: PT017 - either is right


@given(st.lists(st.text(alphabet="ab'\"\\ \n", max_size=5), max_size=6))
def test_quoted_words_come_back(words: list[str]) -> None:
    def quoted(word: str) -> str:
        pieces = [f"'{piece}'" for piece in word.split("'")]
        return "\\'".join(pieces)

    assert split_words(" ".join(map(quoted, words))) == words


# --- What comes of them -------------------------------------------------------------------------


def test_all_at_once() -> None:
    found = options(
        "-name app@10.0.0.7 -setcookie 's3 cret' -setcookie db@10.0.0.8 other -hidden "
        "-proto_dist inet6_tls -start_epmd false -erl_epmd_port 9100 "
        "-kernel inet_dist_listen_min 9100 inet_dist_listen_max 9110 logger_level debug "
        "-pa ebin -noshell"
    )
    assert found == NodeOptions(
        name=NodeName("app@10.0.0.7"),
        cookie="s3 cret",
        cookies={NodeName("db@10.0.0.8"): "other"},
        hidden=True,
        listen_ports=(9100, 9110),
        start_epmd=False,
        epmd_port=9100,
        proto_dist="inet6_tls",
    )
    assert found.tls
    assert found.ipv6
    assert "cret" not in repr(found)
    assert "other" not in repr(found)
    assert isinstance(hash(found), int)


def test_the_defaults_are_those_of_erl() -> None:
    found = options("-name app@h")
    assert found == NodeOptions(name=NodeName("app@h"))
    assert found.cookie is None
    assert found.start_epmd
    assert (found.tls, found.ipv6, found.hidden, found.short_names) == (False,) * 4
    assert (found.listen_ports, found.epmd_port, found.listen_host) == (None,) * 3


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ERL_AFLAGS", raising=False)
    monkeypatch.setenv("ERL_FLAGS", "-name app@h")
    assert NodeOptions.from_erl_flags().name == "app@h"


def test_the_first_of_several_counts_and_sname_before_name() -> None:
    assert options("-name b@h", ERL_AFLAGS="-name a@h").name == "a@h"
    found = options("-name a@h", ERL_ZFLAGS="-sname s@h")
    assert (found.name, found.short_names) == ("s@h", True)
    assert options(
        "-name a@h -kernel inet_dist_listen_min 1 -kernel inet_dist_listen_min 2"
    ).listen_ports == (1, 1)


def test_the_cookie_for_ones_own_name_is_the_default() -> None:
    found = options("-name a@h -setcookie other -setcookie a@h own")
    assert (found.cookie, found.cookies) == ("own", {})


PROBE = (
    "io:format('~s ~s ~s~n', [node(), erlang:get_cookie(), case application:get_env(kernel, "
    "inet_dist_listen_min) of {ok, P} -> integer_to_list(P); _ -> none end]), halt()."
)


@pytest.mark.parametrize(
    "flags",
    [
        "-name a@127.0.0.1 -setcookie 'x y'",
        "-name a@127.0.0.1 -sname c@localhost -setcookie x",
        "-sname c -setcookie x",
        "-name a@127.0.0.1 -setcookie b@h x -setcookie y",
        "-name a@127.0.0.1 -setcookie y -setcookie a@127.0.0.1 own",
        "-name a@127.0.0.1 -setcookie y -kernel inet_dist_listen_min 9100 "
        "-kernel inet_dist_listen_min 9200",
        '-name a@127.0.0.1 -setcookie "it\'s\\"',
    ],
    ids=ascii,
)
def test_erl_makes_the_same_of_it(erlang: Erlang, flags: str, tmp_path: Path) -> None:
    own = "-noshell -boot start_clean -start_epmd false -erl_epmd_port 9 -dist_listen false"
    answer = subprocess.run(
        [erlang.path, *own.split(), "-eval", PROBE],
        env=erlang.environ(ERL_FLAGS=flags, HOME=str(tmp_path)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    found = options(flags)
    assert isinstance(found.cookie, str)
    port = found.listen_ports[0] if found.listen_ports else "none"
    assert answer.stdout.splitlines()[-1] == f"{found.name} {found.cookie} {port}"


# --- Names without a host -----------------------------------------------------------------------


def test_a_short_name_takes_the_short_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "box.example.org")
    found = options("-sname app")
    assert (found.name, found.short_names) == ("app@box", True)


def test_a_long_name_takes_the_full_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "box.example.org")
    assert options("-name app").name == "app@box.example.org"


def test_a_long_name_asks_the_hosts_file_and_the_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "box")
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *_a, **_k: [(2, 1, 6, "box.svc.cluster.local", ("::1", 0))]
    )
    assert options("-name app").name == "app@box.svc.cluster.local"


def no_dns(*_args: object, **_kwargs: object) -> list[object]:
    raise socket.gaierror(-3, "Temporary failure in name resolution")


@pytest.mark.parametrize(
    ("content", "domain"),
    [
        ("nameserver 10.0.0.1\nsearch a.example b.example\n", "a.example"),
        ("domain example.org.\n", "example.org"),
        ("# search x\nnameserver 10.0.0.1\n", None),
        ("search\nsearch .\n", None),
        ("", None),
    ],
    ids=ascii,
)
def test_a_resolver_file_gives_the_domain(tmp_path: Path, content: str, domain: str | None) -> None:
    path = tmp_path / "resolv.conf"
    assert _options._resolver_domain(path) is None
    path.write_text(content)
    assert _options._resolver_domain(path) == domain


def test_a_long_name_takes_the_domain_of_the_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "box")
    monkeypatch.setattr(socket, "getaddrinfo", no_dns)
    monkeypatch.setattr(_options, "_resolver_domain", lambda: "example.org")
    assert options("-name app").name == "app@box.example.org"
    monkeypatch.setattr(_options, "_resolver_domain", lambda: None)
    assert "this machine, 'box', has no full name" in refusal("-name app")


# --- What makes no sense ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ("", "nothing names this node"),
        ("-setcookie c -hidden", "nothing names this node"),
        ("-name", "-name takes one value, not 0"),
        ("-name a@h b", "-name takes one value, not 2"),
        ("-name undefined", "dynamic name"),
        ("-sname undefined", "dynamic name"),
        ("-name undefined@127.0.0.1", "dynamic name"),
        ("-name a.b@h", "letters, digits"),
        ("-name @h", "letters, digits"),
        ("-name ''", "letters, digits"),
        ("-name a@", "nothing stands after"),
        ("-name a@b@c", "more than one '@'"),
        ("-name a@[::1]", "without brackets"),
        ("-sname a@box.example", "host has no dots"),
        ("-name a@h -setcookie", "-setcookie takes"),
        ("-name a@h -setcookie x y z", "-setcookie takes"),
        ("-name a@h -setcookie x -setcookie y", "two different cookies"),
        ("-name a@h -setcookie b@h x -setcookie b@h y", "two different cookies for b@h"),
        ("-name a@h -setcookie b x", "has no '@'"),
        ("-name a@h -hidden maybe", "-hidden takes"),
        ("-name a@h -start_epmd", "-start_epmd takes one value"),
        ("-name a@h -start_epmd no", "-start_epmd takes true or false"),
        ("-name a@h -erl_epmd_port 0", "is not a port"),
        ("-name a@h -erl_epmd_port 65536", "is not a port"),
        ("-name a@h -erl_epmd_port 00000000000009100", "is not a port"),
        ("-name a@h -erl_epmd_port http", "is not a port"),
        ("-name a@h -proto_dist inet_udp", "-proto_dist takes one of"),
        ("-name a@h -dist_listen false", "does not listen"),
        ("-name a@h -kernel inet_dist_listen_min", "pairs"),
        ("-name a@h -kernel inet_dist_listen_min -1", "pairs"),
        ("-name a@h -kernel inet_dist_listen_min 70000", "is not a port"),
        ("-name a@h -kernel inet_dist_listen_min 2 inet_dist_listen_max 1", "no port lies"),
        ("-name a@h -kernel inet_dist_use_interface any", "not a tuple"),
        ("-name a@h -kernel inet_dist_use_interface {127,0,0}", "not a tuple"),
        ("-name a@h -kernel inet_dist_use_interface {127,0,0,256}", "not a tuple"),
    ],
    ids=ascii,
)
def test_what_makes_no_sense_is_refused(flags: str, reason: str) -> None:
    assert reason in refusal(flags)


def test_no_refusal_shows_a_cookie() -> None:
    for flags in (
        "-name a@h -setcookie SECRET -setcookie SECRET2",
        "-name a@h -setcookie SECRET x y",
        "-setcookie SECRET",
    ):
        assert "SECRET" not in refusal(flags)


def test_values_that_are_taken() -> None:
    assert options("-name a@h -hidden false").hidden is False
    assert options("-name a@h -hidden true").hidden is True
    assert options("-name a@h -start_epmd true").start_epmd is True
    assert options("-name a@h -dist_listen true").name == "a@h"
    assert options("-name a@h -setcookie x -setcookie x").cookie == "x"
    assert options("-name app@fdaa:0:1::3").name.host == "fdaa:0:1::3"
    assert options("-name a@h -kernel inet_dist_listen_max 9").listen_ports is None
    interface = "-name a@h -kernel inet_dist_use_interface "
    assert options(interface + "{127,0,0,1}").listen_host == "127.0.0.1"
    assert options(interface + "'{0, 0, 0, 0, 0, 0, 0, 1}'").listen_host == "::1"
