"""Connection strings of the `postgres` strategy: what they name, and what is kept to ourselves."""

from __future__ import annotations

import os
import traceback

import psycopg
import pytest
import trio

from barnacle_trio import ConfigurationError
from barnacle_trio.strategies import postgres
from barnacle_trio.strategies._postgres_dsn import conninfo, parse_dsn, resolve


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)


def servers(dsn: str) -> list[tuple[str | None, str | None, str | None]]:
    return [
        (target.get("host"), target.get("hostaddr"), target.get("port"))
        for target in parse_dsn(dsn).targets()
    ]


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("host=a", [("a", None, "5432")]),
        ("postgresql://u:p@a,b:5433/db", [("a", None, None), ("b", None, "5433")]),
        ("host=a,b port=1,2", [("a", None, "1"), ("b", None, "2")]),
        ("host=a,b port=7", [("a", None, "7"), ("b", None, "7")]),
        ("hostaddr=10.0.0.1,::1", [(None, "10.0.0.1", "5432"), (None, "::1", "5432")]),
        ("host=a,b hostaddr=10.0.0.1,", [("a", "10.0.0.1", "5432"), ("b", None, "5432")]),
        ("host=/run/postgresql", [("/run/postgresql", None, "5432")]),
        ("postgresql://[fdaa::3]:5433/db", [("fdaa::3", None, "5433")]),
        ("service=mine", [(None, None, None)]),
        ("host=@abstract", [("@abstract", None, "5432")]),
        ("postgresql://u:p@@abstract/db", [("@abstract", None, "5432")]),
        ("postgresql://@/db", [(None, None, "5432")]),
        ("postgresql://u:p@%2Frun%2Fpostgresql:5433/db", [("/run/postgresql", None, "5433")]),
        ("postgresql:///db?host=/run/postgresql", [("/run/postgresql", None, "5432")]),
        ("postgres://a:1,[::1]:2,c/db", [("a", None, "1"), ("::1", None, "2"), ("c", None, None)]),
        ("postgresql://a:,b:/db", [("a", None, None), ("b", None, None)]),
        ("postgresql://a?host=b&user=me%40c", [("b", None, "5432")]),
        ("postgresql://a/db?user=me@elsewhere", [("a", None, "5432")]),
        ("postgresql://u:p:?#[p%2F%40@a:1/db", [("a", None, "1")]),
        ("postgresql://", [(None, None, "5432")]),
    ],
)
def test_every_server_is_tried_in_order(
    dsn: str, expected: list[tuple[str | None, str | None, str | None]]
) -> None:
    assert servers(dsn) == expected


def test_what_is_left_out_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "a,b")
    monkeypatch.setenv("PGPORT", "5433")
    assert servers("") == [("a", None, "5433"), ("b", None, "5433")]
    assert servers("host=c") == [("c", None, "5433")]


def test_several_are_shuffled_where_that_is_asked_for() -> None:
    hosts = ",".join(f"h{number}" for number in range(20))
    orders = {tuple(servers(f"host={hosts} load_balance_hosts=random")) for _ in range(5)}
    assert len(orders) > 1
    assert len({frozenset(order) for order in orders}) == 1


@pytest.mark.parametrize(
    ("dsn", "seconds"),
    [("", 5), ("connect_timeout=0", 5), ("connect_timeout=1", 2), ("connect_timeout=9", 9)],
)
def test_an_address_has_so_long_to_answer(dsn: str, seconds: float) -> None:
    assert parse_dsn(dsn).connect_within == seconds


@pytest.mark.parametrize("dsn", ["host=a,b port=1,2,3", "host=a,b hostaddr=10.0.0.1"])
def test_as_many_ports_as_hosts(dsn: str) -> None:
    with pytest.raises(ConfigurationError, match="names 2 servers, but"):
        parse_dsn(dsn)


@pytest.mark.parametrize(
    ("path", "database"),
    [("a%40b", "a@b"), ("a/b:c", "a/b:c"), ("a#b", "a#b"), ("a%3Fb?sslmode=disable", "a?b")],
)
def test_a_database_may_have_an_odd_name(path: str, database: str) -> None:
    assert parse_dsn(f"postgresql://me:sesame@h/{path}").shown == f"host=h dbname={database}"


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://me:sesame%zz@h/db",  # libpq's own complaint quotes this
        "postgresql://me:sesame%f7@h/db",
        "host=h sesame=1",
        "host=h password='sesame",
        "sesame",
        "host=h\0sesame",
        "postgresql://me:open@sesame@h/db",  # a password with an @, which libpq takes for a host
        # Where the user and the password end, libpq has its own opinion.
        "postgresql://me:sesame/open@h/db",
        "postgresql://me:open/sesame@h/db",
        "postgres://me:op@en/sesame@h/db",
        "postgresql://me:1/sesame@h/db",
        "postgresql://me:1/2/sesame@h:5432/db?sslmode=disable",
        "postgresql://sesame/me:open@h/db",
        "postgresql://me:sesame",
        "postgresql://me:sesame/open",
        "postgresql://me:1,sesame:2/open@h/db",
        "postgresql://me:open@1:sesame@h/db",
        "postgresql://me@work:sesame@h/db",
        "postgresql://me:@sesame@h/db",
        "postgresql://me:open@sesame,@h/db",
        "postgresql://me:open@[sesame]/2@h/db",
        "postgresql://me:open@[a?b]/sesame@h/db",
        "postgresql://me:op?en/sesame@h/db",
        "postgresql://me:op#en/sesame@h/db",
        "postgresql://me:1#en/sesame@h/db",
        "postgresql://h?user=me&password=open@sesame",
        "postgresql://h:5432?password=open@sesame/db",
        "postgresql://?password=open@sesame",
        "postgresql://h/db?host=open@sesame",
        "dbname=postgresql://me:sesame@h/db",
        b"postgresql://me:sesame@h/db",
        None,
    ],
)
def test_what_is_no_connection_string_is_not_quoted(dsn: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        postgres(dsn)
    told = "".join(traceback.format_exception(caught.value))
    assert "sesame" not in told.replace(repr(dsn), "").partition("dsn of postgres()")[2]
    assert caught.value.__context__ is None


@pytest.mark.parametrize("password", ["se/same", "7/same", "se@same", "7@8/same", "s?a=b"])
def test_what_to_write_in_a_url_is_told(password: str) -> None:
    with pytest.raises(ConfigurationError, match=r"%2F for /.*%3F for .*%40 for @"):
        postgres(f"postgresql://me:{password}@h/db")
    written = password.replace("/", "%2F").replace("?", "%3F").replace("@", "%40")
    dsn = parse_dsn(f"postgresql://me:{written}@h/db")
    assert (dsn.parameters["password"], dsn.shown) == (password, "host=h dbname=db")


def test_the_password_is_not_shown() -> None:
    dsn = "postgresql://me:sesame@db.internal:5433/my_app?sslpassword=sesame"
    strategy = postgres(dsn, match=["a", "b"])
    assert repr(strategy) == (
        "postgres('host=db.internal port=5433 dbname=my_app', channel='barnacle', match=('a', 'b'))"
    )
    assert "sesame" not in repr(parse_dsn(dsn))


def test_what_libpq_is_given_is_what_was_meant() -> None:
    given = {"host": "a", "password": r"it's a \ 'pass word'", "dbname": "", "user": "münchen"}
    assert psycopg.conninfo.conninfo_to_dict(conninfo(given).decode()) == given


async def test_names_are_looked_up_and_addresses_are_not() -> None:
    assert await resolve({"host": "/run"}) == [{"host": "/run"}]
    assert await resolve({"host": "@abstract"}) == [{"host": "@abstract"}]
    assert await resolve({}) == [{}]
    known = {"host": "db.internal", "hostaddr": "10.0.0.1"}
    assert await resolve(known) == [known]
    assert {"host": "127.0.0.1", "hostaddr": "127.0.0.1"} in await resolve({"host": "127.0.0.1"})


async def test_every_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(_host: str, _port: object, **_more: object) -> list[tuple[object, ...]]:
        await trio.lowlevel.checkpoint()
        found = ["fdaa::3", "10.0.0.1", "fdaa::3"]
        return [(0, 0, 0, "", (address, 0)) for address in found]

    monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)
    tried = await resolve({"host": "db.internal"})
    assert [each["hostaddr"] for each in tried] == ["fdaa::3", "10.0.0.1"]


@pytest.mark.parametrize("host", ["x" * 64 + ".test", "db.invalid"])
async def test_a_name_that_nobody_knows_is_an_os_error(host: str) -> None:
    with pytest.raises(OSError, match=r"."), trio.fail_after(20):
        await resolve({"host": host})
