"""`erlang_hosts`: the file as Erlang reads it, and the port mappers of its hosts."""

from __future__ import annotations

import base64
import logging
import os
import random
import re
import socket
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from barnacle_trio import (
    NodeDown,
    Refreshed,
    RefreshFailed,
    Restarted,
    open_barnacle,
    open_node,
    run_once,
)
from barnacle_trio._errors import ConfigurationError
from barnacle_trio._names import NodeName
from barnacle_trio._strategy import Discovery, Strategy, discover
from barnacle_trio.epmd import open_registration, serve_epmd
from barnacle_trio.strategies import erlang_hosts
from barnacle_trio.strategies._hosts_file import MAX_BAD_LINES, MAX_HOSTS, parse_hosts
from barnacle_trio.testing import EventRecorder
from tests.beam import COOKIE, open_beam, unique
from tests.erlang import Erlang

LOCAL = NodeName("my_app@127.0.0.1")
OTHERS = ("127.0.0.2", "127.0.0.3")


def hosts_in(text: str | bytes) -> list[str]:
    return list(parse_hosts(text.encode() if isinstance(text, str) else text).hosts)


def bad_in(text: str | bytes) -> list[tuple[int, str]]:
    found = parse_hosts(text.encode() if isinstance(text, str) else text).bad
    return [(bad.number, bad.reason) for bad in found]


# --- the file -----------------------------------------------------------------------------------

GOOD = {
    "": [],
    "\n\n % nothing\n": [],
    "'a.example.com'.\n'b.example.com'.\n": ["a.example.com", "b.example.com"],
    "'a.example.com'.": ["a.example.com"],
    "'a'. 'b'.%c'.\n\t'c' % c\n .": ["a", "b", "c"],
    "a.\nb_1.\n": ["a", "b_1"],
    "'a'.\n'a'.": ["a"],
    "'10.0.0.7'.\n'fd00::7'.": ["10.0.0.7", "fd00::7"],
    r"'\x61\x{62}\143\d'.": [],
    r"'\x61\x{62}\143'.": ["abc"],
    "'a'.\r\n'b'.\r\n": ["a", "b"],
    "% caf\u00e9\n'a'.": ["a"],
}


@pytest.mark.parametrize("text", GOOD)
def test_hosts_are_read_in_their_order(text: str) -> None:
    assert hosts_in(text) == GOOD[text]


def test_the_comment_may_be_in_any_encoding() -> None:
    assert hosts_in("% café\n'a'.".encode("latin-1")) == ["a"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a.example.com.", "a host name with dots stands in single quotes"),
        ('"a.example.com".', "a host stands in single quotes, not in double ones"),
        ("'a'", "no full stop follows \"'a'\""),
        ("'a', 'b'.", "no full stop follows \"'a'\""),
        ("'a", "no full stop follows \"'a\\n'\""),
        ("{a, b}.", "not a host name in single quotes"),
        ("A.", "not a host name in single quotes"),
        (".", "not a host name in single quotes"),
        ("\0\0'a'\0.\xff", "no full stop follows \"'a'\""),
        ("''.", "'' is not a host name"),
        ("'a b'.", "'a b' is not a host name"),
        ("'a@b'.", "'a@b' is not a host name"),
        ("'[::1]'.", "'[::1]' is not a host name"),
        (r"'a\n'.", r"'a\n' is not a host name"),
        (r"'a\^'b'.", r"'a\x07b' is not a host name"),
        (r"'\x{110000}'.", r"'\ufffd' is not a host name"),
        ("'\u00e9'.", r"'\xe9' is not a host name"),
        (f"'{'a' * 300}'.", "is not a host name"),
        ("receive.", "receive is a word of the language and stands in single quotes"),
        ("maybe.", "maybe is a word of the language and stands in single quotes"),
    ],
)
def test_a_bad_line_is_told_with_its_number_and_the_others_count(text: str, reason: str) -> None:
    assert hosts_in(f"'first'.\n% one\n{text}\n'last'.\n") == ["first", "last"]
    [(number, told)] = bad_in(f"'first'.\n% one\n{text}\n'last'.\n")
    assert number == 3
    assert reason in told


def test_a_file_of_anything_else_is_told_line_by_line() -> None:
    text = "[hosts]\ndb1.example.com\n'db2.example.com'.\n\n"
    assert hosts_in(text) == ["db2.example.com"]
    assert [number for number, _reason in bad_in(text)] == [1, 2]


def test_a_file_is_not_read_for_ever() -> None:
    many = "".join(f"'h{number}'.\n" for number in range(100_000))
    assert len(hosts_in(many)) == MAX_HOSTS
    assert bad_in(many) == [(MAX_HOSTS + 1, f"only {MAX_HOSTS} hosts are read")]
    junk = bad_in("?\n" * 100_000)
    assert len(junk) == MAX_BAD_LINES + 1
    assert junk[-1] == (MAX_BAD_LINES + 1, "too much is wrong, the rest was not read")
    # Nothing here takes longer than the file is long.
    assert hosts_in("'" * 100_000) == []
    assert hosts_in("'" + "\\'" * 100_000) == []
    assert hosts_in("%\n " * 100_000) == []


@given(st.binary(max_size=200) | st.text("'\\.% \nax{}0^@\"", max_size=60).map(str.encode))
def test_no_bytes_are_too_odd(data: bytes) -> None:
    file = parse_hosts(data)
    for host in file.hosts:
        NodeName(f"n@{host}")
    lines = data.decode("utf-8", "replace").count("\n") + 1
    assert all(1 <= bad.number <= lines for bad in file.bad)


PIECES = [
    "'a.example.com'", "'b'", "c", "d1_X", "'10.0.0.7'", "'fd00::7'", r"'\x65'", r"'\146\x{67}'",
    "'a b'", "''", "maybe_not", "E", '"s"', "1", "{f}", "'g", "h.i", "if", "-j", "'k''l'", "(",
    ".", ". ", ".\n", ".%\n", " .\n", "\n", " ", "% c. 'x'.\n", ",", "'.'", ".\t", ".\r\n", "..\n",
]  # fmt: skip


def odd_files(number: int) -> list[str]:
    """Mostly good files: a host and a full stop each time, and now and then something else."""
    chance = random.Random(7)
    files = []
    for _ in range(number):
        text = ""
        for _ in range(chance.randint(0, 5)):
            text += chance.choice(PIECES[:11]) + chance.choice([".\n", ". ", ".%\n", " .\r\n"])
            if chance.random() < 0.15:
                text += chance.choice(PIECES)
        files.append(text)
    return files


async def test_a_beam_node_reads_the_same_hosts(
    erlang: Erlang, epmd_port: int, tmp_path: Path
) -> None:
    files = [*odd_files(400), *GOOD, "'a'.\n'b'", "'a\nb'.", '"a".', "'a'.\n''.", "if."]
    for number, text in enumerate(files):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / ".hosts.erlang").write_bytes(text.encode())
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_epmd)
        answers = []
        async with open_beam(erlang) as beam:
            # Not all in one question: a file is many small steps, slow ones on a busy machine.
            for first in range(0, len(files), 50):
                last = min(first + 50, len(files)) - 1
                answer = await beam.eval(
                    f"""[begin
                      ok = file:set_cwd("{tmp_path}/" ++ integer_to_list(N)),
                      case net_adm:host_file() of
                        {{error, _}} -> refused;
                        Hosts ->
                          [try base64:encode(atom_to_binary(H)) catch _:_ -> none end || H <- Hosts]
                      end
                    end || N <- lists:seq({first}, {last})]"""
                )
                answers += _parsed(answer)
        nursery.cancel_scope.cancel()
    read = refused = 0
    for text, theirs in zip(files, answers, strict=True):
        ours = parse_hosts(text.encode())
        if theirs is None:
            assert ours.bad, text
            refused += 1
        elif not ours.bad:
            assert list(ours.hosts) == list(dict.fromkeys(theirs)), text
            read += 1
        else:
            # Terms that are no hosts: Erlang leaves it to whoever uses the list to find out.
            assert list(ours.hosts) == [host for host in dict.fromkeys(theirs) if _fits(host)], text
    assert min(read, refused) > 50


def _fits(host: str) -> bool:
    try:
        NodeName(f"n@{host}")
    except ValueError:
        return False
    return True


def _parsed(answers: str) -> list[list[str] | None]:
    found: list[list[str] | None] = []
    for entry in re.finditer(r"refused|\[((?:[^\[\]])*)\]", answers[1:-1]):
        if entry[0] == "refused":
            found.append(None)
            continue
        words = re.findall(r'none|<<"([^"]*)">>|<<>>', entry[1])
        found.append([base64.b64decode(word).decode() for word in words])
    return found


# --- the hosts ----------------------------------------------------------------------------------


async def ask(strategy: Strategy, local: str = LOCAL) -> Discovery:
    with trio.fail_after(15):
        return await discover(strategy, NodeName(local))


def told(answer: Discovery) -> tuple[str, set[str]]:
    return answer.kind, set(answer.nodes)


def reason(answer: Discovery) -> str:
    assert answer.error is not None
    return answer.error.reason


def listing(path: Path, *hosts: str) -> Path:
    path.write_text("".join(f"'{host}'.\n" for host in hosts))
    return path


@pytest.fixture
async def mapper(epmd_port: int) -> AsyncIterator[None]:
    """A port mapper on three addresses that knows two nodes, one by our own name."""
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_epmd, addresses=OTHERS))
        async with open_registration("my_app", 4000), open_registration("other", 4001):
            yield
        nursery.cancel_scope.cancel("the test is over")


async def stay_mute(_stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def test_the_nodes_of_every_host_bear_its_name(mapper: None, tmp_path: Path) -> None:
    strategy = erlang_hosts(listing(tmp_path / "hosts", "127.0.0.1", *OTHERS, "localhost"))
    assert told(await ask(strategy)) == (
        "complete",
        {
            *("other@127.0.0.1", "my_app@127.0.0.2", "other@127.0.0.2", "my_app@127.0.0.3"),
            *("other@127.0.0.3", "my_app@localhost", "other@localhost"),
        },
    )


async def test_a_match_chooses(mapper: None, tmp_path: Path) -> None:
    path = listing(tmp_path / "hosts", *OTHERS)
    answer = await ask(erlang_hosts(path, match=["nobody", "*@127.0.0.3"]))
    assert told(answer) == ("complete", {"my_app@127.0.0.3", "other@127.0.0.3"})


class _OneHost(trio.abc.HostnameResolver):
    """Knows ``db1.example.com`` alone, to be this host."""

    async def getaddrinfo(  # type: ignore[no-untyped-def]
        self, host, port, *options
    ):
        await trio.lowlevel.checkpoint()
        assert host == b"db1.example.com"
        return socket.getaddrinfo("127.0.0.1", port, *options)

    async def getnameinfo(self, sockaddr, flags):  # type: ignore[no-untyped-def]
        raise AssertionError("nobody asks for names")


async def test_short_names_see_short_names(epmd_port: int, tmp_path: Path) -> None:
    path = listing(tmp_path / "hosts", "db1.example.com", "127.0.0.2")
    trio.socket.set_custom_hostname_resolver(_OneHost())
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_epmd, addresses=["127.0.0.2"]))
        async with open_registration("other", 4001):
            short = await ask(erlang_hosts(path), "me@web1")
            long = await ask(erlang_hosts(path), "me@web1.example.com")
        nursery.cancel_scope.cancel("the test is over")
    assert told(short) == ("complete", {"other@db1", "other@127.0.0.2"})
    assert told(long) == ("complete", {"other@db1.example.com", "other@127.0.0.2"})


async def test_a_host_that_is_down_makes_the_answer_partial(
    mapper: None, epmd_port: int, tmp_path: Path
) -> None:
    path = listing(tmp_path / "hosts", "127.0.0.2", "127.0.0.9", "no.such.host.invalid")
    answer = await ask(erlang_hosts(path))
    assert told(answer) == ("partial", {"my_app@127.0.0.2", "other@127.0.0.2"})
    assert f"no port mapper answers at '127.0.0.9', port {epmd_port}" in reason(answer)
    assert "no.such.host.invalid" in reason(answer)


async def test_a_host_that_is_silent_is_not_waited_for_longer_than_there_is_time(
    mapper: None, epmd_port: int, tmp_path: Path
) -> None:
    path = listing(tmp_path / "hosts", "127.0.0.2", "127.0.0.4")
    known = {"my_app@127.0.0.2", "other@127.0.0.2"}
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio.serve_tcp, stay_mute, epmd_port, host="127.0.0.4"))
        with trio.move_on_after(1.0) as scope:
            answer = await discover(erlang_hosts(path), LOCAL)
            assert told(answer) == ("partial", known)
            assert "'127.0.0.4' gave no answer in time" in reason(answer)
        assert not scope.cancelled_caught
        nursery.cancel_scope.cancel("the test is over")


async def test_all_hosts_are_asked_at_once(epmd_port: int, tmp_path: Path) -> None:
    hosts = [f"127.0.1.{number}" for number in range(1, 21)]
    waiting = 0
    all_wait = trio.Event()

    async def answer(stream: trio.SocketStream) -> None:
        nonlocal waiting
        async with stream:
            await stream.receive_some()
            waiting += 1
            if waiting == len(hosts):
                all_wait.set()
            await all_wait.wait()  # who asks one after the other waits here for ever
            await stream.send_all(epmd_port.to_bytes(4) + b"name a at port 4000\n")

    async with trio.open_nursery() as nursery:
        for host in hosts:
            await nursery.start(partial(trio.serve_tcp, answer, epmd_port, host=host))
        found = await ask(erlang_hosts(listing(tmp_path / "hosts", *hosts)))
        nursery.cancel_scope.cancel("the test is over")
    assert told(found) == ("complete", {f"a@{host}" for host in hosts})


async def test_no_host_that_answers_is_a_failure(epmd_port: int, tmp_path: Path) -> None:
    hosts = [f"127.0.1.{number}" for number in range(1, 9)]
    answer = await ask(erlang_hosts(listing(tmp_path / "hosts", *hosts)))
    assert told(answer) == ("failed", set())
    assert reason(answer).endswith("; and 5 more")


async def test_bad_lines_are_told_and_the_good_ones_asked(mapper: None, tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("'127.0.0.2'.\n\n127.0.0.3.\n")
    answer = await ask(erlang_hosts(path, match="other"))
    assert told(answer) == ("partial", {"other@127.0.0.2"})
    assert reason(answer) == f"{path}:3: not a host name in single quotes"


async def test_a_file_without_hosts_is_a_complete_answer(tmp_path: Path) -> None:
    assert told(await ask(erlang_hosts(listing(tmp_path / "hosts")))) == ("complete", set())


async def test_the_file_is_looked_for_where_erlang_does(
    mapper: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {name: tmp_path / name for name in ("here", "home", "root")}
    for folder in folders.values():
        folder.mkdir()
    monkeypatch.chdir(folders["here"])
    monkeypatch.setenv("HOME", str(folders["home"]))
    monkeypatch.setenv("ROOTDIR", str(folders["root"]))
    strategy = erlang_hosts(match="other")
    answer = await ask(strategy)
    assert told(answer) == ("failed", set())
    assert reason(answer) == (
        f"no such file: .hosts.erlang, {folders['home']}/.hosts.erlang, "
        f"{folders['root']}/.hosts.erlang"
    )
    for place, host in (("root", "127.0.0.3"), ("home", "127.0.0.2"), ("here", "127.0.0.1")):
        listing(folders[place] / ".hosts.erlang", host)
        assert told(await ask(strategy)) == ("complete", {f"other@{host}"})
    # As for Erlang, one that is there but of no use is not passed over.
    (folders["here"] / ".hosts.erlang").unlink()
    (folders["here"] / ".hosts.erlang").mkdir()
    answer = await ask(strategy)
    assert told(answer) == ("failed", set())
    assert reason(answer) == ".hosts.erlang: Is a directory"
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("ROOTDIR")
    (folders["here"] / ".hosts.erlang").rmdir()
    assert reason(await ask(strategy)) == "no such file: .hosts.erlang"


async def test_a_change_counts_in_the_next_round(mapper: None, tmp_path: Path) -> None:
    path = listing(tmp_path / "hosts", "127.0.0.2")
    strategy = erlang_hosts(path, match="other")
    assert told(await ask(strategy)) == ("complete", {"other@127.0.0.2"})
    stamp = path.stat()
    listing(path, "127.0.0.3")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # the same size, time and file
    assert told(await ask(strategy)) == ("complete", {"other@127.0.0.3"})
    path.unlink()
    assert told(await ask(strategy)) == ("failed", set())


async def test_what_is_no_file_is_a_failure(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert reason(await ask(erlang_hosts(pipe))) == f"{pipe}: it is not a regular file"
    long = tmp_path / "long"
    long.write_bytes(b"%" * (1 << 20) + b"\n")
    assert reason(await ask(erlang_hosts(long))) == f"{long}: it is longer than 1048576 bytes"
    assert "no such file" in reason(await ask(erlang_hosts(tmp_path / "hosts" / "absent")))


async def test_a_beam_node_is_found_and_connected(
    erlang: Erlang, epmd_port: int, tmp_path: Path
) -> None:
    path = listing(tmp_path / "hosts", "127.0.0.1")
    async with (
        open_node(unique("py"), cookie=COOKIE) as node,
        open_beam(erlang) as beam,
    ):
        with trio.fail_after(15):
            result = await run_once(erlang_hosts(path), node)
    assert result.connected == {beam.name}


def test_what_cannot_work_is_refused_at_the_call() -> None:
    with pytest.raises(ConfigurationError, match="match"):
        erlang_hosts(match=7)  # type: ignore[arg-type]


def test_its_repr() -> None:
    assert repr(erlang_hosts()) == "erlang_hosts()"
    assert repr(erlang_hosts("/etc/hosts.erlang", match="a*")) == (
        "erlang_hosts('/etc/hosts.erlang', match='a*')"
    )


async def test_a_file_that_is_gone_for_three_rounds_costs_no_connection(
    epmd_port: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="barnacle_trio.barnacle")
    path = listing(tmp_path / "hosts", "127.0.0.1")
    recorder = EventRecorder()
    async with (
        open_node(unique("py"), cookie=COOKIE) as node,
        open_node(unique("other"), cookie=COOKIE) as other,
        open_barnacle(
            erlang_hosts(path), node, poll_interval=0.1, prune_after=0.2, listener=recorder.send
        ) as barnacle,
    ):
        with trio.fail_after(20):
            await barnacle.wait_for_nodes(1)
            await trio.Path(path).unlink()
            await recorder.wait_for(
                RefreshFailed, lambda _event: len(recorder.of(RefreshFailed)) >= 3
            )
            listing(path, "127.0.0.1")
            rounds = len(recorder.of(Refreshed))
            await recorder.wait_for(
                Refreshed, lambda _event: len(recorder.of(Refreshed)) >= rounds + 3
            )
        assert barnacle.nodes.value == {other.name}
        assert not recorder.of(NodeDown)
        assert not recorder.of(Restarted)
    told = [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if "discovery" in record.getMessage()
    ]
    assert told == [
        ("WARNING", f"[barnacle] discovery failed: 'no such file: {path}'"),
        ("INFO", "[barnacle] discovery works again"),
    ]
