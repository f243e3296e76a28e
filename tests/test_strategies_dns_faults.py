"""The `dns` strategy against a scripted server, for what no real one can be made to answer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable

import dns.flags
import dns.message
import dns.rcode
import pytest
import trio

from barnacle_trio._names import NodeName
from barnacle_trio._strategy import Discovery, discover
from barnacle_trio.strategies import dns as by_dns
from tests.dns_server import Script, open_scripted_dns, reply, resolver_for

LOCAL = NodeName("my_app@10.0.0.1")
A = "app.test 60 IN A 10.0.0.1"
AAAA = "app.test 60 IN AAAA fd00::1"
SOA = "test 60 IN SOA ns.test root.test 1 2 3 4 5"

Query = dns.message.QueryMessage
Sent = Iterable[dns.message.Message | bytes]


async def ask(
    script: Script, *, name: str = "app.test", timeout: float = 5.0, listening: bool = True
) -> Discovery:
    with trio.fail_after(10):
        async with open_scripted_dns(script, listening=listening) as port:
            return await discover(by_dns(name, resolver=resolver_for(port), timeout=timeout), LOCAL)


def told(answer: Discovery) -> tuple[str, set[str]]:
    return answer.kind, {name.host for name in answer.nodes}


def complaint(answer: Discovery) -> str:
    assert answer.error is not None
    return answer.error.reason


def asks_for(query: Query) -> str:
    return dns.rdatatype.to_text(query.question[0].rdtype)


@pytest.mark.parametrize(
    "rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP, dns.rcode.FORMERR]
)
async def test_a_server_that_fails_is_a_failure(rcode: dns.rcode.Rcode) -> None:
    answer = await ask(lambda query, _tcp: [reply(query, rcode=rcode)])
    assert told(answer) == ("failed", set())
    assert dns.rcode.to_text(rcode) in complaint(answer)


@pytest.mark.parametrize("fails", ["A", "AAAA"])
async def test_one_family_that_fails_makes_the_answer_partial(fails: str) -> None:
    def script(query: Query, _tcp: bool) -> Sent:
        failed = asks_for(query) == fails
        return [reply(query, rcode=dns.rcode.SERVFAIL) if failed else reply(query, A, AAAA)]

    answer = await ask(script)
    assert told(answer) == ("partial", {"fd00::1" if fails == "A" else "10.0.0.1"})
    assert f"app.test. {fails}: " in complaint(answer)


async def test_one_family_that_stays_silent_makes_the_answer_partial() -> None:
    def script(query: Query, _tcp: bool) -> Sent:
        return [] if asks_for(query) == "AAAA" else [reply(query, A)]

    answer = await ask(script, timeout=0.3)
    assert told(answer) == ("partial", {"10.0.0.1"})
    assert complaint(answer) == "app.test AAAA: no answer in time"


async def test_what_is_known_is_told_before_the_callers_deadline() -> None:
    def script(query: Query, _tcp: bool) -> Sent:
        return [] if asks_for(query) == "AAAA" else [reply(query, A)]

    with trio.fail_after(0.5):
        answer = await ask(script, timeout=30)
    assert told(answer) == ("partial", {"10.0.0.1"})


async def test_no_records_of_one_family_and_failure_of_the_other_is_an_empty_partial_answer() -> (
    None
):
    def script(query: Query, _tcp: bool) -> Sent:
        if asks_for(query) == "A":
            return [reply(query, rcode=dns.rcode.SERVFAIL)]
        return [reply(query, authority=[SOA])]

    assert told(await ask(script)) == ("partial", set())


async def test_no_such_name_for_one_family_is_believed_only_where_the_other_has_none() -> None:
    def contradicting(query: Query, _tcp: bool) -> Sent:
        if asks_for(query) == "AAAA":
            return [reply(query, rcode=dns.rcode.NXDOMAIN, authority=[SOA])]
        return [reply(query, A)]

    def doubtful(query: Query, _tcp: bool) -> Sent:
        if asks_for(query) == "AAAA":
            return [reply(query, rcode=dns.rcode.NXDOMAIN, authority=[SOA])]
        return [reply(query, authority=[SOA])]

    assert told(await ask(contradicting)) == ("complete", {"10.0.0.1"})
    assert told(await ask(doubtful)) == ("partial", set())


async def test_records_of_two_names_never_mix() -> None:
    """A search list under which the server denies one family of the first name that exists."""

    def script(query: Query, _tcp: bool) -> Sent:
        name = query.question[0].name.to_text()
        if name == "app.first." and asks_for(query) == "A":
            return [reply(query, "app.first 60 IN A 10.0.0.1")]
        if name == "app.second.":
            return [reply(query, "app.second 60 IN A 10.0.0.2", "app.second 60 IN AAAA fd00::2")]
        return [reply(query, rcode=dns.rcode.NXDOMAIN)]

    async with open_scripted_dns(script) as port:
        resolver = resolver_for(port, search=["first", "second"])
        answer = await discover(by_dns("app", resolver=resolver), LOCAL)
    assert told(answer) == ("complete", {"10.0.0.1"})


def _other_id(query: Query) -> dns.message.Message:
    forged = reply(query, "app.test 60 IN A 10.6.6.6")
    forged.id = query.id ^ 1
    return forged


def _other_question(query: Query) -> dns.message.Message:
    other = dns.message.make_query("other.test", query.question[0].rdtype, id=query.id)
    assert isinstance(other, Query)
    return reply(other, "other.test 60 IN A 10.6.6.6")


def _no_answer(query: Query) -> dns.message.Message:
    echo = dns.message.make_query("app.test", query.question[0].rdtype, id=query.id)
    echo.flags &= ~dns.flags.QR
    return echo


def _pointer_to_itself(query: Query) -> bytes:
    header = query.id.to_bytes(2) + b"\x81\x80" + b"\0\1\0\1\0\0\0\0"
    return header + b"\xc0\x0c" + b"\0\1\0\1" + b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\x0a\6\6\6"


@pytest.mark.parametrize(
    "forge",
    [
        _other_id,
        _other_question,
        _no_answer,
        _pointer_to_itself,
        lambda _query: b"",
        lambda _query: b"\xff" * 500,
        lambda query: reply(query, A).to_wire()[:-3],
    ],
    ids=["id", "question", "query", "pointer", "empty", "junk", "cut"],
)
async def test_what_answers_no_question_of_ours_is_passed_over(
    forge: Callable[[Query], dns.message.Message | bytes],
) -> None:
    def script(query: Query, _tcp: bool) -> Sent:
        return [forge(query), reply(query, A)]

    assert told(await ask(script)) == ("complete", {"10.0.0.1"})


async def test_nothing_but_junk_is_a_failure() -> None:
    answer = await ask(lambda _query, _tcp: [os.urandom(40), b"", b"\0"], timeout=0.5)
    assert told(answer) == ("failed", set())


class TestAliases:
    async def test_a_loop_is_a_failure(self) -> None:
        def script(query: Query, _tcp: bool) -> Sent:
            return [reply(query, "app.test 60 IN CNAME b.test", "b.test 60 IN CNAME app.test")]

        assert told(await ask(script)) == ("failed", set())

    async def test_one_that_the_server_leaves_to_us_is_followed(self) -> None:
        def script(query: Query, _tcp: bool) -> Sent:
            if query.question[0].name.to_text() == "app.test.":
                return [reply(query, "app.test 60 IN CNAME b.test")]
            return [reply(query, "b.test 60 IN A 10.0.0.1")]

        assert told(await ask(script)) == ("complete", {"10.0.0.1"})

    async def test_endless_ones_are_a_failure(self) -> None:
        def script(query: Query, _tcp: bool) -> Sent:
            name = query.question[0].name.to_text(omit_final_dot=True)
            return [reply(query, f"{name} 60 IN CNAME x{name}")]

        answer = await ask(script)
        assert told(answer) == ("failed", set())
        assert "aliases in a row" in complaint(answer)

    async def test_one_without_records_at_its_end_is_complete(self) -> None:
        def script(query: Query, _tcp: bool) -> Sent:
            assert query.question[0].name.to_text() == "app.test."
            return [reply(query, "app.test 60 IN CNAME b.test", authority=[SOA])]

        assert told(await ask(script)) == ("complete", set())


async def test_a_referral_is_no_answer() -> None:
    def script(query: Query, _tcp: bool) -> Sent:
        return [reply(query, authority=["test 60 IN NS elsewhere.test"])]

    assert told(await ask(script)) == ("failed", set())


class TestTruncation:
    @staticmethod
    def script(query: Query, tcp: bool) -> Sent:
        whole = reply(query, *[f"app.test 60 IN A 10.0.0.{index}" for index in range(1, 101)])
        if not tcp:
            whole.flags |= dns.flags.TC
            whole.answer.clear()
        return [whole]

    async def test_the_whole_is_asked_for_over_tcp(self) -> None:
        answer = await ask(self.script)
        assert answer.kind == "complete"
        assert len(answer.nodes) == 100

    async def test_the_part_alone_is_never_taken_for_the_whole(self) -> None:
        answer = await ask(self.script, listening=False, timeout=1)
        assert answer.kind == "failed"


async def test_a_wall_clock_that_jumps_harms_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    jump = 0.0
    real = time.time

    def script(query: Query, _tcp: bool) -> Sent:
        nonlocal jump
        jump = 86_400
        return [reply(query, A)]

    monkeypatch.setattr(time, "time", lambda: real() + jump)
    assert told(await ask(script)) == ("complete", {"10.0.0.1"})
