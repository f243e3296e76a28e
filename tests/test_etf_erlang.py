"""Erlang itself as the judge: what it reads, what it makes of it, and what it refuses.

With ``BARNACLE_TRIO_LONG=1`` it judges a hundred thousand mutated terms, else some thousands.
"""

from __future__ import annotations

import random
import re
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings

from barnacle_trio.etf import (
    Atom,
    BitString,
    DecodeError,
    Export,
    Fun,
    ImproperList,
    Map,
    Pid,
    Port,
    Reference,
    decode,
    decode_prefix,
    encode,
)
from tests.erlang import Erlang, require_erlangs
from tests.fuzz.terms import SPELLINGS
from tests.scale import scaled
from tests.terms import normal, same, terms

# Reads terms behind their lengths, answers with how many bytes it used and its own spelling.
# Behind a byte other than 131 stands a request: 0 for terms of its own making in some spelling,
# 1 for whether a term is that very one, 2 for many at once, each behind a length of its own.
JUDGE = """
Port = open_port({fd, 0, 1}, [binary, {packet, 4}, eof]),
Made = [
    self(), make_ref(), alias(), Port, fun lists:map/2, fun(X) -> {Port, X} end,
    "text", [], [a | b], <<"binary">>, <<5:3>>, <<>>, 0.1, -0.0, 1.0e300, 1 bsl 5000, -(1 bsl 62),
    nil, true, undefined, 'caf\\x{e9}', '\\x{2603}', {}, list_to_tuple(lists:seq(1, 300)),
    #{}, #{1 => a, 1.0 => b, true => c}, #{[] => d, #{} => e, "s" => f}, #{{self()} => g},
    [{event, N, self(), #{kind => tick}} || N <- lists:seq(1, 20)]
],
Options = #{0 => [], 1 => [{minor_version, 0}], 2 => [compressed], 3 => [{compressed, 9}]},
Answer = fun(Bytes) ->
    try binary_to_term(Bytes, [used]) of
        {Term, Used} -> [<<Used:32>>, term_to_binary(Term)]
    catch error:badarg -> <<>>
    end
end,
Judge = fun Loop() ->
    receive
        {Port, {data, <<0, Spelling>>}} ->
            port_command(Port, term_to_binary(Made, maps:get(Spelling, Options))),
            Loop();
        {Port, {data, <<1, Bytes/binary>>}} ->
            port_command(Port, atom_to_binary(binary_to_term(Bytes) =:= Made)),
            Loop();
        {Port, {data, <<2, Batch/binary>>}} ->
            Questions = [Bytes || <<Size:32, Bytes:Size/binary>> <= Batch],
            Answers = [iolist_to_binary(Answer(Bytes)) || Bytes <- Questions],
            port_command(Port, [[<<(byte_size(Each)):32>>, Each] || Each <- Answers]),
            Loop();
        {Port, {data, Bytes}} ->
            port_command(Port, Answer(Bytes)),
            Loop();
        {Port, eof} -> halt(0, [{flush, false}])
    end
end,
Judge().
"""


@dataclass(frozen=True)
class Verdict:
    """How many bytes Erlang used, 0 if there was no term, and how it spells the term.

    ``died``: it did neither. OTP 28 does so on a BIT_BINARY of no bytes.
    """

    used: int = 0
    spelling: bytes = b""
    died: bool = False


class Judge:
    """One running Erlang that is asked about bytes."""

    def __init__(self, erlang: Erlang) -> None:
        self.erlang = erlang
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.erlang.command("-noinput", "-boot", "start_clean", "-eval", JUDGE),
            env=self.erlang.environ(ERL_CRASH_DUMP_BYTES="0"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def request(self, data: bytes) -> bytes | None:
        """The answer, or None if it died of the question."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(struct.pack("!I", len(data)) + data)
        self._process.stdin.flush()
        header = self._process.stdout.read(4)
        if header:
            return self._process.stdout.read(int.from_bytes(header))
        self.close()
        self._process = self._start()
        return None

    def ask(self, data: bytes) -> Verdict:
        answer = self.request(data)
        if answer is None:
            return Verdict(died=True)
        return _verdict(answer)

    def ask_many(self, questions: Sequence[bytes]) -> list[Verdict]:
        """As `ask`, for many; those among which is one that it dies of are asked one by one."""
        answer = self.request(b"\2" + b"".join(map(_measured, questions)))
        if answer is None:
            middle = len(questions) // 2
            if not middle:
                return [Verdict(died=True)]
            return self.ask_many(questions[:middle]) + self.ask_many(questions[middle:])
        verdicts: list[Verdict] = []
        place = 0
        while place < len(answer):
            end = place + 4 + int.from_bytes(answer[place : place + 4])
            verdicts.append(_verdict(answer[place + 4 : end]))
            place = end
        assert len(verdicts) == len(questions)
        return verdicts

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=10)


def _verdict(answer: bytes) -> Verdict:
    return Verdict(used=int.from_bytes(answer[:4]), spelling=answer[4:])


def _measured(data: bytes) -> bytes:
    return len(data).to_bytes(4) + data


@pytest.fixture(scope="module", params=require_erlangs(), ids=str)
def judge(request: pytest.FixtureRequest) -> Iterator[Judge]:
    judge = Judge(request.param)
    yield judge
    judge.close()


@given(term=terms())
@settings(max_examples=250, deadline=None)
def test_erlang_reads_what_we_write_and_we_what_it_writes(judge: Judge, term: Any) -> None:
    data = encode(term)
    verdict = judge.ask(data)
    assert verdict.used == len(data)
    assert same(decode(verdict.spelling), normal(term))


@pytest.mark.parametrize("spelling", range(4), ids=["usual", "minor 0", "compressed", "best"])
def test_erlangs_own_terms_come_back_to_it_unchanged(judge: Judge, spelling: int) -> None:
    theirs = judge.request(bytes((0, spelling)))
    assert theirs is not None
    compressed = spelling >= 2
    assert (theirs[1] == 80) is compressed
    term = decode(theirs, compressed=compressed)
    assert judge.request(b"\1" + encode(term)) == b"true"
    pid, reference, alias, port, export, fun, text = term[:7]
    assert [type(each) for each in (pid, reference, alias, port)] == [
        Pid,
        Reference,
        Reference,
        Port,
    ]
    assert export == Export(Atom("lists"), Atom("map"), 2)
    assert isinstance(fun, Fun)
    assert text == [116, 101, 120, 116]
    assert term[-4][1.0] == Atom("b")
    assert term[-3][{}] == Atom("e")


def test_erlang_and_we_agree_on_what_is_a_term(judge: Judge) -> None:
    rng = random.Random(25)
    ours = [encode(example) for example in EXAMPLES]
    theirs = judge.request(b"\0\0")
    assert theirs is not None
    # Of pids of its own node Erlang asks more than of others', so these become another's.
    foreign = [encode(each).replace(b"nonode@nohost", b"other@nowhere") for each in decode(theirs)]
    sources = [*ours, *foreign, *SPELLINGS]
    tally: Counter[str] = Counter()
    for _ in range(MUTATED // BATCH):
        questions = [mutated(rng.choice(sources), rng) for _ in range(BATCH)]
        accepted: list[tuple[bytes, Verdict]] = []
        for data, verdict in zip(questions, judge.ask_many(questions), strict=True):
            result = attempt(data)
            if verdict.died:
                assert DEADLY.search(str(result)), (result, data)
                tally["died"] += 1
            elif isinstance(result, DecodeError):
                stricter = verdict.used and STRICTER.search(str(result))
                assert not verdict.used or stricter, (result, data)
                tally[stricter[0] if stricter else "both refuse"] += 1
            else:
                term, end = result
                assert verdict.used == end, (term, data)
                tally["both accept"] += 1
                accepted.append((encode(term), verdict))
        # It spells a fun anew, so what is compared is its spelling of both.
        for (data, verdict), again in zip(
            accepted, judge.ask_many([data for data, _ in accepted]), strict=True
        ):
            assert again.spelling == verdict.spelling, data
    print(judge.erlang, dict(tally))
    assert tally["both accept"] > MUTATED // 10
    assert tally["both refuse"] > MUTATED // 10


def attempt(data: bytes) -> tuple[Any, int] | DecodeError:
    try:
        return decode_prefix(data)
    except DecodeError as error:
        return error


MUTATED = scaled(5_000, 100_000)
BATCH = 200

# Where we refuse and Erlang does not: but for the first, no node ever sends these.
STRICTER = re.compile(
    "a native record"  # from OTP 29 on
    "|tag 7[345]"  # its own numbers for atoms and binaries, which mean nothing elsewhere
    "|reference of 0 words"
    "|arity of an export"  # beyond 255
    "|a fun has not the size"
    "|text of a float"  # a comma for the point
    "|0 bits in the last of 0 bytes"  # OTP 25 takes it for an empty binary, OTP 28 dies of it
)

# What its `binary_to_term` dies of, instead of refusing it: our reason.
DEADLY = re.compile(
    "a fun has not the size|what a fun holds"  # OTP 25, of a few of those
    "|0 bits in the last of 0 bytes"  # OTP 28
)

_PID = Pid(Atom("a@127.0.0.1"), 1, 2, 3)
EXAMPLES: list[Any] = [
    (6, _PID, Atom(""), Atom("echo")),
    [1, -1, 256, 2**31, 2**64, -(2**70), 2**5000, 1.5, -0.0],
    [Atom("ok"), Atom("\N{SNOWMAN}" * 255), True, None, "text", b"\0\xff"],
    {"key": [{}, (), []], Atom("a"): {1: (2, 3)}, 3: {(4,): 5}},
    Map([(1, 2), (1.0, 3), (True, 4), ([5], 6), ({7: 8}, 9)]),
    [Reference(_PID.node, 7, (1, 2, 3)), Reference(_PID.node, 7, (1,)), Port(_PID.node, 1, 2)],
    [Port(_PID.node, 2**40, 2), Export(Atom("m"), Atom("f"), 3), BitString(b"\xaa\xa0", 3)],
    ImproperList([Atom("alias")], Reference(_PID.node, 7, (1, 2, 3, 4, 5))),
    ImproperList([1, [2, ImproperList([3], 4)]], b"tail"),
]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The bytes with a few faults, most of them small."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        place = rng.randrange(1, len(result) + 1)
        match rng.randrange(6):
            case 0:
                result[place : place + 1] = bytes([rng.randrange(256)])
            case 1:
                result[place : place + 1] = bytes([rng.choice(TAGS)])
            case 2:
                result[place : place + 1] = rng.choice((b"\0", b"\1", b"\xff", b"\x7f", b"\x80"))
            case 3:
                del result[place : place + rng.randrange(1, 4)]
            case 4:
                result[place:place] = bytes([rng.choice(TAGS)])
            case 5:
                other = rng.randrange(1, len(result) + 1)
                result[place:place] = result[other : other + rng.randrange(1, 9)]
    return bytes(result)


# All but that of compressed terms, which have tests of their own.
TAGS = bytes((70, 77, 82, 88, 89, 90, *range(97, 122)))
